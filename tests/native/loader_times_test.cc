// The account of a lane's time: its parts sum to at most the whole, and each wait is in the part of
// its name.
#include "loader_times.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <thread>

#include "device_filling.h"
#include "loader.h"
#include "loading.h"
#include "sample_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::DeviceFilling;
using testing::Devices;
using testing::engines_here;
using testing::kPatience;
using testing::Place;
using testing::SampleFile;
using testing::soon;
using Duration = LaneTimes::Clock::duration;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kBlock = kMiB / 4;
constexpr Duration kHeld = 20ms;  // the minimum of a wait that a test causes

LoadOptions small_blocks(EnginePreference engine) {
  LoadOptions options;
  options.engine = engine;
  options.block_bytes = kBlock;
  options.queue_depth = 3;
  return options;
}

ShardRequest whole(const SampleFile& sample) {
  return {{File::open(sample.path())}, {{0, sample.bytes().size()}}, sample.table(0, 65536)};
}

// The sum over the lanes of a job; each was checked by itself.
LaneTimes sum_of(const LoadJob& job) {
  REQUIRE(job.report().lane_times.size() == job.report().lanes);
  LaneTimes sum;
  for (const LaneTimes& lane : job.report().lane_times) {
    const std::array parts = {lane.submit,     lane.read_wait, lane.verify,   lane.place,
                              lane.copy_queue, lane.copy_wait, lane.room_wait};
    Duration accounted{};
    for (const Duration part : parts) {
      CHECK(part >= Duration::zero());
      accounted += part;
    }
    CHECK(accounted <= lane.total);
    sum.submit += lane.submit;
    sum.read_wait += lane.read_wait;
    sum.verify += lane.verify;
    sum.place += lane.place;
    sum.copy_queue += lane.copy_queue;
    sum.copy_wait += lane.copy_wait;
    sum.room_wait += lane.room_wait;
    sum.total += lane.total;
    sum.blocks += lane.blocks;
    sum.nbytes += lane.nbytes;
  }
  return sum;
}

std::uint64_t bytes_of(const LoadCounters& counters) {
  return counters.bytes_direct + counters.bytes_buffered + counters.bytes_mapped;
}

void check_whole(const LoadJob& job) {
  REQUIRE_FALSE(job.has_failed());
  const LaneTimes sum = sum_of(job);
  CHECK(sum.blocks == job.layout().plans[0].blocks.size());
  CHECK(sum.nbytes == bytes_of(job.counters()));
  CHECK(sum.nbytes == job.bytes_total());
  CHECK(sum.verify > Duration::zero());
  CHECK(sum.read_wait > Duration::zero());
}

TEST_CASE(
    "blocks and bytes of the lanes are those of the job, and no part is more than the whole") {
  const SampleFile sample(Place::disk, 6 * kMiB + 4321);
  for (const EnginePreference engine : engines_here()) {
    for (const CacheMode cache : {CacheMode::bypass, CacheMode::keep}) {
      for (const bool persistent : {false, true}) {
        CAPTURE(testing::name_of(engine));
        CAPTURE(persistent);
        LoadOptions options = small_blocks(engine);
        options.cache = cache;
        options.mapping = MappingMode::never;
        options.persistent = persistent;
        const auto job = testing::load_to_the_end({whole(sample)}, options);
        check_whole(*job);
        const LaneTimes sum = sum_of(*job);
        CHECK(sum.submit > Duration::zero());
        CHECK(sum.place + sum.copy_queue + sum.copy_wait == Duration::zero());
      }
    }
  }
}

TEST_CASE("a mapped file is not submitted, but brought in and verified") {
  const SampleFile sample(Place::memory, 6 * kMiB + 4321);
  const auto job =
      testing::load_to_the_end({whole(sample)}, small_blocks(EnginePreference::automatic));
  REQUIRE(job->layout().access(0).mode == ReadMode::mapped);
  check_whole(*job);
  CHECK(sum_of(*job).submit == Duration::zero());
}

TEST_CASE("a lane that waits for a read counts it as that") {
  const SampleFile sample(Place::disk, kMiB);
  for (const EnginePreference engine : engines_here()) {
    // Again if the lane was busy, or got no processor, during the wait.
    CHECK(soon([&] {
      const testing::InjectedFaults faults({{0, FaultKind::never, 0}});
      LoadOptions options = small_blocks(engine);
      options.cache = CacheMode::bypass;
      options.lanes = 1;
      const auto job = LoadJob::start({whole(sample)}, options);
      testing::wait_until_held();
      std::this_thread::sleep_for(kHeld);
      CHECK(job->report().lane_times.empty());  // it has not ended
      release_held_completions();
      REQUIRE(job->wait_for(kPatience));
      check_whole(*job);
      return sum_of(*job).read_wait >= kHeld / 2;
    }));
  }
}

TEST_CASE("a lane that waits for room in the window counts it as that") {
  const SampleFile sample(Place::disk, 2 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    // Again if the lane asked for room only after there was some.
    CHECK(soon([&] {
      LoadOptions options = small_blocks(engine);
      options.cache = CacheMode::bypass;
      options.lanes = 1;
      options.window_bytes = kMiB;
      ShardRequest request = whole(sample);
      request.extents = {{0, kMiB}, {kMiB, 2 * kMiB}};
      const auto job = LoadJob::start({std::move(request)}, options);
      REQUIRE(job->layout().plans[0].regions.size() == 2);
      REQUIRE(job->delivery().wait_for({0, 0}, kPatience));
      std::this_thread::sleep_for(kHeld);
      job->delivery().release({0, 0});
      REQUIRE(job->wait_for(kPatience));
      check_whole(*job);
      return sum_of(*job).room_wait >= kHeld / 2;
    }));
  }
}

TEST_CASE("a lane that waits for its copies counts it as that") {
  const Devices devices;
  const SampleFile sample(Place::disk, 2 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    CAPTURE(testing::name_of(engine));
    DeviceFilling filling;
    filling.add({0, kMiB}, 0);
    filling.add({kMiB, 2 * kMiB}, kHost, 1);
    LoadOptions options = devices.options(engine);
    options.lanes = 1;
    fake_cuda_hold_all(1);
    const int waits = fake_cuda_calls("cuEventSynchronize");
    const auto job = LoadJob::start({filling.request(sample, true)}, options);
    REQUIRE(soon([&] { return fake_cuda_calls("cuEventSynchronize") > waits; }));
    // The lane waits by now, until the test releases it.
    const auto seen = LaneTimes::Clock::now();
    std::this_thread::sleep_for(kHeld);
    const Duration held = LaneTimes::Clock::now() - seen;
    fake_cuda_hold_all(0);
    REQUIRE(job->wait_for(kPatience));
    CHECK(filling.difference(sample) == "");
    check_whole(*job);
    const LaneTimes sum = sum_of(*job);
    CHECK(sum.copy_wait >= held);
    CHECK(sum.copy_queue > Duration::zero());
    CHECK(sum.place > Duration::zero());
  }
}

TEST_CASE("a lane that waits for pinned memory counts it as that") {
  const Devices devices;
  const SampleFile sample(Place::disk, 2 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    CAPTURE(testing::name_of(engine));
    // Again if the lane asked for it only after its return.
    CHECK(soon([&] {
      DeviceFilling filling;
      filling.add({0, 2 * kMiB}, 0);
      LoadOptions options = devices.options(engine);
      options.lanes = 1;
      options.pinned_limit_bytes = kBlock;
      auto taken = PinnedLease::take(*devices.targets.front().device, kBlock, kBlock);
      REQUIRE(taken.has_value());
      const auto job = LoadJob::start({filling.request(sample, true)}, options);
      std::this_thread::sleep_for(kHeld);
      taken.reset();
      REQUIRE(job->wait_for(kPatience));
      CHECK(filling.difference(sample) == "");
      check_whole(*job);
      return sum_of(*job).room_wait >= kHeld / 2;
    }));
  }
}

TEST_CASE("a lane of a failed job has an account of its work, too") {
  const SampleFile sample(Place::disk, 4 * kMiB);
  sample.overwrite(kMiB + 7, std::byte{0x5a} ^ sample.bytes()[kMiB + 7]);
  for (const EnginePreference engine : engines_here()) {
    LoadOptions options = small_blocks(engine);
    options.cache = CacheMode::bypass;
    const auto job = testing::load_to_the_end({whole(sample)}, options);
    REQUIRE(job->outcome().damage().has_value());
    const LaneTimes sum = sum_of(*job);
    CHECK(sum.nbytes == bytes_of(job->counters()));
    CHECK(sum.blocks * kBlock == job->counters().bytes_done);
  }
}

}  // namespace
}  // namespace fastio
