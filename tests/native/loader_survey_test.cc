// A survey reports all damage and all unreadable bytes, and keeps no data.
#include <doctest/doctest.h>

#include <cerrno>
#include <vector>

#include "loader.h"
#include "loading.h"
#include "replicated_file.h"

namespace fastio {
namespace {

using testing::engines_here;
using testing::InjectedFaults;
using testing::load_to_the_end;
using testing::one_at_a_time;
using testing::Place;
using testing::ReplicatedFile;

constexpr std::uint64_t kStart = 4096;
constexpr std::uint64_t kChunk = std::uint64_t{64} << 10;
constexpr std::uint64_t kBlock = 4 * kChunk;
constexpr std::uint64_t kChunks = 11;
constexpr std::uint64_t kBytes = kStart + 10 * kChunk + 1000;

using Remedy = Incident::Remedy;

std::shared_ptr<LoadJob> survey(const ReplicatedFile& file, EnginePreference engine,
                                CacheMode cache, std::vector<Fault> faults = {}) {
  LoadOptions options = one_at_a_time(engine, kBlock);
  options.cache = cache;
  options.persistent = true;
  options.surveys = true;
  const InjectedFaults injected(std::move(faults));
  auto job = load_to_the_end({file.request()}, options);
  CHECK_FALSE(job->has_failed());
  CHECK(job->counters().bytes_done == job->bytes_total());
  CHECK(job->layout().plans[0].regions.empty());
  return job;
}

std::uint64_t chunk_of(const Incident& incident) {
  return (incident.extent.begin - kStart) / kChunk;
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

TEST_CASE("a survey of a sound file has no incident") {
  const ReplicatedFile file({Place::disk}, kBytes, kStart, kChunk);
  on_every_engine_and_cache_mode([&](EnginePreference engine, CacheMode cache) {
    const auto job = survey(file, engine, cache);
    CHECK(job->incidents().take().empty());
    CHECK(job->counters().chunks_verified() == kChunks);
  });
}

TEST_CASE("a survey goes on behind damage and tells all of it") {
  const ReplicatedFile file({Place::disk}, kBytes, kStart, kChunk);
  const std::vector<std::uint64_t> damaged{0, 1, 5, kChunks - 1};
  for (const std::uint64_t chunk : damaged) file.damage(0, chunk);
  on_every_engine_and_cache_mode([&](EnginePreference engine, CacheMode cache) {
    const auto job = survey(file, engine, cache);
    std::vector<std::uint64_t> told;
    for (const Incident& incident : job->incidents().take()) {
      CHECK(incident.remedy == Remedy::none);
      CHECK_FALSE(incident.failure.has_value());
      if (told.empty() || told.back() != chunk_of(incident)) told.push_back(chunk_of(incident));
    }
    CHECK(told == damaged);
  });
}

TEST_CASE("a chunk that is sound in a second read is told as such") {
  const ReplicatedFile file({Place::disk}, kBytes, kStart, kChunk);
  on_every_engine_and_cache_mode([&](EnginePreference engine, CacheMode cache) {
    const auto job = survey(file, engine, cache, {{1, FaultKind::flip, 2 * kChunk + 5}});
    const auto incidents = job->incidents().take();
    REQUIRE(incidents.size() == 1);
    CHECK(chunk_of(incidents[0]) == 6);
    CHECK(incidents[0].remedy == Remedy::read_again);
  });
}

TEST_CASE("a block that cannot be read is tried chunk by chunk") {
  const ReplicatedFile file({Place::disk}, kBytes, kStart, kChunk);
  on_every_engine_and_cache_mode([&](EnginePreference engine, CacheMode cache) {
    // The second block; and then the third of its four chunks.
    const auto job =
        survey(file, engine, cache, {{1, FaultKind::error, EIO}, {4, FaultKind::error, EIO}});
    const auto incidents = job->incidents().take();
    REQUIRE(incidents.size() == 1);
    CHECK(chunk_of(incidents[0]) == 6);
    CHECK(incidents[0].extent.end - incidents[0].extent.begin == kChunk);
    CHECK(incidents[0].remedy == Remedy::none);
    REQUIRE(incidents[0].failure.has_value());
    CHECK(incidents[0].failure->error == EIO);
  });
}

TEST_CASE("a survey takes no more memory than it is allowed") {
  const ReplicatedFile file({Place::disk}, kBytes, kStart, kChunk);
  LoadOptions options = one_at_a_time(EnginePreference::automatic, kBlock);
  options.lanes = 8;
  options.queue_depth = 8;
  options.persistent = options.surveys = true;
  options.memory_limit_bytes = 2 * kBlock;
  const auto job = load_to_the_end({file.request()}, options);
  CHECK_FALSE(job->has_failed());
  CHECK(job->report().lanes <= 2);
  options.memory_limit_bytes = kChunk;
  CHECK_THROWS_AS(LoadJob::start({file.request()}, options), MemoryLimitExceeded);
}

}  // namespace
}  // namespace fastio
