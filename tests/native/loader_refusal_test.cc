// A filesystem that grants O_DIRECT and refuses the reads. In an executable of its own: it is
// remembered.
#include <doctest/doctest.h>

#include <cerrno>

#include "loader.h"
#include "loading.h"
#include "sample_file.h"

namespace fastio {
namespace {

using testing::first_difference;
using testing::InjectedFaults;
using testing::load_to_the_end;
using testing::Place;
using testing::SampleFile;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

TEST_CASE(
    "a direct read that is refused with EINVAL goes through the page cache, for good and for all "
    "files there") {
  const SampleFile sample(Place::disk, 8 * kMiB, 1);
  const SampleFile other(Place::disk, 8 * kMiB, 2);
  if (sample.in_memory()) {
    MESSAGE("not tested: the working folder lies in memory, without direct reads");
    return;
  }
  const auto file = File::open(sample.path());
  const auto other_file = File::open(other.path());
  if (!file->direct_access().possible) {
    MESSAGE("not tested: ", file->direct_access().reason);
    return;
  }
  REQUIRE(other_file->direct_access().possible);
  LoadOptions options;
  options.cache = CacheMode::bypass;
  options.mapping = MappingMode::never;
  options.block_bytes = kMiB;
  {
    const InjectedFaults faults({{0, FaultKind::refuse, EINVAL}});
    const auto job = load_to_the_end({{{file}, {{0, 8 * kMiB}}, sample.table(0, 65536)}}, options);
    CHECK_FALSE(job->outcome().failure().has_value());
    CHECK_FALSE(job->outcome().damage().has_value());
    CHECK(job->counters().bytes_buffered == 8 * kMiB);
    CHECK(job->counters().bytes_direct == 0);
    REQUIRE(job->outcome().fallbacks().size() == 1);
    CHECK(job->outcome().fallbacks()[0].find(sample.path()) != std::string::npos);
    CHECK(job->outcome().fallbacks()[0].find("EINVAL") != std::string::npos);
    CHECK(first_difference(*job, sample) == "");
  }
  const auto job =
      load_to_the_end({{{other_file}, {{0, 8 * kMiB}}, other.table(0, 65536)}}, options);
  CHECK(job->layout().access(0).mode == ReadMode::buffered);
  CHECK(job->layout().access(0).reason.find("EINVAL") != std::string::npos);
  CHECK(job->counters().bytes_direct == 0);
  CHECK(job->outcome().fallbacks().empty());
  CHECK(first_difference(*job, other) == "");
}

TEST_CASE("a buffered read that is refused with EINVAL is an error") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  for (const EnginePreference engine : testing::engines_here()) {
    const InjectedFaults faults({{0, FaultKind::error, EINVAL}});
    LoadOptions options = testing::one_at_a_time(engine, kMiB);
    options.cache = CacheMode::keep;
    const auto job = load_to_the_end({{{File::open(sample.path())}, {{0, 8 * kMiB}}, {}}}, options);
    REQUIRE(job->outcome().failure().has_value());
    CHECK(job->outcome().failure()->error == EINVAL);
    CHECK(job->outcome().failure()->offset == 0);
  }
}

}  // namespace
}  // namespace fastio
