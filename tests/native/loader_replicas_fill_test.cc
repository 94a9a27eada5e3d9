// Replicas, read into memory of the caller. It is right if each chunk is sound in one of them, and
// otherwise keeps verified bytes only.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "filling.h"
#include "loader.h"
#include "loading.h"
#include "replicated_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::between;
using testing::check_nothing_unverified;
using testing::engines_here;
using testing::Filling;
using testing::InjectedFaults;
using testing::kPatience;
using testing::load_to_the_end;
using testing::Place;
using testing::Random;
using testing::random_filling;
using testing::ReplicatedFile;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kChunk = 64 * kKiB;

LoadOptions persistent(EnginePreference engine, CacheMode cache) {
  LoadOptions options;
  options.engine = engine;
  options.cache = cache;
  options.block_bytes = 256 * kKiB;
  options.queue_depth = 3;
  options.persistent = true;
  return options;
}

std::vector<Place> some_places(Random& random, std::uint64_t most) {
  std::vector<Place> places(between(random, 1, most), Place::disk);
  for (Place& place : places) {
    if (between(random, 0, 2) == 0) place = Place::memory;
  }
  return places;
}

TEST_CASE("places are filled from damaged replicas, staged and straight") {
  Random random(testing::random_seed());
  for (int i = 0; i < testing::random_cases(12); ++i) {
    CAPTURE(i);
    const ReplicatedFile file(some_places(random, 3), 3 * kMiB + between(random, 0, 9000), 0,
                              kChunk, between(random, 1, 1000));
    for (std::uint64_t chunk = 0; chunk + 1 < file.table().digests.size(); ++chunk) {
      const std::uint64_t sound_in = between(random, 0, file.size() - 1);
      for (std::size_t replica = 0; replica < file.size(); ++replica) {
        if (replica != sound_in && between(random, 0, 2) == 0) file.damage(replica, chunk);
      }
    }
    for (const EnginePreference engine : engines_here()) {
      for (const CacheMode cache : {CacheMode::bypass, CacheMode::keep, CacheMode::automatic}) {
        CAPTURE(testing::name_of(engine));
        Filling filling = random_filling(random, file.bytes().size());
        const auto job = load_to_the_end({filling.with_places(file.request(filling.extents))},
                                         persistent(engine, cache));
        const auto failure = job->outcome().failure();
        REQUIRE((failure ? failure->message() : "") == "");
        REQUIRE_FALSE(job->outcome().damage().has_value());
        CHECK(filling.is_right(file.bytes()));
        CHECK(filling.fences_stand());
        for (std::size_t e = 0; e < filling.extents.size(); ++e) CHECK(job->is_placed(0, e));
      }
    }
  }
}

TEST_CASE(
    "memory is read straight into where it suits every replica, or all are read by the cache") {
  const ReplicatedFile file({Place::disk, Place::memory}, 8 * kMiB, 0, kChunk);
  for (const std::uint64_t lead : {0U, 64U}) {
    for (const CacheMode cache : {CacheMode::bypass, CacheMode::keep}) {
      Filling filling;
      filling.extents = {{0, 8 * kMiB}};
      filling.targets.emplace_back(8 * kMiB, lead);
      const auto job = load_to_the_end({filling.with_places(file.request(filling.extents))},
                                       persistent(EnginePreference::automatic, cache));
      const bool all_buffered = job->layout().access(0, 0).mode == ReadMode::buffered &&
                                job->layout().access(0, 1).mode == ReadMode::buffered;
      CHECK(job->layout().plans[0].regions.size() == (lead == 0 || all_buffered ? 1 : 0));
      CHECK(filling.is_right(file.bytes()));
    }
  }
}

TEST_CASE("second tries into unaligned memory read through the page cache") {
  const ReplicatedFile file({Place::disk}, 2 * kMiB, 0, kChunk);
  for (const EnginePreference engine : engines_here()) {
    Filling filling;
    filling.extents = {{0, 2 * kMiB}};
    filling.targets.emplace_back(2 * kMiB, 64);
    LoadOptions options = persistent(engine, CacheMode::keep);
    options.lanes = 1;
    options.queue_depth = 1;
    const InjectedFaults faults({{1, FaultKind::flip, 3 * kChunk}});
    const auto job = load_to_the_end({filling.with_places(file.request(filling.extents))}, options);
    REQUIRE(job->layout().plans[0].regions.size() == 1);
    CHECK(job->counters().bytes_direct == 0);
    CHECK(job->counters().bytes_buffered == job->bytes_total() + kChunk);
    CHECK(job->outcome().fallbacks().empty());
    CHECK(filling.is_right(file.bytes()));
    // One failure does not condemn the mount.
    const auto again = File::open(file.replica(0).path())->direct_access();
    CHECK(again.reason.find("EINVAL") == std::string::npos);
  }
}

TEST_CASE("if no replica is left, memory keeps verified bytes only") {
  Random random(testing::random_seed());
  for (int i = 0; i < testing::random_cases(12); ++i) {
    const ReplicatedFile file(some_places(random, 3), 3 * kMiB, 0, kChunk,
                              between(random, 1, 1000));
    const std::uint64_t chunk = between(random, 0, file.table().digests.size() - 1);
    for (std::size_t replica = 0; replica < file.size(); ++replica) file.damage(replica, chunk);
    const Extent bad{chunk * kChunk, (chunk + 1) * kChunk};
    for (const EnginePreference engine : engines_here()) {
      Filling filling = random_filling(random, file.bytes().size());
      const bool asked = std::ranges::any_of(filling.extents, [&](const Extent& e) {
        return e.begin < e.end && e.begin < bad.end && bad.begin < e.end;
      });
      const auto job = load_to_the_end({filling.with_places(file.request(filling.extents))},
                                       persistent(engine, CacheMode::bypass));
      if (!asked) continue;  // not requested, except as the gap between two requests
      REQUIRE(job->outcome().damage().has_value());
      CHECK(job->outcome().damage()->extent == bad);
      check_nothing_unverified(filling, file.bytes(), *job, bad);
    }
  }
}

TEST_CASE("a read that fails everywhere leaves its place zeroed") {
  const ReplicatedFile file({Place::disk, Place::disk}, 2 * kMiB, 0, kChunk);
  for (const EnginePreference engine : engines_here()) {
    Filling filling;
    filling.extents = {{0, 2 * kMiB}};
    filling.targets.emplace_back(2 * kMiB, 0);
    LoadOptions options = persistent(engine, CacheMode::bypass);
    options.lanes = 1;
    options.queue_depth = 1;
    // The bytes of failing reads are overwritten with bytes of no file.
    const InjectedFaults faults({{3, FaultKind::error, EIO}, {4, FaultKind::error, EIO}});
    const auto job = load_to_the_end({filling.with_places(file.request(filling.extents))}, options);
    REQUIRE(job->outcome().failure().has_value());
    CHECK(job->outcome().failure()->path == file.replica(1).path());
    const auto failed = filling.targets[0].bytes().subspan(768 * kKiB, 256 * kKiB);
    CHECK(std::ranges::all_of(failed, [](std::byte byte) { return byte == std::byte{0}; }));
    check_nothing_unverified(filling, file.bytes(), *job, {});
  }
}

TEST_CASE("a cancel waits until no second try writes to the caller's memory") {
  const ReplicatedFile file({Place::disk, Place::disk}, 6 * kMiB, 0, kChunk);
  file.damage(0, 9);
  for (const EnginePreference engine : engines_here()) {
    for (const std::uint64_t hanging : {std::uint64_t{3}, std::uint64_t{4}}) {
      CAPTURE(testing::name_of(engine));
      Filling filling;
      filling.extents = {{0, 6 * kMiB}};
      filling.targets.emplace_back(6 * kMiB, 0);
      LoadOptions options = persistent(engine, CacheMode::bypass);
      options.lanes = 1;
      options.queue_depth = 1;
      const InjectedFaults faults({{hanging, FaultKind::never, 0}});
      const auto job =
          LoadJob::start({filling.with_places(file.request(filling.extents))}, options);
      testing::wait_until_held();
      job->cancel();
      CHECK_FALSE(job->wait_until_released(50ms));
      release_held_completions();
      REQUIRE(job->wait_until_released(kPatience));
      check_nothing_unverified(filling, file.bytes(), *job, {});
      CHECK(job->wait_for(kPatience));
    }
  }
}

}  // namespace
}  // namespace fastio
