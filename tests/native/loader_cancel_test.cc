// A cancel takes effect at once, also on a hanging disk. No byte is lost, and none is written to
// freed memory.
#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <thread>

#include "child_process.h"
#include "loader.h"
#include "loading.h"
#include "memory.h"
#include "sample_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::between;
using testing::engines_here;
using testing::first_difference;
using testing::InjectedFaults;
using testing::kPatience;
using testing::Place;
using testing::Random;
using testing::SampleFile;

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

// Far more than a cancel takes, for a busy machine. A read that never returns shows that the cancel
// does not wait for reads.
constexpr auto kAtOnce = 5000ms;

ShardRequest whole(const SampleFile& sample) {
  return {{File::open(sample.path())}, {{0, sample.bytes().size()}}, sample.table(0, 65536)};
}

LoadOptions direct_small_blocks(EnginePreference engine) {
  LoadOptions options;
  options.engine = engine;
  options.cache = CacheMode::bypass;
  options.mapping = MappingMode::never;
  options.block_bytes = kMiB / 4;
  options.queue_depth = 4;
  return options;
}

// Waits until a job has done everything but the one block that a fault holds back: its threads are
// idle then. A child forked before could find the sanitizers' own locks taken for ever (those of
// gcc 12 do not expect fork).
void wait_until_stuck(LoadJob& job) {
  const auto end = Clock::now() + kPatience;
  while (job.counters().bytes_done < job.bytes_total() - kMiB / 4 && Clock::now() < end) {
    static_cast<void>(job.wait_for(5ms));
  }
  CHECK_FALSE(job.wait_for(50ms));
}

// Bytes of this process that a child would not inherit (proc(5), smaps, VmFlags: dc).
std::uint64_t bytes_kept_from_children() {
  std::ifstream smaps("/proc/self/smaps");
  std::string line;
  std::uint64_t size = 0;
  std::uint64_t total = 0;
  while (std::getline(smaps, line)) {
    unsigned long long begin = 0;
    unsigned long long end = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &begin, &end) == 2) size = end - begin;
    if (line.rfind("VmFlags:", 0) == 0 && (line + " ").find(" dc ") != std::string::npos)
      total += size;
  }
  return total;
}

TEST_CASE(
    "a job on a disk that hangs is cancelled at once; its memory is abandoned until the read "
    "returns") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    CAPTURE(testing::name_of(engine));
    REQUIRE(abandoned_bytes() == 0);
    const InjectedFaults faults({{2, FaultKind::never, 0}});
    const auto job = LoadJob::start({whole(sample)}, direct_small_blocks(engine));
    wait_until_stuck(*job);
    const auto begin = Clock::now();
    job->cancel();
    CHECK(Clock::now() - begin < kAtOnce);
    CHECK(abandoned_bytes() >= 8 * kMiB);
    CHECK_FALSE(job->wait_for(50ms));
    CHECK(abandoned_bytes() >= 8 * kMiB);
    release_held_completions();
    CHECK(job->wait_for(kPatience));
    CHECK(abandoned_bytes() == 0);
    CHECK_FALSE(job->outcome().failure().has_value());
  }
}

TEST_CASE("only regions with a read in them are abandoned") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    CAPTURE(testing::name_of(engine));
    const InjectedFaults faults({{0, FaultKind::never, 0}});  // of block 0 or 1: the first region
    LoadOptions options = direct_small_blocks(engine);
    options.lanes = 1;
    options.queue_depth = 2;
    options.memory_limit_bytes = 8 * kMiB;  // four regions of 2 MiB
    const auto job = LoadJob::start(
        {{{File::open(sample.path())},
          {{0, 2 * kMiB}, {2 * kMiB, 4 * kMiB}, {4 * kMiB, 6 * kMiB}, {6 * kMiB, 8 * kMiB}},
          sample.table(0, 65536)}},
        options);
    REQUIRE(job->layout().plans[0].regions.size() == 4);
    wait_until_stuck(*job);
    job->cancel();
    const auto end = Clock::now() + kPatience;  // until the lane has released its last block
    while (abandoned_bytes() != 2 * kMiB && Clock::now() < end) std::this_thread::sleep_for(1ms);
    CHECK(abandoned_bytes() == 2 * kMiB);
    CHECK_FALSE(job->wait_for(0ms));
    release_held_completions();
    CHECK(job->wait_for(kPatience));
    CHECK(abandoned_bytes() == 0);
  }
}

TEST_CASE("abandoned memory counts against the limit of the next job") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  const InjectedFaults faults({{0, FaultKind::never, 0}});
  const auto hung = LoadJob::start({whole(sample)}, direct_small_blocks(EnginePreference::pread));
  wait_until_stuck(*hung);
  hung->cancel();
  const std::uint64_t held = abandoned_bytes();
  LoadOptions options;
  options.cache = CacheMode::bypass;
  options.memory_limit_bytes = 15 * kMiB;
  try {
    static_cast<void>(LoadJob::start({whole(sample)}, options));
    FAIL("the limit was passed");
  } catch (const MemoryLimitExceeded& error) {
    CHECK(error.asked_bytes == 8 * kMiB);
    CHECK(error.limit_bytes == 15 * kMiB);
    CHECK(error.held_bytes == held);
  }
  release_held_completions();
  REQUIRE(hung->wait_for(kPatience));
  const auto job = testing::load_to_the_end({whole(sample)}, options);
  CHECK(first_difference(*job, sample) == "");
}

TEST_CASE("while one job hangs, others load") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    std::shared_ptr<LoadJob> hung;
    {
      const InjectedFaults faults({{0, FaultKind::never, 0}});
      hung = LoadJob::start({whole(sample)}, direct_small_blocks(engine));
      wait_until_stuck(*hung);
      set_completion_faults({});  // the next job has no seam
      const auto job = testing::load_to_the_end({whole(sample)}, direct_small_blocks(engine));
      CHECK(first_difference(*job, sample) == "");
      CHECK_FALSE(hung->wait_for(0ms));
    }
    REQUIRE(hung->wait_for(kPatience));
    CHECK(first_difference(*hung, sample) == "");  // without a cancel, it is done in the end
  }
}

TEST_CASE("a failure beside a read that hangs is known before that read returns") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    const InjectedFaults faults({{0, FaultKind::never, 0}, {3, FaultKind::error, EIO}});
    const auto job = LoadJob::start({whole(sample)}, direct_small_blocks(engine));
    const auto end = Clock::now() + kPatience;
    while (!job->outcome().failure() && Clock::now() < end) static_cast<void>(job->wait_for(5ms));
    REQUIRE(job->outcome().failure().has_value());
    CHECK(job->outcome().failure()->error == EIO);
    CHECK_FALSE(job->wait_for(50ms));
    job->cancel();
    CHECK(abandoned_bytes() > 0);
    release_held_completions();
    CHECK(job->wait_for(kPatience));
    CHECK(abandoned_bytes() == 0);
  }
}

TEST_CASE("a job may be cancelled at any moment under load") {
  const std::uint64_t seed = testing::random_seed();
  Random random(seed);
  INFO("FASTIO_TEST_SEED=", seed);
  const SampleFile disk(Place::disk, 8 * kMiB, 1);
  const SampleFile memory(Place::memory, 8 * kMiB, 2);
  const auto engines = engines_here();
  for (int i = 0; i < testing::random_cases(30); ++i) {
    LoadOptions options =
        direct_small_blocks(engines[static_cast<std::size_t>(i) % engines.size()]);
    options.mapping = between(random, 0, 1) != 0 ? MappingMode::automatic : MappingMode::never;
    options.lanes = 3;
    const auto job = LoadJob::start({whole(disk), whole(memory)}, options);
    const auto pause = std::chrono::microseconds(between(random, 0, 8000));
    std::this_thread::sleep_for(pause);
    const auto begin = Clock::now();
    job->cancel();
    CHECK(Clock::now() - begin < kAtOnce);
    REQUIRE(job->wait_for(kPatience));
    CHECK(abandoned_bytes() == 0);
    CHECK_FALSE(job->outcome().failure().has_value());
    CHECK_FALSE(job->outcome().damage().has_value());
    CHECK(job->take_regions().empty());
  }
}

TEST_CASE("a job may be cancelled by several threads at once, and after its end") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  const auto job =
      LoadJob::start({whole(sample)}, direct_small_blocks(EnginePreference::automatic));
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { job->cancel(); });
  for (std::thread& thread : threads) thread.join();
  REQUIRE(job->wait_for(kPatience));
  job->cancel();
  CHECK(abandoned_bytes() == 0);
}

TEST_CASE("a job that is not waited for ends by itself, and frees everything") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    auto job = LoadJob::start({whole(sample)}, direct_small_blocks(engine));
    const std::weak_ptr<LoadJob> alive = job;
    job.reset();
    const auto end = Clock::now() + kPatience;
    while (!alive.expired() && Clock::now() < end) std::this_thread::sleep_for(2ms);
    CHECK(alive.expired());
  }
}

TEST_CASE(
    "memory under direct I/O is kept from children while the job runs, and given to them "
    "afterwards") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    // Lanes of jobs that were dropped before may still be ending.
    const auto end = Clock::now() + kPatience;
    std::uint64_t before = bytes_kept_from_children();
    while (before >= 8 * kMiB && Clock::now() < end) {
      std::this_thread::sleep_for(2ms);
      before = bytes_kept_from_children();
    }
    const InjectedFaults faults({{0, FaultKind::never, 0}});
    const auto job = LoadJob::start({whole(sample)}, direct_small_blocks(engine));
    CHECK(bytes_kept_from_children() >= before + 8 * kMiB);
    release_held_completions();
    while (!job->wait_for(20ms)) release_held_completions();
    const auto regions = job->take_regions();
    CHECK(bytes_kept_from_children() < before + kMiB);
  }
}

TEST_CASE(
    "a child that is forked while a job runs has a state of its own, and the job is not "
    "disturbed") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    CAPTURE(testing::name_of(engine));
    const InjectedFaults faults({{0, FaultKind::never, 0}});
    const auto job = LoadJob::start({whole(sample)}, direct_small_blocks(engine));
    wait_until_stuck(*job);
    const int status = testing::in_forked_child([&] {
      if (abandoned_bytes() != 0) return 1;
      if (completion_faults_set()) return 2;
      if (uring_status().reason.empty()) return 3;
      if (!File::open(sample.path())->direct_access().possible) return 0;
      File::open(sample.path())->forbid_direct("in the child");
      return File::open(sample.path())->direct_access().possible ? 4 : 0;
    });
    CHECK(status == 0);
    while (!job->wait_for(20ms)) release_held_completions();
    CHECK_FALSE(job->outcome().failure().has_value());
    CHECK(job->counters().bytes_direct + job->counters().bytes_buffered == 8 * kMiB);
    CHECK(first_difference(*job, sample) == "");
  }
}

TEST_CASE("a child can load what its parent is loading") {
#if defined(__SANITIZE_THREAD__)
  MESSAGE(
      "not tested: the thread sanitizer forbids threads in the child of a process with threads");
#else
  const SampleFile sample(Place::disk, 8 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    const InjectedFaults faults({{0, FaultKind::never, 0}});
    const auto job = LoadJob::start({whole(sample)}, direct_small_blocks(engine));
    wait_until_stuck(*job);
    const auto file =
        job->layout().shards[0].replicas[0];  // also the parent's descriptors are the child's
    const int status = testing::in_forked_child([&] {
      const auto own = LoadJob::start({{{file}, {{0, 8 * kMiB}}, sample.table(0, 65536)}},
                                      direct_small_blocks(engine));
      if (!own->wait_for(kPatience)) return 1;
      if (own->outcome().has_failed()) return 2;
      return first_difference(*own, sample).empty() ? 0 : 3;
    });
    CHECK(status == 0);
    while (!job->wait_for(20ms)) release_held_completions();
    CHECK(first_difference(*job, sample) == "");
  }
#endif
}

}  // namespace
}  // namespace fastio
