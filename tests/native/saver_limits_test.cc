// Requests that are refused before any I/O, and the memory limit of a save.
#include <dirent.h>
#include <doctest/doctest.h>

#include <stdexcept>
#include <thread>

#include "saving.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::engines_here;
using testing::first_difference;
using testing::InjectedFaults;
using testing::kPatience;
using testing::run_leg;
using testing::SampleOrigins;
using testing::save_options;
using testing::WrittenFile;

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;

SaveOptions limited(EnginePreference engine, std::uint64_t limit_bytes) {
  SaveOptions options = save_options(engine, 4 * kMiB);
  options.memory_limit_bytes = limit_bytes;
  return options;
}

TEST_CASE("options that are none are refused") {
  const WrittenFile file;
  SampleOrigins origins(0);
  origins.add_unaligned(100);
  const auto refused = [&](auto&& change) {
    SaveOptions options;
    change(options);
    CHECK_THROWS_AS(static_cast<void>(SaveJob::make(file.target(), origins.origins(), options)),
                    std::invalid_argument);
  };
  refused([](SaveOptions& options) { options.queue_depth = 0; });
  refused([](SaveOptions& options) { options.queue_depth = 4097; });
  refused([](SaveOptions& options) { options.lanes = 0; });
  refused([](SaveOptions& options) { options.lanes = 1025; });
  refused([](SaveOptions& options) { options.block_bytes = 0; });
  refused([](SaveOptions& options) { options.block_bytes = 1024 * kMiB + 1; });
  refused([](SaveOptions& options) { options.chunk_bytes = 1; });
  refused([](SaveOptions& options) { options.chunk_bytes = 96 * kKiB; });
  refused([](SaveOptions& options) { options.chunk_bytes = 1024 * kMiB + 64 * kKiB; });
}

TEST_CASE("origins that do not follow each other, or cut a value, are refused") {
  const WrittenFile file;
  std::vector<std::byte> memory(64);
  const auto refused = [&](std::vector<Extent> extents, std::vector<std::uint8_t> swapped,
                           std::size_t memories) {
    Origins origins;
    origins.extents = std::move(extents);
    origins.swapped = std::move(swapped);
    for (std::size_t i = 0; i < memories; ++i)
      origins.memories.emplace_back(memory.data(), 8, std::vector<Axis>{});
    CHECK_THROWS_AS(static_cast<void>(SaveJob::make(file.target(), origins, {})),
                    std::invalid_argument);
    CHECK_THROWS_AS(gather(origins, memory), std::invalid_argument);
  };
  refused({{0, 8}, {8, 16}}, {1, 1}, 1);
  refused({{0, 8}}, {}, 1);
  refused({{8, 0}}, {1}, 1);
  refused({{0, 8}, {9, 17}}, {1, 1}, 2);  // a hole
  refused({{0, 8}, {7, 15}}, {1, 1}, 2);  // twice
  refused({{8, 16}, {0, 8}}, {1, 1}, 2);  // backwards
  refused({{0, 8}}, {0}, 1);
  refused({{0, 8}}, {3}, 1);
  refused({{0, 32}}, {32}, 1);            // no value is that large
  refused({{0, 6}}, {4}, 1);              // half a value
  refused({{0, 2}, {2, 10}}, {1, 4}, 2);  // a block could end inside a value
}

TEST_CASE("legs over blocks that are not there, or copied twice or in part, are refused") {
  const WrittenFile file;
  SampleOrigins origins(0);
  origins.add_unaligned(4 * kMiB);
  const auto job =
      SaveJob::make(file.target(), origins.origins(), save_options(EnginePreference::pread, kMiB));
  REQUIRE(job->block_count() == 4);
  CHECK_THROWS_AS(job->start(Leg::buffered, 0, 5), std::invalid_argument);
  CHECK_THROWS_AS(job->start(Leg::buffered, 3, 2), std::invalid_argument);
  CHECK_THROWS_AS(job->start(Leg::copied, 0, 3), std::invalid_argument);
  CHECK_THROWS_AS(job->start(Leg::copied, 1, 4), std::invalid_argument);
  run_leg(*job, Leg::copied, 0, 4);
  CHECK_THROWS_AS(job->start(Leg::copied, 0, 4), std::invalid_argument);
  run_leg(*job, Leg::buffered, 0, 4);
  CHECK(first_difference(*job, file, origins) == "");
}

TEST_CASE("data that begins off the alignment goes through the page cache, and it is told") {
  const WrittenFile file;
  if (!file.target()->direct_access().possible) {
    MESSAGE("not tested: ", file.target()->direct_access().reason);
    return;
  }
  SampleOrigins origins(4096 + 512);
  origins.add_unaligned(kMiB);
  const auto job = SaveJob::make(file.target(), origins.origins(), SaveOptions{});
  run_leg(*job, Leg::direct, 0, job->block_count());
  CHECK(job->counters().bytes_direct == 0);
  REQUIRE(job->outcome().fallbacks().size() == 1);
  CHECK(job->outcome().fallbacks()[0].find("multiples of 4096") != std::string::npos);
  CHECK(first_difference(*job, file, origins) == "");
}

TEST_CASE("a limit below one block is refused, one of a block is enough") {
  const WrittenFile file;
  SampleOrigins origins(0);
  origins.add_swapped(kMiB, 2);
  for (const EnginePreference engine : engines_here()) {
    for (const std::uint64_t chunk_bytes : {std::uint64_t{0}, 64 * kKiB, kMiB}) {
      const std::uint64_t unit = chunk_bytes != 0 ? chunk_bytes : 64 * kKiB;
      SaveOptions options = limited(engine, unit - 1);
      options.chunk_bytes = chunk_bytes;
      try {
        static_cast<void>(SaveJob::make(file.target(), origins.origins(), options));
        FAIL("the limit was passed");
      } catch (const MemoryLimitExceeded& error) {
        CHECK(error.asked_bytes == unit);
        CHECK(error.limit_bytes == unit - 1);
        CHECK(error.held_bytes == 0);
      }
      options.memory_limit_bytes = unit;
      const auto job = SaveJob::make(file.target(), origins.origins(), options);
      CHECK(job->block_bytes() == unit);
      run_leg(*job, Leg::buffered, 0, job->block_count());
      CHECK(first_difference(*job, file, origins, chunk_bytes) == "");
    }
  }
}

TEST_CASE("a copy over the limit is refused before anything, and the rest may go on without") {
  const WrittenFile file;
  SampleOrigins origins(0);
  origins.add_swapped(kMiB, 2);
  const auto job = SaveJob::make(file.target(), origins.origins(),
                                 limited(EnginePreference::pread, 2 * kMiB - 1));
  try {
    job->start(Leg::copied, 0, job->block_count());
    FAIL("the limit was passed");
  } catch (const MemoryLimitExceeded& error) {
    CHECK(error.asked_bytes == 2 * kMiB);
    CHECK(error.limit_bytes == 2 * kMiB - 1);
  }
  CHECK(job->wait_for(0ms));
  CHECK(job->wait_until_released(0ms));
  run_leg(*job, Leg::buffered, 0, job->block_count());
  CHECK(first_difference(*job, file, origins) == "");
}

TEST_CASE("a save has eight lanes at most") {
  for (const EnginePreference engine : engines_here()) {
    CAPTURE(testing::name_of(engine));
    for (const unsigned asked : {2U, 8U, 9U, 64U}) {
      CAPTURE(asked);
      const WrittenFile file;
      SampleOrigins origins(0);
      origins.add_swapped(4 * kMiB, 2);
      SaveOptions options = limited(engine, 48 * kMiB);
      options.block_bytes = 256 * kKiB;
      options.lanes = asked;
      const auto job = SaveJob::make(file.target(), origins.origins(), options);
      REQUIRE(job->block_count() > 8);
      run_leg(*job, Leg::buffered, 0, job->block_count());
      CHECK(job->report().lanes == std::min(asked, 8U));
      CHECK(first_difference(*job, file, origins) == "");
    }
  }
}

TEST_CASE("blocks in flight never hold more memory than the limit") {
  for (const EnginePreference engine : engines_here()) {
    for (const std::uint64_t limit : {64 * kKiB, 200 * kKiB, kMiB, 3 * kMiB + 12'345}) {
      CAPTURE(testing::name_of(engine));
      CAPTURE(limit);
      std::vector<Fault> faults;  // no write completes: every permitted block is in flight
      for (std::uint64_t at = 0; at < 200; ++at) faults.push_back({at, FaultKind::never, 0});
      const InjectedFaults injected(std::move(faults));
      const WrittenFile file;
      SampleOrigins origins(0);
      origins.add_swapped(4 * kMiB, 2);
      SaveOptions options = limited(engine, limit);
      options.lanes = 4;
      const auto job = SaveJob::make(file.target(), origins.origins(), options);
      job->start(Leg::buffered, 0, job->block_count());
      const std::uint64_t lanes = job->report().lanes;
      const std::uint64_t depth = std::min<std::uint64_t>(8, limit / (lanes * job->block_bytes()));
      const std::uint64_t in_flight = lanes * depth * job->block_bytes();
      CHECK(in_flight <= limit);
      const auto end = Clock::now() + kPatience;
      while (job->counters().bytes_gathered < in_flight && Clock::now() < end)
        std::this_thread::sleep_for(1ms);
      CHECK_FALSE(job->wait_for(50ms));
      CHECK(job->counters().bytes_gathered == in_flight);
      job->cancel();
      while (abandoned_bytes() < in_flight && Clock::now() < end) std::this_thread::sleep_for(1ms);
      CHECK(abandoned_bytes() == in_flight);
      // Abandoned memory counts against the next limit.
      CHECK_THROWS_AS(static_cast<void>(SaveJob::make(file.target(), origins.origins(),
                                                      limited(engine, in_flight + 64 * kKiB - 1))),
                      MemoryLimitExceeded);
      release_held_completions();
      REQUIRE(job->wait_for(kPatience));
      CHECK(abandoned_bytes() == 0);
    }
  }
}

}  // namespace
}  // namespace fastio
