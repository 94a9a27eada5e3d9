// A job brings the bytes of its files in every mode.
#include "loader.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>

#include "loading.h"
#include "sample_file.h"

namespace fastio {
namespace {

using testing::between;
using testing::engines_here;
using testing::first_difference;
using testing::load_to_the_end;
using testing::Place;
using testing::Random;
using testing::SampleFile;
using testing::tile;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kStart = 8192;  // of the data section, as in a sealed file

ShardRequest request_of(const SampleFile& sample, std::vector<Extent> extents,
                        std::optional<ChunkTable> table = {}) {
  return {{File::open(sample.path())}, std::move(extents), std::move(table)};
}

LoadOptions small_blocks(EnginePreference engine) {
  LoadOptions options;
  options.engine = engine;
  options.block_bytes = 512 * kKiB;
  options.queue_depth = 4;
  return options;
}

std::uint64_t bytes_of(const LoadCounters& counters) {
  return counters.bytes_direct + counters.bytes_buffered + counters.bytes_mapped;
}

void check_every_way(const SampleFile& sample, bool cold) {
  constexpr std::array kCaches = {CacheMode::automatic, CacheMode::bypass, CacheMode::keep};
  constexpr std::array kMappings = {MappingMode::automatic, MappingMode::never};
  Random random(7);
  const auto extents = tile(random, kStart, sample.bytes().size(), 40);
  const ChunkTable table = sample.table(kStart, 64 * kKiB);
  for (const EnginePreference engine : engines_here()) {
    for (const CacheMode cache : kCaches) {
      for (const MappingMode mapping : kMappings) {
        for (const bool verified : {true, false}) {
          CAPTURE(cold);
          CAPTURE(testing::name_of(engine));
          CAPTURE(static_cast<int>(cache));
          CAPTURE(static_cast<int>(mapping));
          CAPTURE(verified);
          if (cold && !sample.evict()) {
            MESSAGE("not tested: the working folder keeps its pages");
            return;
          }
          if (!cold) sample.warm();
          LoadOptions options = small_blocks(engine);
          options.cache = cache;
          options.mapping = mapping;
          auto request = request_of(sample, extents);
          if (verified) request.table = table;
          const auto job = load_to_the_end({std::move(request)}, options);
          REQUIRE_FALSE(job->outcome().failure().has_value());
          REQUIRE_FALSE(job->outcome().damage().has_value());
          const LoadCounters& counters = job->counters();
          const ShardAccess& access = job->layout().access(0);
          CAPTURE(access.reason);
          CHECK(access.cache_state == (cold ? "cold" : "warm"));
          CHECK(counters.chunks_verified() == (verified ? table.digests.size() : 0));
          CHECK(counters.bytes_done == job->bytes_total());
          CHECK(bytes_of(counters) == job->bytes_total());
          if (access.mode == ReadMode::mapped) {
            CHECK(mapping == MappingMode::automatic);
            CHECK(counters.bytes_direct + counters.bytes_buffered == 0);
          }
          if (access.mode == ReadMode::direct) CHECK(counters.bytes_direct == job->bytes_total());
          if (access.mode == ReadMode::buffered)
            CHECK(counters.bytes_buffered == job->bytes_total());
          if (cache == CacheMode::keep || !cold) {
            CHECK((access.mode == ReadMode::direct) ==
                  (cache == CacheMode::bypass && !sample.in_memory()));
          }
          CHECK(first_difference(*job, sample) == "");
        }
      }
    }
  }
}

TEST_CASE("every engine, cache mode and mapping brings the bytes of a cold file, verified or not") {
  check_every_way(SampleFile(Place::disk, 6 * kMiB + 4321), true);
}

TEST_CASE("every engine, cache mode and mapping brings the bytes of a warm file, verified or not") {
  check_every_way(SampleFile(Place::disk, 6 * kMiB + 4321), false);
}

TEST_CASE("cached blocks are verified one by one, as they are copied") {
  constexpr std::uint64_t kBytes = 6 * kMiB;  // more than is done without lanes
  const SampleFile sample(Place::disk, kBytes);
  for (const EnginePreference engine : engines_here()) {
    CAPTURE(testing::name_of(engine));
    LoadOptions options = small_blocks(engine);
    options.lanes = 1;
    options.mapping = MappingMode::never;
    // The first block is damaged: none of the later blocks was copied before that was found.
    const testing::InjectedFaults faults({{0, FaultKind::flip, 0}});
    sample.warm();
    const auto job =
        load_to_the_end({request_of(sample, {{0, kBytes}}, sample.table(0, 64 * kKiB))}, options);
    REQUIRE(job->layout().access(0).cache_state == "warm");
    REQUIRE(job->outcome().damage().has_value());
    CHECK(job->counters().bytes_buffered == options.block_bytes);
  }
}

TEST_CASE(
    "every engine, cache mode and mapping brings the bytes of a file in memory, verified or not") {
  check_every_way(SampleFile(Place::memory, 6 * kMiB + 4321), false);
}

TEST_CASE("a cold file read direct stays cold") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  if (!File::open(sample.path())->direct_access().possible) return;
  for (const EnginePreference engine : engines_here()) {
    for (const CacheMode cache : {CacheMode::automatic, CacheMode::bypass}) {
      if (!sample.evict()) return;
      LoadOptions options = small_blocks(engine);
      options.cache = cache;
      const auto job = load_to_the_end({request_of(sample, {{0, 8 * kMiB}})}, options);
      CHECK(first_difference(*job, sample) == "");
      CHECK(sample.resident_pages() == 0);
    }
  }
}

// Loads a cold file, and again if the machine reclaimed pages before they were counted.
void check_that_it_is_kept(const LoadOptions& options) {
  const SampleFile sample(Place::disk, 8 * kMiB);
  std::size_t kept = 0;
  for (int tries = 0; kept != 8 * kMiB / 4096 && tries < 20; ++tries) {
    if (!sample.evict()) return;
    const auto job = load_to_the_end({request_of(sample, {{0, 8 * kMiB}})}, options);
    kept = sample.resident_pages();
    CHECK(job->layout().access(0).mode == ReadMode::buffered);
    CHECK(first_difference(*job, sample) == "");
  }
  CHECK(kept == 8 * kMiB / 4096);
}

TEST_CASE("a cold file that is to be kept, or that other ranks are about to read, is warm after") {
  for (const EnginePreference engine : engines_here()) {
    LoadOptions kept = small_blocks(engine);
    kept.cache = CacheMode::keep;
    check_that_it_is_kept(kept);
    LoadOptions many_ranks = small_blocks(engine);
    many_ranks.keep_cold = true;
    check_that_it_is_kept(many_ranks);
  }
}

TEST_CASE("a file that is half in the page cache is taken from there block by block") {
  const SampleFile sample(Place::disk, 16 * kMiB);
  if (!File::open(sample.path())->direct_access().possible) return;
  for (const EnginePreference engine : engines_here()) {
    if (!sample.evict()) return;
    sample.warm(0, 8 * kMiB);
    const auto job = load_to_the_end(
        {request_of(sample, {{0, 16 * kMiB}}, sample.table(0, 64 * kKiB))}, small_blocks(engine));
    CHECK(job->layout().access(0).cache_state == "mixed");
    CHECK(job->counters().bytes_buffered == 8 * kMiB);
    CHECK(job->counters().bytes_direct == 8 * kMiB);
    CHECK(first_difference(*job, sample) == "");
  }
}

TEST_CASE("the bytes are right for random tables, extents, blocks and depths") {
  const std::uint64_t seed = testing::random_seed();
  Random random(seed);
  const SampleFile sample(Place::disk, 5 * kMiB + 1234);
  for (int i = 0; i < testing::random_cases(30); ++i) {
    INFO("FASTIO_TEST_SEED=", seed, ", job ", i);
    const std::uint64_t start =
        between(random, 0, 1) != 0 ? 4096 * between(random, 0, 9) : between(random, 0, 9999);
    std::vector<Extent> extents =
        tile(random, start, sample.bytes().size(), between(random, 1, 60));
    if (between(random, 0, 1) != 0)
      std::erase_if(extents, [&](const Extent&) { return between(random, 0, 2) != 0; });
    auto request = request_of(sample, extents);
    const std::uint64_t chunk_bytes = std::uint64_t{1} << between(random, 12, 22);
    if (between(random, 0, 3) != 0) request.table = sample.table(start, chunk_bytes);
    LoadOptions options;
    // Not io_uring alone: the limit on locked memory may refuse that many rings.
    options.engine =
        between(random, 0, 1) != 0 ? EnginePreference::automatic : EnginePreference::pread;
    options.cache =
        std::array{CacheMode::automatic, CacheMode::bypass, CacheMode::keep}[between(random, 0, 2)];
    options.mapping = between(random, 0, 1) != 0 ? MappingMode::automatic : MappingMode::never;
    options.huge_pages =
        std::array{HugePages::automatic, HugePages::on, HugePages::off}[between(random, 0, 2)];
    options.block_bytes = between(random, 1, 2 * kMiB);
    options.queue_depth = static_cast<unsigned>(between(random, 1, 40));
    options.lanes = static_cast<unsigned>(between(random, 1, 6));
    if (between(random, 0, 1) != 0)
      options.memory_limit_bytes = 40 * kMiB;  // and so smaller regions
    if (between(random, 0, 1) != 0) static_cast<void>(sample.evict());
    const auto job = load_to_the_end({std::move(request)}, options);
    REQUIRE_FALSE(job->outcome().failure().has_value());
    REQUIRE_FALSE(job->outcome().damage().has_value());
    REQUIRE(first_difference(*job, sample) == "");
  }
}

TEST_CASE("files of every kind make one job") {
  const SampleFile cold(Place::disk, 7 * kMiB + 1, 1);
  const SampleFile warm(Place::disk, 6 * kMiB + 2, 2);
  const SampleFile memory(Place::memory, 5 * kMiB + 3, 3);
  const SampleFile nothing(Place::disk, 0, 4);
  const SampleFile unasked(Place::disk, 4 * kMiB, 5);
  const SampleFile unverified(Place::disk, kMiB + 5, 6);
  Random random(1);
  for (const EnginePreference engine : engines_here()) {
    static_cast<void>(cold.evict());
    warm.warm();
    const auto job = load_to_the_end(
        {request_of(cold, tile(random, 4096, 7 * kMiB + 1, 9), cold.table(4096, 64 * kKiB)),
         request_of(warm, tile(random, 0, 6 * kMiB + 2, 9), warm.table(0, kMiB)),
         request_of(nothing, {{0, 0}, {0, 0}}),
         request_of(memory, tile(random, 100, 5 * kMiB + 3, 9), memory.table(100, 64 * kKiB)),
         request_of(unasked, {}), request_of(unverified, tile(random, 17, kMiB + 5, 9))},
        small_blocks(engine));
    REQUIRE_FALSE(job->outcome().failure().has_value());
    REQUIRE_FALSE(job->outcome().damage().has_value());
    CHECK(job->layout().shards.size() == 6);
    CHECK(first_difference(*job, {cold.bytes(), warm.bytes(), nothing.bytes(), memory.bytes(),
                                  unasked.bytes(), unverified.bytes()}) == "");
  }
}

TEST_CASE("a job of nothing is done at once") {
  const auto job = LoadJob::start({}, {});
  CHECK(job->wait_for(std::chrono::milliseconds(0)));
  CHECK(job->take_regions().empty());
  CHECK_FALSE(job->outcome().failure().has_value());
}

TEST_CASE("a small job whose bytes are in memory needs no lane") {
  for (const Place place : {Place::disk, Place::memory}) {
    const SampleFile sample(place, kMiB + 1);
    sample.warm();
    for (const MappingMode mapping : {MappingMode::automatic, MappingMode::never}) {
      LoadOptions options;
      options.mapping = mapping;
      const auto job = LoadJob::start(
          {request_of(sample, {{4096, kMiB + 1}}, sample.table(4096, 64 * kKiB))}, options);
      CHECK(job->wait_for(std::chrono::milliseconds(0)));
      CHECK(job->report().lanes == 0);
      CHECK(job->counters().chunks_verified() == 16);
      CHECK(first_difference(*job, sample) == "");
    }
  }
}

TEST_CASE(
    "chunks that do not begin where O_DIRECT can are read through the page cache, and the reason "
    "says so") {
  const SampleFile sample(Place::disk, 6 * kMiB);
  if (sample.in_memory()) return;
  LoadOptions options;
  options.cache = CacheMode::bypass;
  const auto job = load_to_the_end(
      {request_of(sample, {{100, 6 * kMiB}}, sample.table(100, 64 * kKiB))}, options);
  CHECK(job->layout().access(0).mode == ReadMode::buffered);
  CHECK(job->layout().access(0).reason.find("O_DIRECT") != std::string::npos);
  CHECK(first_difference(*job, sample) == "");
}

TEST_CASE("two regions that share a chunk both have its bytes, and it is counted once") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  LoadOptions options = small_blocks(EnginePreference::automatic);
  options.cache = CacheMode::bypass;
  options.mapping = MappingMode::never;
  options.memory_limit_bytes = 10 * kMiB;  // regions of 2.5 MiB
  const auto job = load_to_the_end(
      {request_of(sample,
                  {{0, 2 * kMiB + 7}, {2 * kMiB + 7, 4 * kMiB + 9}, {4 * kMiB + 9, 8 * kMiB}},
                  sample.table(0, 64 * kKiB))},
      options);
  CHECK(job->layout().plans[0].regions.size() == 3);
  CHECK(job->bytes_total() == 8 * kMiB + 128 * kKiB);
  CHECK(job->counters().chunks_verified() == 128);
  CHECK(first_difference(*job, sample) == "");
}

TEST_CASE("pages that hold no tensor are given back") {
  const SampleFile sample(Place::disk, 2 * kMiB);
  LoadOptions options;
  options.cache = CacheMode::bypass;
  options.mapping = MappingMode::never;
  options.huge_pages = HugePages::off;
  const auto job =
      load_to_the_end({request_of(sample, {{100'000, 100'010}, {kMiB + 100'000, kMiB + 100'010}},
                                  sample.table(0, kMiB))},
                      options);
  const auto regions = job->take_regions();
  REQUIRE(regions.at(0).size() == 1);
  const Region& region = *regions[0][0];
  std::vector<unsigned char> resident(region.nbytes() / 4096);
  REQUIRE(mincore(region.at(0), region.nbytes(), resident.data()) == 0);
  CHECK(std::count_if(resident.begin(), resident.end(),
                      [](unsigned char page) { return (page & 1U) != 0; }) == 2);
  CHECK(std::equal(region.at(kMiB + 100'000), region.at(kMiB + 100'010),
                   sample.bytes().begin() + kMiB + 100'000));
}

TEST_CASE("many jobs over the same files may run in many threads at once") {
  const SampleFile disk(Place::disk, 5 * kMiB + 77, 1);
  const SampleFile memory(Place::memory, 5 * kMiB + 99, 2);
  const auto disk_file = File::open(disk.path());
  const auto memory_file = File::open(memory.path());
  const ChunkTable disk_table = disk.table(4096, 64 * kKiB);
  const ChunkTable memory_table = memory.table(4096, 64 * kKiB);
  const auto engines = engines_here();
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      Random random(t);
      for (int i = 0; i < 4; ++i) {
        LoadOptions options =
            small_blocks(engines[(t + static_cast<std::uint64_t>(i)) % engines.size()]);
        options.cache = i % 2 == 0 ? CacheMode::bypass : CacheMode::keep;
        options.mapping = t % 3 == 0 ? MappingMode::automatic : MappingMode::never;
        const auto job = LoadJob::start(
            {{{disk_file}, tile(random, 4096, disk.bytes().size(), 20), disk_table},
             {{memory_file}, tile(random, 4096, memory.bytes().size(), 20), memory_table}},
            options);
        if (!job->wait_for(testing::kPatience) || job->outcome().failure() ||
            job->outcome().damage() ||
            !first_difference(*job, {disk.bytes(), memory.bytes()}).empty()) {
          ++wrong;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

}  // namespace
}  // namespace fastio
