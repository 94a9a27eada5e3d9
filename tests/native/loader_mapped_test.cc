// A file that is not in the page cache is brought in and mapped.
#include <doctest/doctest.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "loader_ahead.h"
#include "loading.h"
#include "populate.h"
#include "sample_file.h"

namespace fastio {
namespace {

using testing::between;
using testing::load_to_the_end;
using testing::Place;
using testing::Random;
using testing::SampleFile;
using testing::tile;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kStart = 8192;
constexpr std::uint64_t kChunk = 65536;
constexpr std::uint64_t kBlock = 4 * kChunk;
constexpr std::uint64_t kBytes = 6 * kMiB + 4321;

ShardRequest request_of(const SampleFile& sample, bool verified = true) {
  ShardRequest request{{File::open(sample.path())}, {{kStart, sample.bytes().size()}}, {}};
  if (verified) request.table = sample.table(kStart, kChunk);
  return request;
}

LoadOptions kept(std::uint64_t room_bytes = UINT64_MAX) {
  LoadOptions options;
  options.cache = CacheMode::keep;
  options.mapping_room_bytes = room_bytes;
  options.block_bytes = kBlock;
  return options;
}

// False, with a message, where the working folder keeps its pages.
bool evicted(const SampleFile& sample) {
  const bool cold = sample.evict();
  if (!cold) MESSAGE("not tested: the working folder keeps its pages");
  return cold;
}

ReadMode mode_of(const SampleFile& sample, const LoadOptions& options) {
  return choose_access(request_of(sample), 0, options).mode;
}

TEST_CASE("a cold file that is to be kept is brought in and mapped") {
  const SampleFile sample(Place::disk, kBytes);
  for (const bool verified : {true, false}) {
    for (const HugePages huge_pages : {HugePages::automatic, HugePages::off}) {
      for (const unsigned lanes : {1U, 3U}) {
        if (!evicted(sample)) return;
        LoadOptions options = kept();
        options.huge_pages = huge_pages;
        options.lanes = lanes;
        const auto job = load_to_the_end({request_of(sample, verified)}, options);
        CHECK_FALSE(job->has_failed());
        const ShardAccess& access = job->layout().access(0);
        CHECK(access.mode == ReadMode::mapped);
        CHECK(access.cache_state == "cold");
        CHECK(access.reason.find("brought in and mapped") != std::string::npos);
        const LoadCounters& counters = job->counters();
        CHECK(counters.bytes_mapped == job->bytes_total());
        CHECK(job->bytes_total() >= kBytes - kStart);
        CHECK(counters.bytes_direct + counters.bytes_buffered == 0);
        CHECK(counters.chunks_verified() ==
              (verified ? sample.table(kStart, kChunk).digests.size() : 0));
        CHECK(job->report().engine == "mmap");
        CHECK(job->report().engine_reason.find("brought in") != std::string::npos);
        CHECK(job->report().lanes == lanes);
        CHECK(testing::first_difference(*job, sample) == "");
      }
    }
  }
}

TEST_CASE("a file of which some pages are cached is brought in as well") {
  const SampleFile sample(Place::disk, kBytes);
  if (!evicted(sample)) return;
  sample.warm(2 * kMiB, 4 * kMiB);
  const auto job = load_to_the_end({request_of(sample)}, kept());
  CHECK(job->layout().access(0).cache_state == "mixed");
  CHECK(job->layout().access(0).mode == ReadMode::mapped);
  CHECK(testing::first_difference(*job, sample) == "");
}

TEST_CASE("a cold file is mapped only if the cache keeps it, it is let, and memory has room") {
  const SampleFile sample(Place::disk, kBytes);
  if (!evicted(sample)) return;
  CHECK(mode_of(sample, kept(kBytes - kStart)) == ReadMode::mapped);
  CHECK(mode_of(sample, kept(kBytes - kStart - 1)) == ReadMode::buffered);
  LoadOptions options = kept();
  options.mapping = MappingMode::never;
  CHECK(mode_of(sample, options) == ReadMode::buffered);
  options = kept();
  options.mapping_room_bytes = {};  // as in a stream
  CHECK(mode_of(sample, options) == ReadMode::buffered);
  options = kept();
  options.cache = CacheMode::automatic;
  CHECK(mode_of(sample, options) == ReadMode::direct);
  options.keep_cold = true;
  CHECK(mode_of(sample, options) == ReadMode::mapped);
  const ShardAccess refused = choose_access(request_of(sample), 0, kept(0));
  CHECK(refused.reason.find("memory has no room") != std::string::npos);
}

TEST_CASE("the room is that of all files together") {
  const SampleFile first(Place::disk, kBytes);
  const SampleFile second(Place::disk, kBytes);
  for (const std::uint64_t less : {0, 1}) {
    if (!evicted(first) || !evicted(second)) return;
    const LoadOptions options = kept(2 * (kBytes - kStart) - less);
    const auto job = load_to_the_end({request_of(first), request_of(second)}, options);
    for (const std::size_t shard : {0, 1}) {
      CHECK(job->layout().maps(shard) == (less == 0));
    }
    CHECK(job->outcome().fallbacks().empty());
    CHECK_FALSE(job->has_failed());
  }
}

TEST_CASE("told to, a job maps a cold file whatever the room, except past the page cache") {
  const SampleFile sample(Place::disk, kBytes);
  if (!evicted(sample)) return;
  LoadOptions options = kept(0);
  options.mapping = MappingMode::always;
  CHECK(mode_of(sample, options) == ReadMode::mapped);
  options.cache = CacheMode::automatic;
  CHECK(mode_of(sample, options) == ReadMode::mapped);
  options.cache = CacheMode::bypass;
  CHECK(mode_of(sample, options) == ReadMode::direct);
  options = kept(0);
  options.mapping = MappingMode::always;
  options.persistent = true;
  CHECK(mode_of(sample, options) == ReadMode::buffered);
  options.persistent = false;
  ShardRequest two = request_of(sample);
  two.replicas.emplace_back(File::open(sample.path()));
  CHECK(choose_access(two, 0, options).mode == ReadMode::buffered);
}

TEST_CASE("a small cold file is brought in by a lane, and not by the caller's thread") {
  const SampleFile sample(Place::disk, kMiB);
  if (!evicted(sample)) return;
  const auto job = load_to_the_end({request_of(sample)}, kept());
  CHECK(job->report().engine == "mmap");
  CHECK(job->report().lanes >= 1);
  CHECK(testing::first_difference(*job, sample) == "");
}

TEST_CASE("some extents of a cold file are brought in, in any options") {
  const std::uint64_t seed = testing::random_seed();
  Random random(seed);
  const SampleFile sample(Place::disk, kBytes, seed);
  for (int i = 0; i < testing::random_cases(20); ++i) {
    INFO("FASTIO_TEST_SEED=", seed, ", job ", i);
    if (!evicted(sample)) return;
    ShardRequest request = request_of(sample, between(random, 0, 1) != 0);
    request.extents = tile(random, kStart, kBytes, between(random, 1, 30));
    std::erase_if(request.extents, [&](const Extent&) { return between(random, 0, 2) == 0; });
    LoadOptions options = kept();
    options.block_bytes = kChunk * between(random, 1, 20);
    options.lanes = static_cast<unsigned>(between(random, 1, 4));
    options.huge_pages = between(random, 0, 1) != 0 ? HugePages::on : HugePages::off;
    const auto job = load_to_the_end({std::move(request)}, options);
    CHECK_FALSE(job->has_failed());
    CHECK(testing::first_difference(*job, sample) == "");
  }
}

TEST_CASE("a mapping that is brought in counts by the returned bytes against the limit") {
  const SampleFile sample(Place::disk, kBytes);
  if (!evicted(sample)) return;
  LoadOptions options = kept();
  options.memory_limit_bytes = kBytes - kStart - 1;
  CHECK_THROWS_AS(LoadJob::start({request_of(sample)}, options), MemoryLimitExceeded);
  options.memory_limit_bytes = kBytes - kStart;
  const auto job = load_to_the_end({request_of(sample)}, options);
  CHECK(job->layout().maps(0));
  CHECK(testing::first_difference(*job, sample) == "");
}

TEST_CASE("a damaged chunk that is brought in is told") {
  const SampleFile sample(Place::disk, kBytes);
  constexpr std::uint64_t kRotten = kStart + 9 * kChunk + 5;
  sample.overwrite(kRotten, sample.bytes()[kRotten] ^ std::byte{1});
  if (!evicted(sample)) return;
  const auto job = load_to_the_end({request_of(sample)}, kept());
  CHECK(job->layout().maps(0));
  REQUIRE(job->outcome().damage().has_value());
  CHECK(job->outcome().damage()->chunk == 9);
  CHECK(job->outcome().damage()->extent == Extent{kStart + 9 * kChunk, kStart + 10 * kChunk});
  CHECK(job->incidents().take().size() == 1);
}

TEST_CASE("a cold file that shrank after it was opened is an error with the offset where it ends") {
  for (const bool verified : {true, false}) {
    for (const std::uint64_t left : {std::uint64_t{0}, kStart + 1, kStart + kBlock,
                                     kStart + kBlock + 123, 2 * kMiB + 4096, kBytes - 1}) {
      CAPTURE(verified);
      CAPTURE(left);
      const SampleFile sample(Place::disk, kBytes);
      if (!evicted(sample)) return;
      ShardRequest request = request_of(sample, verified);
      sample.truncate(left);
      LoadOptions options = kept();
      options.mapping = MappingMode::always;
      options.lanes = 1;
      const auto job = load_to_the_end({std::move(request)}, options);
      CHECK(job->layout().maps(0));
      REQUIRE(job->outcome().failure().has_value());
      CHECK(job->outcome().failure()->error == ENODATA);
      CHECK(job->outcome().failure()->offset == left);
      CHECK(job->outcome().failure()->detail.find(std::to_string(kBytes)) != std::string::npos);
      CHECK_FALSE(job->outcome().damage().has_value());
    }
  }
}

// Each file is cut when a lane has just brought a block in, and compares it.
TEST_CASE("a cold file that shrinks while it is verified is an error and no SIGBUS") {
  for (int i = 0; i < testing::random_cases(60); ++i) {
    const SampleFile sample(Place::disk, kBytes);
    if (!evicted(sample)) return;
    LoadOptions options = kept();
    options.block_bytes = 4 * kMiB;
    const auto job = LoadJob::start({request_of(sample)}, options);
    CHECK(job->layout().maps(0));
    while (job->counters().bytes_mapped == 0 && !job->wait_for(std::chrono::milliseconds(0))) {
    }
    sample.truncate(0);
    CHECK(job->wait_for(testing::kPatience));
    // Zeros of a page that was being cut do not verify; a block may have been done before.
    if (const auto failure = job->outcome().failure()) CHECK(failure->error == ENODATA);
  }
}

TEST_CASE("a cancelled job ends while blocks are brought in") {
  const SampleFile sample(Place::disk, kBytes);
  if (!evicted(sample)) return;
  LoadOptions options = kept();
  options.block_bytes = kChunk;
  const auto job = LoadJob::start({request_of(sample)}, options);
  job->cancel();
  CHECK(job->wait_for(testing::kPatience));
}

TEST_CASE("pages that cannot be populated are told as a read tells them") {
  const SampleFile sample(Place::disk, 2 * kMiB);
  const auto file = File::open(sample.path());
  const auto region = Region::map(*file);
  REQUIRE(can_populate());
  CHECK_FALSE(populate(*file, *region, 5, 2 * kMiB).has_value());
  CHECK_FALSE(populate(*file, *region, kMiB, kMiB).has_value());
  for (const std::uint64_t left : {kMiB + 5, kMiB, std::uint64_t{0}}) {
    CAPTURE(left);
    sample.truncate(left);
    const auto failure = populate(*file, *region, 100, 2 * kMiB);
    REQUIRE(failure.has_value());
    CHECK(failure->error == ENODATA);
    CHECK(failure->operation == "read");
    CHECK(failure->path == sample.path());
    CHECK(failure->offset == left);
    CHECK(failure->detail.find("the file ends here") != std::string::npos);
    if (left > 100) CHECK_FALSE(populate(*file, *region, 100, left).has_value());
  }
}

// A mapping that is advised so brings one page at a time, as a device without readahead does.
TEST_CASE("a kernel that does not read ahead is asked for the blocks that come next") {
  const SampleFile sample(Place::disk, kBytes);
  if (!evicted(sample)) return;
  LoadLayout layout =
      lay_out({request_of(sample)}, {{choose_access(request_of(sample), 0, kept())}}, kept(),
              Landing::straight);
  REQUIRE(layout.brings_in(0));
  const auto region = Region::map(*layout.shards.front().replicas.front().file());
  madvise(region->at(0), kBytes, MADV_RANDOM);
  MappingAhead ahead;
  CHECK_FALSE(ahead.asks());
  ahead.come_to(layout, 2, *region);
  CHECK(ahead.asks());
  const std::size_t behind = kStart / 4096;  // of the blocks, all are asked for
  const auto until = std::chrono::steady_clock::now() + testing::kPatience;
  while (sample.resident_pages() < (kBytes + 4095) / 4096 - behind &&
         std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  CHECK(sample.resident_pages() >= (kBytes + 4095) / 4096 - behind);
}

TEST_CASE("what is cached already says nothing of the kernel") {
  const SampleFile sample(Place::disk, kBytes);
  if (!evicted(sample)) return;
  LoadLayout layout =
      lay_out({request_of(sample)}, {{choose_access(request_of(sample), 0, kept())}}, kept(),
              Landing::straight);
  sample.warm(0, kMiB);
  const auto region = Region::map(*layout.shards.front().replicas.front().file());
  madvise(region->at(0), kBytes, MADV_RANDOM);
  MappingAhead ahead;
  ahead.come_to(layout, 0, *region);
  CHECK_FALSE(ahead.asks());
  ahead.come_to(layout, layout.blocks.size() - 1, *region);  // less than a trial is left
  CHECK_FALSE(ahead.asks());
}

}  // namespace
}  // namespace fastio
