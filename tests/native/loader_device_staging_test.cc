// The pinned memory that loads to devices are staged in. Its limit is kept, and no job waits for
// another without end. If memory cannot be pinned, loads are right all the same.
#include <doctest/doctest.h>

#include <string>
#include <thread>

#include "device_filling.h"
#include "loader.h"
#include "loading.h"
#include "sample_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::DeviceFilling;
using testing::Devices;
using testing::engines_here;
using testing::InjectedFaults;
using testing::kPatience;
using testing::Place;
using testing::SampleFile;
using testing::soon;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kBlock = 256 * kKiB;  // of Devices::options

struct Staged {
  Devices devices{};
  SampleFile sample{Place::disk, 3 * kMiB};

  [[nodiscard]] DeviceFilling filling() const {
    DeviceFilling filling;
    filling.add({0, 2 * kMiB}, 0);
    filling.add({2 * kMiB, 3 * kMiB}, 1);
    return filling;
  }
  void check_right(const LoadJob& job, const DeviceFilling& filling) const {
    const auto failure = job.outcome().failure();
    CHECK((failure ? failure->message() : "") == "");
    CHECK_FALSE(job.outcome().damage().has_value());
    CHECK(filling.difference(sample) == "");
    CHECK(pinned_account().leased_bytes == 0);
  }
};

TEST_CASE_FIXTURE(Staged, "a block above a limit is refused before anything starts") {
  for (const bool pinned : {true, false}) {
    auto filled = filling();
    const ShardRequest request = filled.request(sample, true);
    const int streams = fake_cuda_calls("cuStreamCreate");
    const int events = fake_cuda_calls("cuEventCreate");
    LoadOptions options = devices.options(EnginePreference::automatic);
    (pinned ? options.pinned_limit_bytes : options.memory_limit_bytes.emplace()) = kBlock - 1;
    try {
      static_cast<void>(LoadJob::start({request}, options));
      FAIL("nothing was refused");
    } catch (const MemoryLimitExceeded& error) {
      CHECK(error.asked_bytes == kBlock);
      CHECK(error.limit_bytes == kBlock - 1);
    }
    CHECK(fake_cuda_calls("cuStreamCreate") == streams);
    CHECK(fake_cuda_calls("cuEventCreate") == events);
    CHECK(pinned_account().bytes == 0);
    (pinned ? options.pinned_limit_bytes : *options.memory_limit_bytes) = kBlock;
    const auto job = testing::load_to_the_end({request}, options);
    check_right(*job, filled);
    CHECK(job->report().lanes == 1);
    CHECK(pinned_account().bytes == kBlock);
    static_cast<void>(trim_pinned());
  }
}

TEST_CASE_FIXTURE(Staged,
                  "lanes and depth shrink to the limit of pinned memory, which is never exceeded") {
  for (const EnginePreference engine : engines_here()) {
    for (const std::uint64_t blocks : {1U, 2U, 3U, 5U}) {
      auto filled = filling();
      LoadOptions options = devices.options(engine);
      options.lanes = 3;
      options.pinned_limit_bytes = blocks * kBlock + 4095;
      fake_cuda_hold_all(1);
      const auto job = LoadJob::start({filled.request(sample, true)}, options);
      CHECK(job->report().lanes <= blocks);
      REQUIRE(soon([] { return fake_cuda_copies_pending() > 0; }));
      CHECK_FALSE(job->wait_for(20ms));
      CHECK(fake_cuda_copies_pending() <= blocks);
      CHECK(pinned_account().leased_bytes <= blocks * kBlock);
      CHECK(pinned_account().leased_bytes >= fake_cuda_copies_pending() * kBlock);
      CHECK(pinned_account().bytes <= options.pinned_limit_bytes);
      fake_cuda_hold_all(0);
      REQUIRE(job->wait_for(kPatience));
      check_right(*job, filled);
      static_cast<void>(trim_pinned());
    }
  }
}

TEST_CASE_FIXTURE(Staged, "two jobs get on where only one block of one of them can be staged") {
  for (const EnginePreference engine : engines_here()) {
    CAPTURE(testing::name_of(engine));
    auto one = filling();
    auto other = filling();
    LoadOptions options = devices.options(engine);
    options.pinned_limit_bytes = kBlock;
    const auto first = LoadJob::start({one.request(sample, true)}, options);
    options.lanes = 4;
    const auto second = LoadJob::start({other.request(sample, false)}, options);
    REQUIRE(first->wait_for(kPatience));
    REQUIRE(second->wait_for(kPatience));
    check_right(*first, one);
    check_right(*second, other);
    CHECK(pinned_account().bytes == kBlock);
  }
}

TEST_CASE_FIXTURE(Staged, "several jobs and lanes share a pool of a few blocks") {
  constexpr std::size_t kJobs = 4;
  for (const EnginePreference engine : engines_here()) {
    std::vector<DeviceFilling> filled(kJobs);
    std::vector<std::shared_ptr<LoadJob>> jobs;
    LoadOptions options = devices.options(engine);
    options.pinned_limit_bytes = 3 * kBlock;
    for (std::size_t i = 0; i < kJobs; ++i) {
      filled[i] = filling();
      options.block_bytes = kBlock >> (i % 2);
      jobs.push_back(LoadJob::start({filled[i].request(sample, true)}, options));
    }
    for (std::size_t i = 0; i < kJobs; ++i) {
      REQUIRE(jobs[i]->wait_for(kPatience));
    }
    for (std::size_t i = 0; i < kJobs; ++i) check_right(*jobs[i], filled[i]);
    CHECK(pinned_account().bytes <= options.pinned_limit_bytes);
  }
}

TEST_CASE_FIXTURE(Staged, "a job that finds no pinned memory waits for some, or is cancelled") {
  for (const EnginePreference engine : engines_here()) {
    for (const bool given_up : {false, true}) {
      auto filled = filling();
      LoadOptions options = devices.options(engine);
      options.pinned_limit_bytes = kMiB;
      std::optional<PinnedLease> all = PinnedLease::take(*devices.targets[0].device, kMiB, kMiB);
      REQUIRE(all.has_value());
      const auto job = LoadJob::start({filled.request(sample, true)}, options);
      CHECK_FALSE(job->wait_for(30ms));
      CHECK(job->bytes_done() == 0);
      if (given_up) {
        job->cancel();
        REQUIRE(job->wait_for(kPatience));
        CHECK(filled.changed() == "");
      }
      all.reset();
      REQUIRE(job->wait_for(kPatience));
      if (!given_up) check_right(*job, filled);
    }
  }
}

TEST_CASE_FIXTURE(Staged, "a job goes on while another one hangs with pinned memory") {
  for (const EnginePreference engine : engines_here()) {
    auto hung = filling();
    auto filled = filling();
    LoadOptions options = devices.options(engine);
    options.lanes = 1;
    options.queue_depth = 1;
    options.pinned_limit_bytes = 2 * kBlock;
    std::shared_ptr<LoadJob> stuck;
    {
      const InjectedFaults faults({{3, FaultKind::never, 0}});
      stuck = LoadJob::start({hung.request(sample, true)}, options);
      testing::wait_until_held();
      set_completion_faults({});
      const auto job = testing::load_to_the_end({filled.request(sample, true)}, options);
      CHECK(filled.difference(sample) == "");
      CHECK(pinned_account().leased_bytes == kBlock);
    }
    REQUIRE(stuck->wait_for(kPatience));
    check_right(*stuck, hung);
  }
}

TEST_CASE_FIXTURE(
    Staged, "if the driver refuses to register our memory, it allocates pinned memory itself") {
  for (const EnginePreference engine : engines_here()) {
    auto filled = filling();
    fake_cuda_refuse_registration(801);
    const auto job =
        testing::load_to_the_end({filled.request(sample, true)}, devices.options(engine));
    check_right(*job, filled);
    CHECK(fake_cuda_calls("cuMemHostAlloc") > 0);
    CHECK(pinned_account().unpinned_bytes == 0);
    CHECK(pinned_account().refusal == "");
    static_cast<void>(trim_pinned());
    CHECK(fake_cuda_calls("cuMemFreeHost") == fake_cuda_calls("cuMemHostAlloc"));
  }
}

TEST_CASE_FIXTURE(Staged,
                  "where nothing can be pinned the bytes are right, and the account says so") {
  for (const EnginePreference engine : engines_here()) {
    auto filled = filling();
    fake_cuda_refuse_registration(801);
    fake_cuda_refuse_host_allocation(2);
    const auto job =
        testing::load_to_the_end({filled.request(sample, true)}, devices.options(engine));
    check_right(*job, filled);
    const PinnedAccount account = pinned_account();
    CHECK(account.unpinned_bytes == account.bytes);
    CHECK(account.refusal.find("cuMemHostRegister") != std::string::npos);
    CHECK(account.refusal.find("CUDA_ERROR_NOT_SUPPORTED") != std::string::npos);
    // The double counts such copies as mistakes; here they are intended.
    CHECK(std::string(fake_cuda_first_violation()) ==
          "a copy from or to host memory that is not pinned");
    fake_cuda_clear();
    static_cast<void>(trim_pinned());
  }
}

TEST_CASE_FIXTURE(Staged, "memory is pinned once for all the jobs of a process") {
  for (int i = 0; i < 3; ++i) {
    auto filled = filling();
    const auto job = testing::load_to_the_end({filled.request(sample, true)},
                                              devices.options(EnginePreference::automatic));
    check_right(*job, filled);
  }
  CHECK(fake_cuda_calls("cuMemHostRegister") == 1);
  CHECK(pinned_account().bytes == 64 * kMiB);
}

}  // namespace
}  // namespace fastio
