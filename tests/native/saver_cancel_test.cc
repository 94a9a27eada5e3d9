// The cancel of a save takes effect at once, also on a hanging disk. The caller's memory is
// released; memory of a write in flight is freed when it returns.
#include <dirent.h>
#include <doctest/doctest.h>

#include <thread>

#include "saving.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::between;
using testing::engines_here;
using testing::first_difference;
using testing::InjectedFaults;
using testing::kPatience;
using testing::on_every_engine_and_way;
using testing::Random;
using testing::SampleOrigins;
using testing::save_options;
using testing::Way;
using testing::ways_here;
using testing::WrittenFile;

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kStart = 4096;
constexpr std::uint64_t kBlock = 256 * kKiB;

// Far more than a cancel takes, for a busy machine. A write that never returns shows that the
// cancel does not wait for writes.
constexpr auto kAtOnce = 5000ms;

// Every block of them is gathered: a sanitizer that sees the freed memory catches reads of lanes,
// not reads of the kernel.
SampleOrigins gathered_origins(std::uint64_t nbytes = 4 * kMiB) {
  SampleOrigins origins(kStart);
  origins.add_swapped(nbytes / 4, 4);
  return origins;
}

std::size_t threads_of_this_process() {
  const std::unique_ptr<DIR, int (*)(DIR*)> tasks(opendir("/proc/self/task"), &closedir);
  REQUIRE(tasks != nullptr);
  std::size_t count = 0;
  while (readdir(tasks.get()) != nullptr) ++count;
  return count;
}

template <typename Condition>
bool becomes_true(Condition&& condition) {
  const auto end = Clock::now() + kPatience;
  while (!condition() && Clock::now() < end) std::this_thread::sleep_for(1ms);
  return condition();
}

// All is done but the one block that a fault holds back.
bool gets_stuck(SaveJob& job) {
  return becomes_true([&] { return job.bytes_done() + kBlock >= job.bytes_total(); }) &&
         !job.wait_for(50ms);
}

TEST_CASE(
    "a save on a disk that hangs is cancelled at once; its memory is abandoned until the write "
    "returns") {
  on_every_engine_and_way([](EnginePreference engine, Way way) {
    REQUIRE(abandoned_bytes() == 0);
    const std::size_t threads = threads_of_this_process();
    const WrittenFile file;
    auto origins = std::make_unique<SampleOrigins>(gathered_origins());
    const InjectedFaults faults({{2, FaultKind::never, 0}});
    auto job = SaveJob::make(file.target(), origins->origins(), save_options(engine, kBlock, 4));
    if (way.copied) testing::run_leg(*job, Leg::copied, 0, job->block_count());
    job->start(way.leg, 0, job->block_count());
    REQUIRE(gets_stuck(*job));
    CHECK_FALSE(job->wait_until_released(0ms));
    const auto begin = Clock::now();
    job->cancel();
    CHECK(Clock::now() - begin < kAtOnce);
    CHECK(job->wait_until_released(kAtOnce));
    origins.reset();  // no thread reads it any more
    CHECK(becomes_true([] { return abandoned_bytes() >= kBlock; }));
    CHECK((abandoned_bytes() >= 4 * kMiB) == way.copied);
    CHECK_FALSE(job->wait_for(50ms));
    CHECK_THROWS_AS(job->start(way.leg, 0, 1), std::logic_error);
    release_held_completions();
    CHECK(job->wait_for(kPatience));
    CHECK(abandoned_bytes() == 0);
    CHECK_FALSE(job->has_failed());
    job.reset();
    CHECK(becomes_true([&] { return threads_of_this_process() <= threads; }));
  });
}

TEST_CASE("a save that hangs and is not cancelled is done in the end, and right") {
  on_every_engine_and_way([](EnginePreference engine, Way way) {
    const WrittenFile file;
    const auto origins = gathered_origins();
    const InjectedFaults faults({{5, FaultKind::never, 0}});
    const auto job =
        SaveJob::make(file.target(), origins.origins(), save_options(engine, kBlock, 4));
    if (way.copied) testing::run_leg(*job, Leg::copied, 0, job->block_count());
    job->start(way.leg, 0, job->block_count());
    REQUIRE(gets_stuck(*job));
    CHECK_THROWS_AS(job->start(way.leg, 0, 1), std::logic_error);  // one leg at a time
    release_held_completions();
    REQUIRE(job->wait_for(kPatience));
    CHECK(job->wait_until_released(0ms));
    CHECK(first_difference(*job, file, origins) == "");
  });
}

TEST_CASE("a failure beside a write that hangs is known before that write returns") {
  on_every_engine_and_way([](EnginePreference engine, Way way) {
    const WrittenFile file;
    const auto origins = gathered_origins();
    const InjectedFaults faults({{0, FaultKind::never, 0}, {3, FaultKind::error, ENOSPC}});
    const auto job =
        SaveJob::make(file.target(), origins.origins(), save_options(engine, kBlock, 4));
    if (way.copied) testing::run_leg(*job, Leg::copied, 0, job->block_count());
    job->start(way.leg, 0, job->block_count());
    REQUIRE(becomes_true([&] { return job->has_failed(); }));
    CHECK(job->outcome().failure()->error == ENOSPC);
    CHECK_FALSE(job->wait_for(50ms));
    job->cancel();
    CHECK(job->wait_until_released(kAtOnce));
    CHECK(becomes_true([] { return abandoned_bytes() > 0; }));
    release_held_completions();
    CHECK(job->wait_for(kPatience));
    CHECK(abandoned_bytes() == 0);
  });
}

TEST_CASE("a lane that hangs abandons the block that is out, and frees the others") {
  for (const EnginePreference engine : engines_here()) {
    const WrittenFile file;
    const auto origins = gathered_origins();
    const InjectedFaults faults({{6, FaultKind::never, 0}});
    const auto job =
        SaveJob::make(file.target(), origins.origins(), save_options(engine, kBlock, 4, 1));
    const auto memory = [] {
      std::uint64_t pages = 0;
      if (std::FILE* statm = std::fopen("/proc/self/statm", "r")) {
        unsigned long all = 0;
        if (std::fscanf(statm, "%lu", &all) == 1) pages = all;
        std::fclose(statm);
      }
      return pages * 4096;
    };
    job->start(Leg::buffered, 0, job->block_count());
    REQUIRE(gets_stuck(*job));
    const std::uint64_t before = memory();
    job->cancel();
    CHECK(becomes_true(
        [&] { return abandoned_bytes() == kBlock && memory() + 3 * kBlock <= before; }));
    release_held_completions();
    REQUIRE(job->wait_for(kPatience));
    CHECK(abandoned_bytes() == 0);
  }
}

TEST_CASE("a save may be cancelled at any moment, and its tensors freed after their release") {
  const std::uint64_t seed = testing::random_seed();
  Random random(seed);
  INFO("FASTIO_TEST_SEED=", seed);
  const auto engines = engines_here();
  const auto ways = ways_here();
  for (int i = 0; i < testing::random_cases(60); ++i) {
    const WrittenFile file;
    auto origins = std::make_unique<SampleOrigins>(gathered_origins(2 * kMiB));
    SaveOptions options =
        save_options(engines[static_cast<std::size_t>(i) % engines.size()], 64 * kKiB, 4, 3);
    options.chunk_bytes = between(random, 0, 1) * 64 * kKiB;
    const Way way = ways[between(random, 0, ways.size() - 1)];
    const auto job = SaveJob::make(file.target(), origins->origins(), options);
    if (way.copied && between(random, 0, 1) != 0)
      testing::run_leg(*job, Leg::copied, 0, job->block_count());
    job->start(way.leg, 0, job->block_count());
    std::this_thread::sleep_for(std::chrono::microseconds(between(random, 0, 4000)));
    const auto begin = Clock::now();
    job->cancel();
    REQUIRE(job->wait_until_released(kAtOnce));
    CHECK(Clock::now() - begin < kAtOnce);
    origins->overwrite_memory();
    origins.reset();
    REQUIRE(job->wait_for(kPatience));
    CHECK(abandoned_bytes() == 0);
    CHECK_FALSE(job->has_failed());
  }
}

TEST_CASE("a copying leg may be cancelled, too") {
  const WrittenFile file;
  SampleOrigins origins(kStart);
  origins.add_strided(2000, 2000, 2);
  for (int pause_us = 0; pause_us < 4000; pause_us += 250) {
    const auto job = SaveJob::make(file.target(), origins.origins(), SaveOptions{});
    job->start(Leg::copied, 0, job->block_count());
    std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
    job->cancel();
    CHECK(job->wait_until_released(kAtOnce));
    REQUIRE(job->wait_for(kPatience));
    CHECK(abandoned_bytes() == 0);
    CHECK_THROWS_AS(job->start(Leg::buffered, 0, job->block_count()), std::logic_error);
  }
}

TEST_CASE(
    "a save may be cancelled by several threads at once, before its start, and after its end") {
  const WrittenFile file;
  const auto origins = gathered_origins();
  for (const bool started : {false, true}) {
    const auto job = SaveJob::make(file.target(), origins.origins(), SaveOptions{});
    if (started) job->start(Leg::buffered, 0, job->block_count());
    std::vector<std::thread> threads;
    threads.reserve(4);
    for (int i = 0; i < 4; ++i) threads.emplace_back([&] { job->cancel(); });
    for (std::thread& thread : threads) thread.join();
    REQUIRE(job->wait_for(kPatience));
    job->cancel();
    CHECK(job->wait_until_released(0ms));
    CHECK(abandoned_bytes() == 0);
    CHECK_THROWS_AS(job->start(Leg::buffered, 0, job->block_count()), std::logic_error);
  }
}

TEST_CASE("a save that is not waited for ends by itself, and frees everything") {
  for (const EnginePreference engine : engines_here()) {
    const WrittenFile file;
    const auto origins = gathered_origins();
    auto job = SaveJob::make(file.target(), origins.origins(), save_options(engine, kBlock));
    job->start(Leg::buffered, 0, job->block_count());
    const std::weak_ptr<TargetFile> alive = job->file();
    job.reset();
    CHECK(becomes_true([&] { return alive.expired(); }));
    const auto bytes = file.bytes();
    REQUIRE(bytes.size() == origins.end());
    CHECK(std::equal(origins.expected().begin(), origins.expected().end(),
                     bytes.begin() + static_cast<std::ptrdiff_t>(kStart)));
  }
}

}  // namespace
}  // namespace fastio
