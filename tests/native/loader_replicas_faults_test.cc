// A job that persists, after each kind of failure: the ranges that it reads again, their replica,
// and its notes.
#include <doctest/doctest.h>

#include <cerrno>

#include "loader.h"
#include "loading.h"
#include "replicated_file.h"

namespace fastio {
namespace {

using testing::between;
using testing::engines_here;
using testing::first_difference;
using testing::InjectedFaults;
using testing::load_to_the_end;
using testing::one_at_a_time;
using testing::Place;
using testing::Random;
using testing::ReplicatedFile;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kStart = 4096;
constexpr std::uint64_t kChunk = 64 * kKiB;
constexpr std::uint64_t kChunksPerBlock = 10;
constexpr std::uint64_t kBlock = kChunksPerBlock * kChunk;
constexpr std::uint64_t kBytes = kStart + 4 * kBlock + 3 * kChunk + 1000;  // five blocks
constexpr std::uint64_t kChunks = 4 * kChunksPerBlock + 4;

using Remedy = Incident::Remedy;

Extent chunks(std::uint64_t first, std::uint64_t last) {
  return {kStart + first * kChunk, kStart + last * kChunk};
}

Extent block(std::uint64_t index) {
  return chunks(index * kChunksPerBlock, (index + 1) * kChunksPerBlock);
}

std::uint64_t bytes_read(const LoadJob& job) {
  return job.counters().bytes_direct + job.counters().bytes_buffered;
}

std::shared_ptr<LoadJob> run(const ReplicatedFile& file, EnginePreference engine, CacheMode cache,
                             std::vector<Fault> faults = {}, bool verified = true) {
  LoadOptions options = one_at_a_time(engine, kBlock);
  options.cache = cache;
  options.persistent = true;
  const InjectedFaults injected(std::move(faults));
  ShardRequest request = file.request();
  if (!verified) request.table.reset();
  return load_to_the_end({std::move(request)}, options);
}

void check_right(LoadJob& job, const ReplicatedFile& file) {
  const auto failure = job.outcome().failure();
  CHECK((failure ? failure->message() : "") == "");
  CHECK_FALSE(job.outcome().damage().has_value());
  CHECK(job.counters().bytes_done == job.bytes_total());
  CHECK(job.counters().chunks_verified() == kChunks);
  CHECK(first_difference(job, {file.bytes()}) == "");
}

std::vector<Place> on_disk(std::size_t replicas) {
  std::vector<Place> places(replicas, Place::disk);
  return places;
}

template <typename Test>
void on_every_engine_and_cache_mode(Test&& test) {
  for (const EnginePreference engine : engines_here()) {
    for (const CacheMode cache : {CacheMode::bypass, CacheMode::keep}) {
      CAPTURE(testing::name_of(engine));
      CAPTURE(static_cast<int>(cache));
      test(engine, cache);
    }
  }
}

TEST_CASE("a bit that flips on its way is cured by reading its chunk once more") {
  const ReplicatedFile file(on_disk(1), kBytes, kStart, kChunk);
  on_every_engine_and_cache_mode([&](EnginePreference engine, CacheMode cache) {
    const auto job = run(file, engine, cache, {{1, FaultKind::flip, 3 * kChunk + 5}});
    CHECK(bytes_read(*job) == job->bytes_total() + kChunk);
    const auto incidents = job->incidents().take();
    REQUIRE(incidents.size() == 1);
    CHECK(incidents[0].shard == 0);
    CHECK(incidents[0].replica == 0);
    CHECK(incidents[0].extent == chunks(13, 14));
    CHECK_FALSE(incidents[0].failure.has_value());
    CHECK(incidents[0].expected == file.table().digests.at(13));
    CHECK(incidents[0].found != incidents[0].expected);
    CHECK(incidents[0].remedy == Remedy::read_again);
    check_right(*job, file);
  });
}

TEST_CASE("second tries of cached blocks read past the page cache") {
  const ReplicatedFile file(on_disk(1), kBytes, kStart, kChunk);
  if (!File::open(file.replica(0).path())->direct_access().possible) return;
  for (const EnginePreference engine : engines_here()) {
    const auto job = run(file, engine, CacheMode::keep, {{4, FaultKind::flip, 3 * kChunk + 999}});
    CHECK(job->counters().bytes_direct == 1000);  // the last chunk
    CHECK(job->counters().bytes_buffered == job->bytes_total());
    check_right(*job, file);
  }
}

TEST_CASE("damaged chunks come from another replica, and no others") {
  const ReplicatedFile file(on_disk(2), kBytes, kStart, kChunk);
  for (const std::uint64_t chunk : {12U, 13U, 17U}) file.damage(0, chunk);
  on_every_engine_and_cache_mode([&](EnginePreference engine, CacheMode cache) {
    const auto job = run(file, engine, cache);
    // Each of the three was read twice more: from the same replica, and from the other one.
    CHECK(bytes_read(*job) == job->bytes_total() + 6 * kChunk);
    const auto incidents = job->incidents().take();
    REQUIRE(incidents.size() == 6);
    std::uint64_t of_12 = 0;
    for (const Incident& incident : incidents) {
      CHECK(incident.replica == 0);
      CHECK(incident.remedy == Remedy::other_replica);
      CHECK(incident.remedied_by == 1);
      if (incident.extent == chunks(12, 13)) ++of_12;
    }
    CHECK(of_12 == 2);
    check_right(*job, file);
  });
}

TEST_CASE("the last chunk, which is short, comes from another replica as well") {
  const ReplicatedFile file(on_disk(2), kBytes, kStart, kChunk);
  file.damage(0, kChunks - 1);
  on_every_engine_and_cache_mode([&](EnginePreference engine, CacheMode cache) {
    const auto job = run(file, engine, cache);
    CHECK(bytes_read(*job) == job->bytes_total() + 2000);
    check_right(*job, file);
  });
}

TEST_CASE("a read that fails is asked of the next replica at once, whole") {
  const ReplicatedFile file(on_disk(3), kBytes, kStart, kChunk);
  on_every_engine_and_cache_mode([&](EnginePreference engine, CacheMode cache) {
    const auto job =
        run(file, engine, cache, {{2, FaultKind::error, EIO}, {3, FaultKind::error, ENODEV}});
    CHECK(bytes_read(*job) == job->bytes_total());
    const auto incidents = job->incidents().take();
    REQUIRE(incidents.size() == 2);
    for (std::size_t replica = 0; replica < 2; ++replica) {
      CHECK(incidents[replica].replica == replica);
      CHECK(incidents[replica].extent == block(2));
      REQUIRE(incidents[replica].failure.has_value());
      CHECK(incidents[replica].failure->error == (replica == 0 ? EIO : ENODEV));
      CHECK(incidents[replica].failure->path == file.replica(replica).path());
      CHECK(incidents[replica].remedy == Remedy::other_replica);
      CHECK(incidents[replica].remedied_by == 2);
    }
    check_right(*job, file);
  });
}

TEST_CASE("unverified bytes come from the next replica after a failed read") {
  const ReplicatedFile file(on_disk(2), kBytes, kStart, kChunk);
  for (const EnginePreference engine : engines_here()) {
    const auto job = run(file, engine, CacheMode::bypass, {{2, FaultKind::error, EIO}}, false);
    CHECK(job->incidents().take().size() == 1);
    CHECK(first_difference(*job, {file.bytes()}) == "");
  }
}

TEST_CASE("a replica that cannot read a block may still have the one chunk that another has not") {
  const ReplicatedFile file(on_disk(2), kBytes, kStart, kChunk);
  file.damage(1, 25);
  on_every_engine_and_cache_mode([&](EnginePreference engine, CacheMode cache) {
    const auto job = run(file, engine, cache, {{2, FaultKind::error, EIO}});
    CHECK(bytes_read(*job) == job->bytes_total() + 2 * kChunk);
    const auto incidents = job->incidents().take();
    REQUIRE(incidents.size() == 3);
    for (const Incident& incident : incidents) {
      CHECK(incident.remedied_by == 0);
      CHECK(incident.remedy ==
            (incident.replica == 0 ? Remedy::read_again : Remedy::other_replica));
    }
    check_right(*job, file);
  });
}

TEST_CASE("a replica that shrank after it was opened is made up for by another one") {
  for (const EnginePreference engine : engines_here()) {
    for (const CacheMode cache : {CacheMode::bypass, CacheMode::keep}) {
      for (const std::uint64_t left : {std::uint64_t{0}, kStart + 1, kStart + kBlock + 123,
                                       kStart + 2 * kBlock + 8192, kBytes - 1}) {
        CAPTURE(left);
        const ReplicatedFile file(on_disk(2), kBytes, kStart, kChunk);
        LoadOptions options = one_at_a_time(engine, kBlock);
        options.cache = cache;
        options.persistent = true;
        ShardRequest request = file.request();
        file.replica(0).truncate(left);
        const auto job = load_to_the_end({std::move(request)}, options);
        const auto incidents = job->incidents().take();
        REQUIRE(!incidents.empty());
        // A replica that failed three times gets no more reads.
        CHECK(incidents.size() <= 3);
        for (const Incident& incident : incidents) {
          CHECK(incident.replica == 0);
          REQUIRE(incident.failure.has_value());
          CHECK(incident.failure->error == ENODATA);
        }
        check_right(*job, file);
      }
    }
  }
}

TEST_CASE("a replica that failed three reads is only asked where the other one is of no use") {
  const ReplicatedFile file(on_disk(2), kBytes, kStart, kChunk);
  file.damage(1, 41);  // in the last block
  for (const EnginePreference engine : engines_here()) {
    // The reads of the first three blocks fail, each followed by one of the other replica.
    const auto job =
        run(file, engine, CacheMode::bypass,
            {{0, FaultKind::error, EIO}, {2, FaultKind::error, EIO}, {4, FaultKind::error, EIO}});
    const auto incidents = job->incidents().take();
    REQUIRE(incidents.size() == 5);
    for (std::size_t i = 0; i < incidents.size(); ++i) {
      CHECK(incidents[i].replica == (i < 3 ? 0 : 1));
      CHECK(incidents[i].remedied_by == (i < 3 ? 1 : 0));
    }
    CHECK(bytes_read(*job) == job->bytes_total() + 2 * kChunk);
    check_right(*job, file);
  }
}

TEST_CASE("of the replicas that are left, one that failed three reads comes last") {
  const ReplicatedFile file(on_disk(3), kBytes, kStart, kChunk);
  file.damage(1, 41);
  for (const EnginePreference engine : engines_here()) {
    const auto job =
        run(file, engine, CacheMode::bypass,
            {{0, FaultKind::error, EIO}, {2, FaultKind::error, EIO}, {4, FaultKind::error, EIO}});
    const auto incidents = job->incidents().take();
    REQUIRE(incidents.size() == 5);
    CHECK(incidents.back().replica == 1);
    CHECK(incidents.back().remedied_by == 2);
    check_right(*job, file);
  }
}

TEST_CASE("without a replica that is left, the job ends with the last error") {
  const ReplicatedFile sound(on_disk(2), kBytes, kStart, kChunk);
  const ReplicatedFile rotten(on_disk(2), kBytes, kStart, kChunk);
  rotten.damage(0, 15);
  rotten.damage(1, 15);
  const ReplicatedFile half_rotten(on_disk(2), kBytes, kStart, kChunk);
  half_rotten.damage(0, 15);
  on_every_engine_and_cache_mode([&](EnginePreference engine, CacheMode cache) {
    auto job =
        run(sound, engine, cache, {{1, FaultKind::error, EIO}, {2, FaultKind::error, ENXIO}});
    REQUIRE(job->outcome().failure().has_value());
    CHECK(job->outcome().failure()->error == ENXIO);
    CHECK(job->outcome().failure()->offset == block(1).begin);
    CHECK(job->outcome().failure()->path == sound.replica(1).path());
    CHECK_FALSE(job->outcome().damage().has_value());
    auto incidents = job->incidents().take();
    CHECK(incidents.size() == 2);
    for (const Incident& incident : incidents) CHECK(incident.remedy == Remedy::none);

    job = run(rotten, engine, cache);
    REQUIRE(job->outcome().damage().has_value());
    CHECK(job->outcome().damage()->replica == 1);
    CHECK(job->outcome().damage()->chunk == 15);
    CHECK(job->outcome().damage()->extent == chunks(15, 16));
    CHECK(job->outcome().damage()->found != job->outcome().damage()->expected);
    CHECK_FALSE(job->outcome().failure().has_value());
    incidents = job->incidents().take();
    CHECK(incidents.size() == 4);
    for (const Incident& incident : incidents) CHECK(incident.remedy == Remedy::none);

    // One replica is damaged, and the other fails to read: completions 0 and 1 are blocks, 2 is the
    // second try.
    job = run(half_rotten, engine, cache, {{3, FaultKind::error, EIO}});
    REQUIRE(job->outcome().failure().has_value());
    CHECK(job->outcome().failure()->path == half_rotten.replica(1).path());
    CHECK(job->outcome().failure()->offset == chunks(15, 16).begin);
    CHECK_FALSE(job->outcome().damage().has_value());
  });
}

TEST_CASE("a job that does not persist ends with the first failure, also with replicas") {
  const ReplicatedFile file(on_disk(2), kBytes, kStart, kChunk);
  file.damage(0, 15);
  for (const EnginePreference engine : engines_here()) {
    const auto job = load_to_the_end({file.request()}, one_at_a_time(engine, kBlock));
    REQUIRE(job->outcome().damage().has_value());
    CHECK(job->outcome().damage()->chunk == 15);
    CHECK(job->outcome().damage()->replica == 0);
    CHECK(bytes_read(*job) == 2 * kBlock);
    const auto incidents = job->incidents().take();
    REQUIRE(incidents.size() == 1);
    CHECK(incidents[0].remedy == Remedy::none);
  }
}

TEST_CASE(
    "whatever comes late, short, wrong, not at all or in another order: the bytes are right") {
  const std::uint64_t seed = testing::random_seed();
  Random random(seed);
  const ReplicatedFile file({Place::disk, Place::disk, Place::memory}, kBytes, kStart, kChunk);
  for (std::uint64_t chunk = 0; chunk < kChunks; chunk += 3) file.damage(chunk / 3 % 3, chunk);
  const auto engines = engines_here();
  int whole = 0;
  const int jobs = testing::random_cases(30);
  for (int i = 0; i < jobs; ++i) {
    INFO("FASTIO_TEST_SEED=", seed, ", job ", i);
    std::vector<Fault> faults;
    const auto fault = [&](std::uint64_t at, FaultKind kind, std::uint64_t value) {
      faults.push_back({at, kind, static_cast<std::int64_t>(value)});
    };
    for (std::uint64_t at = 0; at < 200; ++at) {
      switch (between(random, 0, 20)) {
        case 0:
          fault(at, FaultKind::error, between(random, 0, 1) != 0 ? EAGAIN : EINTR);
          break;
        case 1:
          fault(at, FaultKind::error, EIO);
          break;
        case 2:
          fault(at, FaultKind::cut, between(random, 1, kBlock));
          break;
        case 3:
          fault(at, FaultKind::late, between(random, 0, 5));
          break;
        case 4:
          fault(at, FaultKind::reorder, 0);
          break;
        case 5:
          fault(at, FaultKind::flip, between(random, 0, kBlock));
          break;
        case 6:
          fault(at, FaultKind::zero, 0);
          break;
        default:
          break;
      }
    }
    LoadOptions options;
    options.engine = engines[between(random, 0, engines.size() - 1)];
    options.cache = between(random, 0, 1) != 0 ? CacheMode::bypass : CacheMode::keep;
    options.block_bytes = kChunk * between(random, 1, 12);
    options.queue_depth = static_cast<unsigned>(between(random, 1, 8));
    options.lanes = static_cast<unsigned>(between(random, 1, 3));
    options.persistent = true;
    const InjectedFaults injected(faults);
    const auto job = load_to_the_end({file.request()}, options);
    if (job->has_failed()) continue;  // a chunk that failed in each of its replicas
    ++whole;
    check_right(*job, file);
    for (const Incident& incident : job->incidents().take()) CHECK(incident.remedy != Remedy::none);
  }
  CHECK(whole >= jobs / 2);
}

}  // namespace
}  // namespace fastio
