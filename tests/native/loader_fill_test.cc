// Loads into memory of the caller: every byte at its place, none behind it, and only verified ones.
// No write follows the end of the job.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include "filling.h"
#include "loader.h"
#include "loading.h"
#include "sample_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::between;
using testing::check_nothing_unverified;
using testing::engines_here;
using testing::Filling;
using testing::InjectedFaults;
using testing::kPatience;
using testing::Place;
using testing::Random;
using testing::random_filling;
using testing::SampleFile;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;

LoadOptions filling_options(EnginePreference engine, CacheMode cache) {
  LoadOptions options;
  options.engine = engine;
  options.cache = cache;
  options.block_bytes = 256 * kKiB;
  options.queue_depth = 3;
  return options;
}

TEST_CASE("every byte is filled in, from cold and warm files, into congruent and other memory") {
  Random random(testing::random_seed());
  for (int i = 0; i < testing::random_cases(24); ++i) {
    const SampleFile sample(Place::disk, 3 * kMiB + between(random, 0, 9000),
                            between(random, 1, 1000));
    for (const EnginePreference engine : engines_here()) {
      for (const CacheMode cache : {CacheMode::bypass, CacheMode::keep, CacheMode::automatic}) {
        CAPTURE(testing::name_of(engine));
        const bool verified = between(random, 0, 1) != 0;
        if (between(random, 0, 1) != 0) static_cast<void>(sample.evict());
        Filling filling = random_filling(random, sample.bytes().size());
        const auto job = testing::load_to_the_end({filling.request(sample, verified)},
                                                  filling_options(engine, cache));
        REQUIRE_FALSE(job->outcome().failure().has_value());
        REQUIRE_FALSE(job->outcome().damage().has_value());
        CHECK(filling.is_right(sample));
        CHECK(filling.fences_stand());
        for (std::size_t e = 0; e < filling.extents.size(); ++e) CHECK(job->is_placed(0, e));
      }
    }
  }
}

TEST_CASE("congruent memory is read straight into, and other memory is not") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  for (const std::uint64_t lead : {0U, 64U}) {
    Filling filling;
    filling.extents = {{0, 8 * kMiB}};
    filling.targets.emplace_back(8 * kMiB, lead);
    const auto job =
        testing::load_to_the_end({filling.request(sample, true)},
                                 filling_options(EnginePreference::automatic, CacheMode::bypass));
    const bool direct = job->layout().access(0).mode == ReadMode::direct;
    CHECK(job->layout().plans[0].regions.size() == (lead == 0 || !direct ? 1 : 0));
    CHECK(filling.is_right(sample));
  }
}

TEST_CASE("damage leaves verified bytes only, and the job names the complete extents") {
  Random random(testing::random_seed());
  for (int i = 0; i < testing::random_cases(12); ++i) {
    const SampleFile sample(Place::disk, 3 * kMiB, between(random, 1, 1000));
    const std::uint64_t at = between(random, 0, sample.bytes().size() - 1);
    sample.overwrite(at, ~sample.bytes()[at]);
    for (const EnginePreference engine : engines_here()) {
      Filling filling = random_filling(random, sample.bytes().size());
      const bool asked = std::ranges::any_of(filling.extents, [&](const Extent& e) {
        return e.begin < e.end && e.begin / (64 * kKiB) <= at / (64 * kKiB) &&
               at / (64 * kKiB) <= (e.end - 1) / (64 * kKiB);
      });
      const auto job = testing::load_to_the_end({filling.request(sample, true)},
                                                filling_options(engine, CacheMode::bypass));
      if (!asked) continue;  // not requested, except as the gap between two requests
      REQUIRE(job->outcome().damage().has_value());
      CHECK(job->outcome().damage()->extent.begin <= at);
      check_nothing_unverified(filling, sample.bytes(), *job, job->outcome().damage()->extent);
    }
  }
}

TEST_CASE("a cancel waits until no read writes to the caller's memory") {
  const SampleFile sample(Place::disk, 6 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    CAPTURE(testing::name_of(engine));
    Filling filling;
    filling.extents = {{0, 6 * kMiB}};
    filling.targets.emplace_back(6 * kMiB, 0);
    const InjectedFaults faults({{2, FaultKind::never, 0}});
    const auto job =
        LoadJob::start({filling.request(sample, true)}, filling_options(engine, CacheMode::bypass));
    testing::wait_until_held();
    job->cancel();
    CHECK_FALSE(job->wait_until_released(50ms));  // a read is still in flight
    release_held_completions();
    REQUIRE(job->wait_until_released(kPatience));
    const auto before = std::vector<std::byte>(filling.targets[0].bytes().begin(),
                                               filling.targets[0].bytes().end());
    check_nothing_unverified(filling, sample.bytes(), *job, {});
    CHECK(job->wait_for(kPatience));
    CHECK(std::ranges::equal(before, filling.targets[0].bytes()));
  }
}

TEST_CASE("a memory limit takes blocks from lanes, and one below a block is refused") {
  const SampleFile sample(Place::disk, 6 * kMiB);
  Filling filling;
  filling.extents = {{0, 6 * kMiB}};
  filling.targets.emplace_back(6 * kMiB, 64);
  LoadOptions options = filling_options(EnginePreference::automatic, CacheMode::bypass);
  options.lanes = 8;
  options.memory_limit_bytes = 512 * kKiB;
  const auto job = testing::load_to_the_end({filling.request(sample, true)}, options);
  CHECK(job->report().lanes <= 2);
  CHECK(filling.is_right(sample));
  options.memory_limit_bytes = 256 * kKiB - 1;
  CHECK_THROWS_AS(static_cast<void>(LoadJob::start({filling.request(sample, true)}, options)),
                  MemoryLimitExceeded);
}

TEST_CASE("places are given for every extent or for none") {
  const SampleFile sample(Place::disk, kMiB);
  Filling filling;
  filling.extents = {{0, 10}, {10, 20}};
  filling.targets.emplace_back(10, 0);
  filling.targets.emplace_back(10, 0);
  ShardRequest request = filling.request(sample, false);
  request.places.pop_back();
  CHECK_THROWS_AS(static_cast<void>(LoadJob::start({request}, LoadOptions{})),
                  std::invalid_argument);
}

}  // namespace
}  // namespace fastio
