// Loads and saves with each algorithm of checksums that there is.
#include <doctest/doctest.h>

#include <optional>
#include <utility>
#include <vector>

#include "checksum.h"
#include "loader.h"
#include "loading.h"
#include "mapped.h"
#include "sample_file.h"
#include "saver.h"
#include "saving.h"

namespace fastio {
namespace {

using testing::engines_here;
using testing::load_to_the_end;
using testing::Place;
using testing::SampleFile;

constexpr std::uint64_t kStart = 4096;
constexpr std::uint64_t kChunk = std::uint64_t{64} << 10;
constexpr std::uint64_t kNbytes = kStart + 20 * kChunk + 77;
constexpr std::uint64_t kDamaged = 7;  // a chunk

ShardRequest request_of(const SampleFile& sample, const Algorithm& algorithm) {
  return {
      {File::open(sample.path())}, {{kStart, kNbytes}}, sample.table(kStart, kChunk, algorithm)};
}

LoadOptions options_of(EnginePreference engine, MappingMode mapping) {
  LoadOptions options;
  options.engine = engine;
  options.mapping = mapping;
  options.block_bytes = 4 * kChunk;
  return options;
}

TEST_CASE("a load verifies by the algorithm of its table, on each engine and mapped") {
  for (const Algorithm& algorithm : algorithms()) {
    CAPTURE(algorithm.name);
    const SampleFile sample(Place::disk, kNbytes);
    for (const EnginePreference engine : engines_here()) {
      for (const MappingMode mapping : {MappingMode::automatic, MappingMode::never}) {
        const auto job =
            load_to_the_end({request_of(sample, algorithm)}, options_of(engine, mapping));
        REQUIRE_FALSE(job->has_failed());
        CHECK(job->counters().chunks_verified() == 21);
      }
    }
  }
}

TEST_CASE("damage is told in the digests of the algorithm of the table") {
  for (const Algorithm& algorithm : algorithms()) {
    CAPTURE(algorithm.name);
    const SampleFile sample(Place::disk, kNbytes);
    const ShardRequest request = request_of(sample, algorithm);
    const std::uint64_t begin = kStart + kDamaged * kChunk;
    sample.overwrite(begin + 5, sample.bytes()[begin + 5] ^ std::byte{1});
    for (const EnginePreference engine : engines_here()) {
      for (const MappingMode mapping : {MappingMode::automatic, MappingMode::never}) {
        const auto job = load_to_the_end({request}, options_of(engine, mapping));
        const std::optional<DamagedChunk> damage = job->outcome().damage();
        REQUIRE(damage.has_value());
        CHECK(damage->chunk == kDamaged);
        CHECK(damage->expected == Digest(algorithm, sample.bytes().subspan(begin, kChunk)));
        CHECK(damage->found.bytes().size() == algorithm.digest_bytes);
        CHECK(damage->found.text() != damage->expected.text());
      }
    }
    sample.warm();
    const auto mapped = MappedFile::open(request, {});
    REQUIRE(mapped != nullptr);
    const auto damage = mapped->verify({begin, begin + 1});
    REQUIRE(damage.has_value());
    CHECK(damage->found.bytes().size() == algorithm.digest_bytes);
  }
}

TEST_CASE("a save takes the checksums that it is asked for") {
  for (const Algorithm& algorithm : algorithms()) {
    CAPTURE(algorithm.name);
    testing::SampleOrigins origins(kStart);
    origins.add_aligned(20 * kChunk + 77);
    const testing::WrittenFile file;
    SaveOptions options;
    options.chunk_bytes = kChunk;
    options.algorithm = &algorithm;
    const auto job = SaveJob::make(file.target(), origins.origins(), options);
    testing::run_leg(*job, Leg::buffered, 0, job->block_count());
    REQUIRE_FALSE(job->has_failed());
    CHECK(job->digests() == digests_of(algorithm, origins.expected(), kChunk));
  }
}

}  // namespace
}  // namespace fastio
