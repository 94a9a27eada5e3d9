// A filesystem that grants O_DIRECT and refuses the writes. In an executable of its own: it is
// remembered.
#include <doctest/doctest.h>

#include <cerrno>

#include "saving.h"

namespace fastio {
namespace {

using testing::first_difference;
using testing::InjectedFaults;
using testing::run_leg;
using testing::SampleOrigins;
using testing::save_options;
using testing::WrittenFile;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kStart = 4096;

TEST_CASE(
    "a direct write that is refused with EINVAL goes through the page cache, for good and for all "
    "files there") {
  const WrittenFile file;
  const WrittenFile other;
  SampleOrigins origins(kStart);
  origins.add_aligned(4 * kMiB);
  origins.add_unaligned(4 * kMiB + 1000);
  const auto target = file.target();
  const auto other_target = other.target();
  if (!target->direct_access().possible) {
    MESSAGE("not tested: ", target->direct_access().reason);
    return;
  }
  REQUIRE(other_target->direct_access().possible);
  SaveOptions options = save_options(EnginePreference::automatic, kMiB);
  options.chunk_bytes = kMiB;
  const auto job = SaveJob::make(target, origins.origins(), options);
  {
    const InjectedFaults faults({{0, FaultKind::error, EINVAL}});
    run_leg(*job, Leg::direct, 0, 6);
    CHECK(job->counters().bytes_buffered == kMiB);
    CHECK(job->counters().bytes_direct == 5 * kMiB);
    REQUIRE(job->outcome().fallbacks().size() == 1);
    CHECK(job->outcome().fallbacks()[0].find(file.path()) != std::string::npos);
    CHECK(job->outcome().fallbacks()[0].find("EINVAL") != std::string::npos);
  }
  const DirectAccess refused = other_target->direct_access();
  CHECK_FALSE(refused.possible);
  CHECK(refused.reason.find("EINVAL") != std::string::npos);
  run_leg(*job, Leg::direct, 6, job->block_count());  // of the same save, which cannot know
  CHECK(job->counters().bytes_direct == 5 * kMiB);
  CHECK(first_difference(*job, file, origins, kMiB) == "");

  const auto next = SaveJob::make(other_target, origins.origins(), options);
  run_leg(*next, Leg::direct, 0, next->block_count());
  CHECK(next->counters().bytes_direct == 0);
  REQUIRE(next->outcome().fallbacks().size() == 1);
  CHECK(next->outcome().fallbacks()[0].find("EINVAL") != std::string::npos);
  CHECK(first_difference(*next, other, origins, kMiB) == "");
}

}  // namespace
}  // namespace fastio
