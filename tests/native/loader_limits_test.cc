// Requests that are refused before any I/O.
#include <dirent.h>
#include <doctest/doctest.h>

#include <fstream>
#include <stdexcept>

#include "loader.h"
#include "loading.h"
#include "sample_file.h"

namespace fastio {
namespace {

using testing::Place;
using testing::SampleFile;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

std::uint64_t pages_of_address_space() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t pages = 0;
  statm >> pages;
  return pages;
}

std::size_t entries_of(const char* folder) {
  DIR* opened = opendir(folder);
  REQUIRE(opened != nullptr);
  std::size_t count = 0;
  while (readdir(opened) != nullptr) ++count;
  closedir(opened);
  return count;
}

LoadOptions direct() {
  LoadOptions options;
  options.cache = CacheMode::bypass;
  options.mapping = MappingMode::never;
  return options;
}

ShardRequest whole(const SampleFile& sample) {
  return {{File::open(sample.path())}, {{0, sample.bytes().size()}}, {}};
}

TEST_CASE("a job over the memory limit is refused before anything is allocated") {
  const SampleFile sample(Place::disk, 32 * kMiB);
  std::vector<ShardRequest> shards{whole(sample)};
  static_cast<void>(shards[0].replicas[0].file()->direct_access());
  LoadOptions options = direct();
  options.memory_limit_bytes = 32 * kMiB - 1;
  const std::uint64_t pages = pages_of_address_space();
  const std::size_t descriptors = entries_of("/proc/self/fd");
  const std::size_t threads = entries_of("/proc/self/task");
  bool refused = false;
  try {
    static_cast<void>(LoadJob::start(shards, options));
  } catch (const MemoryLimitExceeded& error) {
    refused = true;
    CHECK(error.asked_bytes == 32 * kMiB);
    CHECK(error.limit_bytes == 32 * kMiB - 1);
    CHECK(error.held_bytes == 0);
  }
  CHECK(refused);
  CHECK(pages_of_address_space() < pages + 8 * kMiB / 4096);
  CHECK(entries_of("/proc/self/fd") == descriptors);
  CHECK(entries_of("/proc/self/task") == threads);
}

TEST_CASE("a job that just fits its limit is done") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  LoadOptions options = direct();
  options.memory_limit_bytes = 8 * kMiB;
  CHECK(testing::first_difference(*testing::load_to_the_end({whole(sample)}, options), sample) ==
        "");
}

TEST_CASE("the limit is for all files together, and a mapping counts by the returned bytes") {
  const SampleFile first(Place::disk, 8 * kMiB);
  const SampleFile second(Place::memory, 8 * kMiB);
  LoadOptions options = direct();
  options.mapping = MappingMode::automatic;
  options.memory_limit_bytes = 16 * kMiB - 1;
  CHECK_THROWS_AS(LoadJob::start({whole(first), whole(second)}, options), MemoryLimitExceeded);
  options.memory_limit_bytes = 16 * kMiB;
  CHECK_NOTHROW(
      static_cast<void>(testing::load_to_the_end({whole(first), whole(second)}, options)));
}

TEST_CASE("a limit of nothing refuses everything but nothing") {
  const SampleFile sample(Place::disk, 4096);
  LoadOptions options = direct();
  options.memory_limit_bytes = 0;
  CHECK_THROWS_AS(LoadJob::start({whole(sample)}, options), MemoryLimitExceeded);
  CHECK_NOTHROW(LoadJob::start({{{File::open(sample.path())}, {{7, 7}}, {}}}, options));
}

TEST_CASE("numbers that make no sense are refused") {
  const SampleFile sample(Place::disk, 4096);
  const auto refused = [&](auto&& spoil) {
    LoadOptions options;
    spoil(options);
    CHECK_THROWS_AS(LoadJob::start({whole(sample)}, options), std::invalid_argument);
  };
  refused([](LoadOptions& options) { options.lanes = 0; });
  refused([](LoadOptions& options) { options.lanes = 1025; });
  refused([](LoadOptions& options) { options.queue_depth = 0; });
  refused([](LoadOptions& options) { options.queue_depth = 4097; });
  refused([](LoadOptions& options) { options.block_bytes = 0; });
  refused([](LoadOptions& options) { options.block_bytes = (std::uint64_t{1} << 30) + 1; });
}

TEST_CASE("extents that are not in the file are refused") {
  const SampleFile sample(Place::disk, 4096);
  const auto file = File::open(sample.path());
  CHECK_THROWS_AS(LoadJob::start({{{file}, {{0, 4097}}, {}}}, {}), std::invalid_argument);
  CHECK_THROWS_AS(LoadJob::start({{{file}, {{100, 50}}, {}}}, {}), std::invalid_argument);
  CHECK_THROWS_AS(LoadJob::start({{{file}, {{0, 100}, {50, 150}}, {}}}, {}), std::invalid_argument);
}

TEST_CASE("a table that does not fit its file is refused") {
  const SampleFile sample(Place::disk, 2 * kMiB);
  const auto file = File::open(sample.path());
  const auto refused = [&](auto&& spoil) {
    ShardRequest request{{file}, {{4096, 2 * kMiB}}, sample.table(4096, 65536)};
    spoil(*request.table);
    CHECK_THROWS_AS(LoadJob::start({std::move(request)}, {}), std::invalid_argument);
  };
  const auto of = [](std::size_t count) { return Digests(default_algorithm(), count); };
  const std::size_t right = sample.table(4096, 65536).digests.size();
  for (const std::size_t wrong : {right - 1, right + 1, std::size_t{0}}) {
    refused([&](ChunkTable& table) { table.digests = of(wrong); });
  }
  refused([](ChunkTable& table) { table.grid.chunk_bytes = 0; });
  refused([](ChunkTable& table) { table.grid.chunk_bytes = UINT64_MAX; });
  refused([](ChunkTable& table) { table.grid.start = 8 * kMiB; });
  refused([&](ChunkTable& table) {
    table.grid.chunk_bytes = std::uint64_t{1} << 32U;  // more than one request can read
    table.digests = of(1);
  });
}

}  // namespace
}  // namespace fastio
