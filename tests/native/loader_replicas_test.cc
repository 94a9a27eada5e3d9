// A file with several replicas is read from all of them at once. A job that persists needs each
// chunk to be sound in only one.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include "loader.h"
#include "loading.h"
#include "replicated_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::between;
using testing::engines_here;
using testing::first_difference;
using testing::InjectedFaults;
using testing::kPatience;
using testing::load_to_the_end;
using testing::Place;
using testing::Random;
using testing::ReplicatedFile;
using testing::tile;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kStart = 4096;
constexpr std::uint64_t kChunk = 64 * kKiB;

LoadOptions persistent(EnginePreference engine, CacheMode cache = CacheMode::bypass) {
  LoadOptions options;
  options.engine = engine;
  options.cache = cache;
  options.block_bytes = 256 * kKiB;
  options.queue_depth = 3;
  options.persistent = true;
  return options;
}

void check_right(LoadJob& job, std::span<const std::byte> bytes) {
  const auto failure = job.outcome().failure();
  CHECK((failure ? failure->message() : "") == "");
  CHECK_FALSE(job.outcome().damage().has_value());
  CHECK(job.counters().bytes_done == job.bytes_total());
  CHECK(first_difference(job, {bytes}) == "");
}

TEST_CASE("replicas on several disks are read at once") {
  const ReplicatedFile file({Place::disk, Place::memory}, 24 * kMiB + 77, kStart, kChunk);
  for (const EnginePreference engine : engines_here()) {
    for (const CacheMode cache : {CacheMode::automatic, CacheMode::bypass, CacheMode::keep}) {
      for (const bool persists : {true, false}) {
        CAPTURE(testing::name_of(engine));
        LoadOptions options = persistent(engine, cache);
        options.persistent = persists;
        const auto job = load_to_the_end({file.request()}, options);
        CHECK(job->counters().bytes_direct + job->counters().bytes_buffered == job->bytes_total());
        CHECK(job->counters().chunks_verified() == file.table().digests.size());
        CHECK(job->layout().access(0, 0).mode != ReadMode::mapped);
        CHECK(job->layout().access(0, 1).mode == ReadMode::buffered);
        CHECK(job->layout().access(0, 1).cache_state == "warm");
        CHECK(job->incidents().take().empty());
        check_right(*job, file.bytes());
      }
    }
  }
}

TEST_CASE("only a file with a single replica is mapped, and none if second tries need memory") {
  const ReplicatedFile two({Place::memory, Place::memory}, kMiB, 0, kChunk);
  const ReplicatedFile one({Place::memory}, kMiB, 0, kChunk);
  LoadOptions options;
  CHECK(choose_access(one.request(), 0, options).mode == ReadMode::mapped);
  CHECK(choose_access(two.request(), 1, options).mode == ReadMode::buffered);
  const auto job = load_to_the_end({two.request()}, options);
  CHECK(job->report().lanes > 0);  // even a small job does not run on the caller's thread
  check_right(*job, two.bytes());
  options.persistent = true;
  CHECK(choose_access(one.request(), 0, options).mode == ReadMode::buffered);
  CHECK(load_to_the_end({one.request()}, options)->report().lanes > 0);
}

TEST_CASE("replicas that cannot be replicas are refused") {
  const ReplicatedFile file({Place::disk, Place::memory}, kMiB, 0, kChunk);
  const testing::SampleFile other(Place::disk, kMiB - 1);
  ShardRequest request = file.request();
  request.replicas.push_back(File::open(other.path()));
  CHECK_THROWS_AS(LoadJob::start({request}, {}), std::invalid_argument);
  request.replicas.back() = std::shared_ptr<File>();
  CHECK_THROWS_AS(LoadJob::start({request}, {}), std::invalid_argument);
  request.replicas.assign(65, request.replicas.front());
  CHECK_THROWS_AS(LoadJob::start({request}, {}), std::invalid_argument);
  request.replicas.clear();
  CHECK_THROWS_AS(LoadJob::start({request}, {}), std::invalid_argument);
}

TEST_CASE("each chunk needs to be sound in one replica only") {
  Random random(testing::random_seed());
  for (int i = 0; i < testing::random_cases(24); ++i) {
    CAPTURE(i);
    std::vector<Place> places(between(random, 1, 3), Place::disk);
    for (Place& place : places) {
      if (between(random, 0, 2) == 0) place = Place::memory;
    }
    const ReplicatedFile file(places, between(random, 1, 6 * kMiB) + kStart, kStart, kChunk,
                              between(random, 1, 99));
    for (std::uint64_t chunk = 0; chunk + 1 < file.table().digests.size(); ++chunk) {
      const std::uint64_t sound_in = between(random, 0, places.size() - 1);
      for (std::size_t replica = 0; replica < places.size(); ++replica) {
        if (replica != sound_in && between(random, 0, 2) == 0) file.damage(replica, chunk);
      }
    }
    const auto extents = tile(random, kStart, file.bytes().size(), between(random, 1, 20));
    for (const EnginePreference engine : engines_here()) {
      LoadOptions options = persistent(engine, std::array{CacheMode::automatic, CacheMode::bypass,
                                                          CacheMode::keep}[between(random, 0, 2)]);
      options.block_bytes = between(random, 1, kMiB);
      options.lanes = static_cast<unsigned>(between(random, 1, 3));
      if (between(random, 0, 1) != 0) options.memory_limit_bytes = 8 * kMiB;  // smaller regions
      const ShardRequest request = file.request(extents);
      // Some of it is in the page cache, with its damage.
      for (const auto& replica : request.replicas) {
        std::vector<std::byte> some(replica.nbytes() / 2);
        if (between(random, 0, 1) != 0) replica.file()->read(0, some);
      }
      const auto job = load_to_the_end({request}, options);
      check_right(*job, file.bytes());
      for (const Incident& incident : job->incidents().take()) {
        CHECK(incident.remedy == Incident::Remedy::other_replica);
        CHECK(incident.remedied_by != incident.replica);
      }
    }
  }
}

TEST_CASE("regions of a window come whole and right from damaged replicas") {
  const ReplicatedFile file({Place::disk, Place::memory, Place::disk}, 12 * kMiB, 0, kChunk);
  for (std::uint64_t chunk = 0; chunk < 192; chunk += 5) {
    file.damage(chunk % 3, chunk);
    file.damage((chunk + 1) % 3, chunk);
  }
  std::vector<Extent> extents;
  for (std::uint64_t begin = 0; begin < 12 * kMiB; begin += kMiB / 2) {
    extents.push_back({begin, begin + kMiB / 2});
  }
  for (const EnginePreference engine : engines_here()) {
    LoadOptions options = persistent(engine);
    options.window_bytes = 4 * kMiB;
    const auto job = LoadJob::start({file.request(extents)}, options);
    REQUIRE(job->layout().plans[0].regions.size() == 12);
    for (std::size_t r = 0; r < 12; ++r) {
      REQUIRE(job->delivery().wait_for({0, r}, kPatience));
      CHECK(job->counters().bytes_done <= (r + 4) * kMiB);
      const auto region = job->delivery().take({0, r});
      REQUIRE(region != nullptr);
      CHECK(std::memcmp(region->at(r * kMiB), file.bytes().data() + r * kMiB, kMiB) == 0);
      job->delivery().release({0, r});
    }
    CHECK(job->wait_for(kPatience));
    CHECK(job->counters().chunks_verified() == 192);
  }
}

TEST_CASE("regions of files on different disks are opened in order, and each comes") {
  const ReplicatedFile disk({Place::disk}, 6 * kMiB, 0, kChunk, 1);
  const ReplicatedFile memory({Place::memory}, 6 * kMiB, 0, kChunk, 2);
  const ReplicatedFile both({Place::memory, Place::disk}, 6 * kMiB, 0, kChunk, 3);
  const std::array files{&disk, &memory, &both};
  std::vector<Extent> extents;
  for (std::uint64_t begin = 0; begin < 6 * kMiB; begin += kMiB / 2) {
    extents.push_back({begin, begin + kMiB / 2});
  }
  Random random(testing::random_seed());
  for (const EnginePreference engine : engines_here()) {
    for (int i = 0; i < testing::random_cases(6); ++i) {
      LoadOptions options = persistent(engine);
      options.window_bytes = between(random, 1, 8) * kMiB;
      std::vector<ShardRequest> requests;
      requests.reserve(files.size());
      for (const ReplicatedFile* file : files) requests.push_back(file->request(extents));
      const auto job = LoadJob::start(std::move(requests), options);
      for (std::size_t shard = 0; shard < files.size(); ++shard) {
        for (std::size_t r = 0; r < job->layout().plans[shard].regions.size(); ++r) {
          const PlannedRegion& planned = job->layout().plans[shard].regions[r];
          if (between(random, 0, 5) == 0) {
            job->delivery().release({shard, r});
            continue;
          }
          REQUIRE(job->delivery().wait_for({shard, r}, kPatience));
          const auto region = job->delivery().take({shard, r});
          REQUIRE(region != nullptr);
          CHECK(std::memcmp(region->at(planned.begin), files[shard]->bytes().data() + planned.begin,
                            planned.end - planned.begin) == 0);
          job->delivery().release({shard, r});
        }
      }
      CHECK(job->wait_for(kPatience));
    }
  }
}

TEST_CASE("a job is cancelled at once during a second try, and its memory is abandoned") {
  const ReplicatedFile file({Place::disk, Place::disk}, 8 * kMiB, 0, kChunk);
  file.damage(0, 5);
  for (const EnginePreference engine : engines_here()) {
    // One read at a time: that of the second block is read again, and hangs.
    for (const std::uint64_t hanging : {std::uint64_t{2}, std::uint64_t{3}}) {
      CAPTURE(testing::name_of(engine));
      CAPTURE(hanging);
      LoadOptions options = persistent(engine);
      options.lanes = 1;
      options.queue_depth = 1;
      const InjectedFaults faults({{hanging, FaultKind::never, 0}});
      const auto job = LoadJob::start({file.request()}, options);
      testing::wait_until_held();
      job->cancel();
      CHECK(abandoned_bytes() >= 8 * kMiB);
      CHECK_FALSE(job->wait_for(50ms));
      release_held_completions();
      REQUIRE(job->wait_for(kPatience));
      CHECK(abandoned_bytes() == 0);
      CHECK_FALSE(job->has_failed());
      for (const Incident& incident : job->incidents().take()) {
        CHECK(incident.remedy == Incident::Remedy::none);
        CHECK(incident.extent == Extent{5 * kChunk, 6 * kChunk});
      }
    }
  }
}

TEST_CASE(
    "of many incidents those that touch each other are told as one, and no byte is left out") {
  constexpr std::uint64_t kSmall = 4 * kKiB;
  for (const std::uint64_t step : {std::uint64_t{1}, std::uint64_t{2}}) {
    CAPTURE(step);
    const ReplicatedFile file({Place::disk, Place::disk}, 2400 * kSmall, 0, kSmall);
    std::set<std::uint64_t> damaged, told;
    for (std::uint64_t chunk = 0; chunk < 2400; chunk += step) {
      file.damage(0, chunk);
      damaged.insert(chunk);
    }
    const auto job = load_to_the_end({file.request()}, persistent(EnginePreference::automatic));
    const auto incidents = job->incidents().take();
    CHECK(incidents.size() <= 3000);  // each chunk is read twice
    for (const Incident& incident : incidents) {
      CHECK(incident.replica == 0);
      for (std::uint64_t at = incident.extent.begin; at < incident.extent.end; at += kSmall)
        told.insert(at / kSmall);
    }
    CHECK(told == damaged);
    CHECK(job->incidents().dropped() == 0);
    CHECK(job->incidents().take().empty());
    check_right(*job, file.bytes());
  }
}

}  // namespace
}  // namespace fastio
