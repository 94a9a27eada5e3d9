// A load that is consumed region by region: within its window, in any order, and stopped at any
// time.
#include <doctest/doctest.h>

#include <cstring>

#include "loader.h"
#include "loading.h"
#include "sample_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::between;
using testing::engines_here;
using testing::InjectedFaults;
using testing::kPatience;
using testing::Place;
using testing::Random;
using testing::SampleFile;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

LoadOptions in_window(EnginePreference engine, std::uint64_t window_bytes) {
  LoadOptions options;
  options.engine = engine;
  options.cache = CacheMode::bypass;
  options.mapping = MappingMode::never;
  options.block_bytes = kMiB / 4;
  options.queue_depth = 2;
  options.window_bytes = window_bytes;
  return options;
}

// Twenty-four extents of 512 KiB; a region holds as many as fit a quarter of the window.
ShardRequest sliced(const SampleFile& sample) {
  ShardRequest request{{File::open(sample.path())}, {}, sample.table(0, 65536)};
  for (std::uint64_t begin = 0; begin < sample.bytes().size(); begin += kMiB / 2) {
    request.extents.push_back({begin, begin + kMiB / 2});
  }
  return request;
}

bool is_right(const LoadJob& job, std::size_t r, const Region& region, const SampleFile& sample) {
  const PlannedRegion& planned = job.layout().plans[0].regions[r];
  for (std::size_t e = planned.first_extent; e < planned.last_extent; ++e) {
    const Extent& extent = job.layout().shards[0].extents[e];
    if (std::memcmp(region.at(extent.begin), sample.bytes().data() + extent.begin,
                    extent.end - extent.begin) != 0) {
      return false;
    }
  }
  return true;
}

TEST_CASE("regions come whole and right, and no more of them are read than the window holds") {
  const SampleFile sample(Place::disk, 12 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    CAPTURE(testing::name_of(engine));
    const auto job = LoadJob::start({sliced(sample)}, in_window(engine, 4 * kMiB));
    const std::size_t count = job->layout().plans[0].regions.size();
    REQUIRE(count == 12);
    for (std::size_t r = 0; r < count; ++r) {
      REQUIRE(job->delivery().wait_for({0, r}, kPatience));
      // At most r regions of 1 MiB have been released.
      CHECK(job->counters().bytes_done <= (r + 4) * kMiB);
      const auto region = job->delivery().take({0, r});
      REQUIRE(region != nullptr);
      CHECK(is_right(*job, r, *region, sample));
      CHECK(job->delivery().take({0, r}) == nullptr);
      if (r == 3) {  // the window is full: the lanes get no further
        CHECK_FALSE(job->delivery().wait_for({0, 4}, 50ms));
        for (std::size_t before = 0; before < 3; ++before) job->delivery().release({0, before});
      }
      if (r >= 3) job->delivery().release({0, r});
    }
    CHECK(job->wait_for(kPatience));
    CHECK(job->counters().chunks_verified() == 12 * 16);
  }
}

TEST_CASE("a region larger than the window comes alone") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    ShardRequest request{{File::open(sample.path())},
                         {{0, kMiB}, {kMiB, 7 * kMiB}, {7 * kMiB, 8 * kMiB}},
                         sample.table(0, 65536)};
    const auto job = LoadJob::start({std::move(request)}, in_window(engine, 2 * kMiB));
    REQUIRE(job->layout().plans[0].regions.size() == 3);
    REQUIRE(job->delivery().wait_for({0, 0}, kPatience));
    CHECK_FALSE(job->delivery().wait_for({0, 1}, 50ms));
    CHECK(job->counters().bytes_done == kMiB);
    for (std::size_t r = 0; r < 3; ++r) {
      REQUIRE(job->delivery().wait_for({0, r}, kPatience));
      const auto region = job->delivery().take({0, r});
      REQUIRE(region != nullptr);
      CHECK(is_right(*job, r, *region, sample));
      job->delivery().release({0, r});
    }
  }
}

TEST_CASE("regions released before their read are not read") {
  const SampleFile sample(Place::disk, 12 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    const auto job = LoadJob::start({sliced(sample)}, in_window(engine, 4 * kMiB));
    REQUIRE(job->delivery().wait_for({0, 3}, kPatience));
    // From the end on, so that no lane gets room for the next released region.
    for (std::size_t r = 11; r-- > 0;) job->delivery().release({0, r});
    REQUIRE(job->delivery().wait_for({0, 11}, kPatience));
    const auto region = job->delivery().take({0, 11});
    REQUIRE(region != nullptr);
    CHECK(is_right(*job, 11, *region, sample));
    CHECK(job->wait_for(kPatience));
    CHECK(job->counters().bytes_done <= 6 * kMiB);
    CHECK(job->delivery().take({0, 5}) == nullptr);
  }
}

TEST_CASE("damage ends the wait for later regions, and whole ones can still be taken") {
  const SampleFile sample(Place::disk, 12 * kMiB);
  sample.overwrite(5 * kMiB + 7, std::byte{0x5a} ^ sample.bytes()[5 * kMiB + 7]);
  for (const EnginePreference engine : engines_here()) {
    const auto job = LoadJob::start({sliced(sample)}, in_window(engine, 4 * kMiB));
    // The whole window is complete before there is room for the damaged block.
    for (std::size_t r = 0; r < 4; ++r) REQUIRE(job->delivery().wait_for({0, r}, kPatience));
    job->delivery().release({0, 0});
    job->delivery().release({0, 1});
    REQUIRE(job->delivery().wait_for({0, 5}, kPatience));
    CHECK(job->delivery().take({0, 5}) == nullptr);
    for (const std::size_t whole : {std::size_t{2}, std::size_t{3}}) {
      const auto region = job->delivery().take({0, whole});
      REQUIRE(region != nullptr);
      CHECK(is_right(*job, whole, *region, sample));
    }
    REQUIRE(job->outcome().damage().has_value());
    CHECK(job->outcome().damage()->chunk == 80);
    CHECK(job->wait_for(kPatience));
  }
}

TEST_CASE("a cancelled job ends every wait for it, and abandons memory with reads in flight") {
  const SampleFile sample(Place::disk, 12 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    const InjectedFaults faults({{5, FaultKind::never, 0}});  // a block of region 1
    LoadOptions options = in_window(engine, 4 * kMiB);
    options.lanes = 1;
    options.queue_depth = 1;
    const auto job = LoadJob::start({sliced(sample)}, options);
    testing::wait_until_held();
    CHECK_FALSE(job->delivery().wait_for({0, 1}, 0ms));
    job->cancel();
    CHECK(job->delivery().wait_for({0, 1}, 0ms));
    CHECK(job->delivery().take({0, 1}) == nullptr);
    CHECK(abandoned_bytes() > 0);
    release_held_completions();
    CHECK(job->wait_for(kPatience));
  }
  CHECK(abandoned_bytes() == 0);
}

TEST_CASE("a window smaller than a chunk is refused") {
  const SampleFile sample(Place::disk, kMiB);
  CHECK_THROWS_AS(static_cast<void>(LoadJob::start({sliced(sample)},
                                                   in_window(EnginePreference::automatic, 65535))),
                  MemoryLimitExceeded);
}

TEST_CASE("a file in the page cache is mapped region by region") {
  const SampleFile sample(Place::disk, 12 * kMiB);
  sample.warm();
  for (const bool verified : {true, false}) {
    LoadOptions options = in_window(EnginePreference::automatic, 4 * kMiB);
    options.cache = CacheMode::automatic;
    options.mapping = MappingMode::automatic;
    ShardRequest request = sliced(sample);
    if (!verified) request.table.reset();
    const auto job = LoadJob::start({std::move(request)}, options);
    for (std::size_t r = 0; r < job->layout().plans[0].regions.size(); ++r) {
      REQUIRE(job->delivery().wait_for({0, r}, kPatience));
      const auto region = job->delivery().take({0, r});
      REQUIRE(region != nullptr);
      CHECK(is_right(*job, r, *region, sample));
      job->delivery().release({0, r});
    }
  }
}

}  // namespace
}  // namespace fastio
