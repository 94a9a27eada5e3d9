// One-in-a-million errors of disks on reads: retried, resumed, or an error with its place. A wrong
// byte is never returned.
#include <doctest/doctest.h>

#include <array>
#include <cerrno>

#include "loader.h"
#include "loading.h"
#include "sample_file.h"

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
using testing::SampleFile;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kStart = 4096;
constexpr std::uint64_t kChunk = 64 * kKiB;
constexpr std::uint64_t kChunksPerBlock = 10;
constexpr std::uint64_t kBlock = kChunksPerBlock * kChunk;

// A sealed file of eight blocks, the last one short, that is read with O_DIRECT or through the page
// cache.
class FaultyLoad {
 public:
  std::shared_ptr<LoadJob> run(EnginePreference engine, CacheMode cache, std::vector<Fault> faults,
                               bool verified = true) const {
    LoadOptions options = one_at_a_time(engine, kBlock);
    options.cache = cache;
    return run(options, std::move(faults), verified);
  }

  std::shared_ptr<LoadJob> run(const LoadOptions& options, std::vector<Fault> faults,
                               bool verified = true) const {
    const InjectedFaults injected(std::move(faults));
    ShardRequest request{{File::open(sample.path())}, {{kStart, sample.bytes().size()}}, {}};
    if (!sample.evict()) MESSAGE("the working folder keeps its pages");
    if (verified) request.table = table;
    return load_to_the_end({std::move(request)}, options);
  }

  SampleFile sample{Place::disk, kStart + 7 * kBlock + 3 * kChunk + 1000};
  ChunkTable table = sample.table(kStart, kChunk);
};

std::string name_of(CacheMode cache) { return cache == CacheMode::bypass ? "direct" : "buffered"; }

template <typename Test>
void on_every_engine_and_cache_mode(Test&& test) {
  const FaultyLoad load;
  for (const EnginePreference engine : engines_here()) {
    for (const CacheMode cache : {CacheMode::bypass, CacheMode::keep}) {
      CAPTURE(testing::name_of(engine));
      CAPTURE(name_of(cache));
      test(load, engine, cache);
    }
  }
}

void check_right(const FaultyLoad& load, LoadJob& job) {
  const auto failure = job.outcome().failure();
  CHECK((failure ? failure->message() : "") == "");
  CHECK_FALSE(job.outcome().damage().has_value());
  CHECK(first_difference(job, load.sample) == "");
}

TEST_CASE("a read that fails ends the job with its errno, its path and its offset") {
  on_every_engine_and_cache_mode(
      [](const FaultyLoad& load, EnginePreference engine, CacheMode cache) {
        const auto job = load.run(engine, cache, {{3, FaultKind::error, EIO}});
        REQUIRE(job->outcome().failure().has_value());
        CHECK(job->outcome().failure()->error == EIO);
        CHECK(job->outcome().failure()->operation == "read");
        CHECK(job->outcome().failure()->path == load.sample.path());
        CHECK(job->outcome().failure()->offset == kStart + 3 * kBlock);
        CHECK_FALSE(job->outcome().damage().has_value());
      });
}

TEST_CASE("of several failures the first in the file is told") {
  const FaultyLoad load;
  LoadOptions options = one_at_a_time(EnginePreference::pread, kBlock);
  options.queue_depth = 8;
  std::vector<Fault> faults;
  for (std::uint64_t at = 0; at < 8; ++at) faults.push_back({at, FaultKind::error, EIO});
  const auto job = load.run(options, faults);
  REQUIRE(job->outcome().failure().has_value());
  CHECK((*job->outcome().failure()->offset - kStart) % kBlock == 0);
}

TEST_CASE("EAGAIN and EINTR are tried again") {
  on_every_engine_and_cache_mode(
      [](const FaultyLoad& load, EnginePreference engine, CacheMode cache) {
        std::vector<Fault> faults;
        for (std::uint64_t at = 0; at < 40; ++at)
          faults.push_back({at, FaultKind::error, at % 2 == 0 ? EAGAIN : EINTR});
        const auto job = load.run(engine, cache, faults);
        check_right(load, *job);
        CHECK(job->counters().chunks_verified() == 7 * kChunksPerBlock + 4);
      });
}

TEST_CASE("EAGAIN without an end is an error in the end") {
  on_every_engine_and_cache_mode(
      [](const FaultyLoad& load, EnginePreference engine, CacheMode cache) {
        std::vector<Fault> faults;
        for (std::uint64_t at = 0; at < 1000; ++at)
          faults.push_back({at, FaultKind::error, EAGAIN});
        const auto job = load.run(engine, cache, faults);
        REQUIRE(job->outcome().failure().has_value());
        CHECK(job->outcome().failure()->error == EAGAIN);
        CHECK(job->outcome().failure()->offset == kStart);
        CHECK(job->outcome().failure()->detail.find("no progress") != std::string::npos);
      });
}

TEST_CASE("a short read is resumed at the aligned offset below") {
  on_every_engine_and_cache_mode(
      [](const FaultyLoad& load, EnginePreference engine, CacheMode cache) {
        for (const std::int64_t kept : {4096LL, 4097LL, 100'001LL, 655'359LL}) {
          CAPTURE(kept);
          // Block 2 is short, and so is the next read of it.
          const auto job =
              load.run(engine, cache, {{2, FaultKind::cut, kept}, {3, FaultKind::cut, kept}});
          check_right(load, *job);
          CHECK(job->counters().bytes_done == job->bytes_total());
        }
      });
}

TEST_CASE("a read shorter than the alignment is tried again") {
  on_every_engine_and_cache_mode(
      [](const FaultyLoad& load, EnginePreference engine, CacheMode cache) {
        for (const std::int64_t kept : {1LL, 4095LL}) {
          CAPTURE(kept);
          std::vector<Fault> faults;
          for (std::uint64_t at = 1; at < 20; ++at) faults.push_back({at, FaultKind::cut, kept});
          check_right(load, *load.run(engine, cache, faults));
        }
      });
}

TEST_CASE("the last block, which ends inside an alignment, is resumed as well") {
  on_every_engine_and_cache_mode(
      [](const FaultyLoad& load, EnginePreference engine, CacheMode cache) {
        for (const std::int64_t kept : {4096LL, 5000LL, 196'608LL, 197'000LL}) {
          CAPTURE(kept);
          check_right(load, *load.run(engine, cache, {{7, FaultKind::cut, kept}}));
        }
      });
}

TEST_CASE("a read that brings nothing is the end of the file, with its offset") {
  on_every_engine_and_cache_mode(
      [](const FaultyLoad& load, EnginePreference engine, CacheMode cache) {
        const auto job = load.run(engine, cache, {{4, FaultKind::zero, 0}});
        REQUIRE(job->outcome().failure().has_value());
        CHECK(job->outcome().failure()->error == ENODATA);
        CHECK(job->outcome().failure()->offset == kStart + 4 * kBlock);
        CHECK(job->outcome().failure()->path == load.sample.path());
      });
}

TEST_CASE("a flipped bit names its chunk, with the expected checksum and the found one") {
  on_every_engine_and_cache_mode(
      [](const FaultyLoad& load, EnginePreference engine, CacheMode cache) {
        for (const std::uint64_t block : {0U, 5U, 7U}) {
          const std::uint64_t chunk_in_block = 2;
          const auto job = load.run(
              engine, cache,
              {{block, FaultKind::flip, static_cast<std::int64_t>(chunk_in_block * kChunk + 77)}});
          const auto damage = job->outcome().damage();
          REQUIRE(damage.has_value());
          CHECK(damage->shard == 0);
          CHECK(damage->chunk == block * kChunksPerBlock + chunk_in_block);
          CHECK(damage->extent.begin == kStart + damage->chunk * kChunk);
          CHECK(damage->extent.end == damage->extent.begin + kChunk);
          CHECK(damage->expected == load.table.digests.at(damage->chunk));
          CHECK(damage->found != damage->expected);
          CHECK_FALSE(job->outcome().failure().has_value());
        }
      });
}

TEST_CASE("a flipped bit in the last chunk, which is short, is found") {
  on_every_engine_and_cache_mode(
      [](const FaultyLoad& load, EnginePreference engine, CacheMode cache) {
        const auto job = load.run(
            engine, cache, {{7, FaultKind::flip, static_cast<std::int64_t>(3 * kChunk + 999)}});
        REQUIRE(job->outcome().damage().has_value());
        CHECK(job->outcome().damage()->chunk == 7 * kChunksPerBlock + 3);
        CHECK(job->outcome().damage()->extent.end == load.sample.bytes().size());
      });
}

TEST_CASE("a bit that rotted in the file is found by every way that reads it") {
  constexpr std::uint64_t kRotten = kStart + 9 * kChunk + 5;
  for (const Place place : {Place::disk, Place::memory}) {
    for (const std::size_t nbytes :
         {std::size_t{2 * kMiB}, std::size_t{6 * kMiB}}) {  // with lanes, and without
      const SampleFile sample(place, nbytes);
      sample.overwrite(kRotten, sample.bytes()[kRotten] ^ std::byte{0x40});
      for (const CacheMode cache : {CacheMode::automatic, CacheMode::bypass, CacheMode::keep}) {
        for (const MappingMode mapping : {MappingMode::automatic, MappingMode::never}) {
          for (const bool cold : {true, false}) {
            if (cold) static_cast<void>(sample.evict());
            if (!cold) sample.warm();
            LoadOptions options;
            options.cache = cache;
            options.mapping = mapping;
            const auto job = load_to_the_end(
                {{{File::open(sample.path())}, {{kStart, nbytes}}, sample.table(kStart, kChunk)}},
                options);
            REQUIRE(job->outcome().damage().has_value());
            CHECK(job->outcome().damage()->chunk == 9);
          }
        }
      }
    }
  }
}

TEST_CASE("a late completion is waited for") {
  on_every_engine_and_cache_mode(
      [](const FaultyLoad& load, EnginePreference engine, CacheMode cache) {
        check_right(load, *load.run(engine, cache, {{1, FaultKind::late, 150}}));
      });
}

TEST_CASE("completions may come in any order") {
  on_every_engine_and_cache_mode(
      [](const FaultyLoad& load, EnginePreference engine, CacheMode cache) {
        std::vector<Fault> faults;
        for (std::uint64_t at = 0; at < 8; at += 2) faults.push_back({at, FaultKind::reorder, 0});
        LoadOptions options = one_at_a_time(engine, kBlock);
        options.cache = cache;
        options.queue_depth = 4;
        check_right(load, *load.run(options, faults));
      });
}

TEST_CASE("the bytes are right after late, short, repeated and reordered completions") {
  const std::uint64_t seed = testing::random_seed();
  Random random(seed);
  const FaultyLoad load;
  const auto engines = engines_here();
  for (int i = 0; i < testing::random_cases(20); ++i) {
    INFO("FASTIO_TEST_SEED=", seed, ", job ", i);
    std::vector<Fault> faults;
    for (std::uint64_t at = 0; at < 60; ++at) {
      switch (between(random, 0, 6)) {
        case 0:
          faults.push_back({at, FaultKind::error, EAGAIN});
          break;
        case 1:
          faults.push_back({at, FaultKind::error, EINTR});
          break;
        case 2:
          faults.push_back(
              {at, FaultKind::cut, static_cast<std::int64_t>(between(random, 1, kBlock))});
          break;
        case 3:
          faults.push_back({at, FaultKind::late, static_cast<std::int64_t>(between(random, 0, 5))});
          break;
        case 4:
          faults.push_back({at, FaultKind::reorder, 0});
          break;
        default:
          break;
      }
    }
    LoadOptions options;
    options.engine = engines[between(random, 0, engines.size() - 1)];
    options.cache = between(random, 0, 1) != 0 ? CacheMode::bypass : CacheMode::keep;
    options.mapping = MappingMode::never;
    options.block_bytes = kChunk * between(random, 1, 4);
    options.queue_depth = static_cast<unsigned>(between(random, 1, 8));
    options.lanes = static_cast<unsigned>(between(random, 1, 3));
    const auto job = load.run(options, faults, between(random, 0, 1) != 0);
    check_right(load, *job);
  }
}

TEST_CASE("a file that shrank after it was opened is an error with the offset where it ends") {
  constexpr std::uint64_t kBytes = kStart + 4 * kBlock + 1000;
  for (const EnginePreference engine : engines_here()) {
    for (const CacheMode cache : {CacheMode::bypass, CacheMode::keep}) {
      for (const std::uint64_t left :
           {std::uint64_t{0}, std::uint64_t{1}, kStart, kStart + 1, kStart + kBlock,
            kStart + kBlock + 123, kStart + 2 * kBlock + 8192, kBytes - 1}) {
        CAPTURE(testing::name_of(engine));
        CAPTURE(name_of(cache));
        CAPTURE(left);
        const SampleFile sample(Place::disk, kBytes);
        ShardRequest request{
            {File::open(sample.path())}, {{kStart, kBytes}}, sample.table(kStart, kChunk)};
        sample.truncate(left);
        LoadOptions options = one_at_a_time(engine, kBlock);
        options.cache = cache;
        const auto job = load_to_the_end({std::move(request)}, options);
        REQUIRE(job->outcome().failure().has_value());
        CHECK(job->outcome().failure()->error == ENODATA);
        CHECK(job->outcome().failure()->offset == left);
        CHECK(job->outcome().failure()->detail.find(std::to_string(kBytes)) != std::string::npos);
        CHECK_FALSE(job->outcome().damage().has_value());
      }
    }
  }
}

TEST_CASE("a mapped file that shrank is an error and no SIGBUS") {
  for (const std::uint64_t nbytes :
       {std::uint64_t{kMiB}, std::uint64_t{6 * kMiB}}) {  // without lanes, and with
    for (const std::uint64_t left : {std::uint64_t{0}, nbytes / 2, nbytes / 2 + 100, nbytes - 1}) {
      CAPTURE(left);
      const SampleFile sample(Place::memory, nbytes);
      ShardRequest request{{File::open(sample.path())}, {{0, nbytes}}, sample.table(0, kChunk)};
      sample.truncate(left);
      LoadOptions options;
      options.block_bytes = kBlock;
      const auto job = load_to_the_end({std::move(request)}, options);
      CHECK(job->layout().access(0).mode == ReadMode::mapped);
      REQUIRE(job->outcome().failure().has_value());
      CHECK(job->outcome().failure()->error == ENODATA);
      CHECK(job->outcome().failure()->offset == left);
    }
  }
}

}  // namespace
}  // namespace fastio
