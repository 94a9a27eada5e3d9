// A driver that refuses any call of a load, once or with the device lost. The job fails and reports
// it, frees everything, and the next one is right.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>

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
using testing::kPatience;
using testing::Place;
using testing::SampleFile;
using testing::soon;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr int kLaunchFailed = 719;

// The result of a job: "" if it was right, else the call that the driver refused.
struct Outcome {
  std::string operation;
  int error = 0;
  bool started = true;
};

std::vector<std::string> calls_on_the_way() {
  return {"cuMemcpyHtoDAsync", "cuEventRecord", "cuEventQuery",     "cuEventSynchronize",
          "cuStreamCreate",    "cuEventCreate", "cuStreamWaitEvent"};
}

struct Refusals {
  Devices devices{};
  SampleFile sample{Place::memory, kMiB};

  [[nodiscard]] DeviceFilling filling(const std::vector<int>& where) const {
    DeviceFilling filling;
    for (std::uint64_t i = 0; i < 8; ++i) {
      filling.add({i * 128 * kKiB, (i + 1) * 128 * kKiB}, where[i % where.size()]);
    }
    return filling;
  }

  [[nodiscard]] LoadOptions options(EnginePreference engine) const {
    LoadOptions options = devices.options(engine);
    options.block_bytes = 192 * kKiB;  // blocks with parts on both
    return options;
  }

  Outcome load(const LoadOptions& options, const std::vector<int>& where) const {
    auto filled = filling(where);
    try {
      ShardRequest request = filled.request(sample, true);
      for (int& device : request.devices) {  // if the job has only one of them
        device = std::min(device, static_cast<int>(options.devices.size()) - 1);
      }
      const auto job = testing::load_to_the_end({request}, options);
      CHECK(job->wait_until_released(0ms));
      CHECK_FALSE(job->outcome().damage().has_value());
      if (!job->outcome().failure()) {
        CHECK(filled.difference(sample) == "");
        return {};
      }
      CHECK(filled.unverified(sample.bytes(), {}) == "");
      const Failure failure = *job->outcome().failure();
      CHECK(failure.kind == Failure::Kind::device);
      CHECK(failure.path.substr(0, 5) == "cuda:");
      return {failure.operation, failure.error};
    } catch (const IoError& error) {
      CHECK(error.failure().kind == Failure::Kind::device);
      CHECK(filled.changed() == "");
      return {error.failure().operation, error.failure().error, false};
    }
  }

  void nothing_is_left() const {
    CHECK(pinned_account().leased_bytes == 0);
    // A lane's thread releases its job after its end.
    CHECK(soon([] { return fake_cuda_events_alive() == 0; }));
    CHECK(fake_cuda_streams_alive() == 0);
  }
};

TEST_CASE_FIXTURE(Refusals, "after one refusal of any call the job fails, and the next is right") {
  for (const EnginePreference engine : engines_here()) {
    for (const std::string& name : calls_on_the_way()) {
      CAPTURE(testing::name_of(engine));
      CAPTURE(name);
      int failed = 0;
      for (int nth = 1; nth <= testing::random_cases(8); ++nth) {
        CAPTURE(nth);
        fake_cuda_set_delay(1500, static_cast<std::uint64_t>(nth));
        fake_cuda_fail(name.c_str(), nth, kLaunchFailed, 0);
        const Outcome outcome = load(options(engine), {0, 1});
        const bool came = fake_cuda_calls(name.c_str()) >= nth;
        CHECK((outcome.error != 0) == came);
        if (came) CHECK(outcome.operation == name);
        failed += came ? 1 : 0;
        nothing_is_left();
        Devices::recover();
        CHECK(load(options(engine), {1, 0}).operation == "");
        Devices::recover();
      }
      CHECK(failed > 0);
    }
  }
}

TEST_CASE_FIXTURE(Refusals, "after any call that loses a device, another device goes on") {
  for (const EnginePreference engine : engines_here()) {
    for (const std::string& name : calls_on_the_way()) {
      for (const bool both : {false, true}) {
        CAPTURE(testing::name_of(engine));
        CAPTURE(name);
        CAPTURE(both);
        for (int nth = 1; nth <= testing::random_cases(5) + 1; ++nth) {
          CAPTURE(nth);
          LoadOptions asked = options(engine);
          if (!both) asked.devices.pop_back();
          fake_cuda_set_delay(1500, static_cast<std::uint64_t>(nth));
          fake_cuda_fail(name.c_str(), nth, kLaunchFailed, 1);
          const Outcome outcome = load(asked, both ? std::vector{0, 1} : std::vector{0});
          const bool came = fake_cuda_calls(name.c_str()) >= nth;
          CHECK((outcome.error != 0) == came);
          nothing_is_left();
          if (came && !both) {
            asked.devices = {devices.targets[1]};
            CHECK(load(asked, {1, kHost}).operation == "");
          }
          Devices::recover();
          CHECK(load(options(engine), {0, 1, kHost}).operation == "");
          Devices::recover();
          static_cast<void>(trim_pinned());
        }
      }
    }
  }
}

// A copy is in flight and its query fails: the job waits for it in another way, which may fail once
// too.
TEST_CASE_FIXTURE(Refusals, "copies are waited for even if their query is refused") {
  for (const EnginePreference engine : engines_here()) {
    for (const std::string& name :
         std::vector<std::string>{"cuEventQuery", "cuEventSynchronize", "cuEventRecord"}) {
      for (const bool twice : {false, true}) {
        for (const int nth : {1, 2, 4}) {
          CAPTURE(name);
          fake_cuda_set_delay(3000, static_cast<std::uint64_t>(nth));
          fake_cuda_fail(name.c_str(), nth, kLaunchFailed, 0);
          if (twice) fake_cuda_fail("cuStreamSynchronize", 1, kLaunchFailed, 0);
          const Outcome outcome = load(options(engine), {0, 1});
          CHECK((outcome.error != 0) == (fake_cuda_calls(name.c_str()) >= nth));
          nothing_is_left();
          Devices::recover();
        }
      }
    }
  }
}

TEST_CASE_FIXTURE(Refusals,
                  "where one device refuses, copies to the other are waited for all the same") {
  for (const EnginePreference engine : engines_here()) {
    auto filled = filling({0, 1});
    fake_cuda_hold_stream(fake_cuda_default_stream(1));  // which makes no progress
    fake_cuda_set_delay(0, 0);
    fake_cuda_fail("cuEventQuery", 1, kLaunchFailed, 0);
    fake_cuda_fail("cuEventSynchronize", 1, kLaunchFailed, 0);
    const auto job = LoadJob::start({filled.request(sample, true)}, options(engine));
    REQUIRE(soon([] {
      return fake_cuda_calls("cuEventQuery") + fake_cuda_calls("cuEventSynchronize") > 0;
    }));
    CHECK_FALSE(job->wait_until_released(30ms));
    CHECK(pinned_account().leased_bytes > 0);
    fake_cuda_release_stream(fake_cuda_default_stream(1));
    REQUIRE(job->wait_for(kPatience));
    REQUIRE(job->outcome().failure().has_value());
    CHECK(job->outcome().failure()->kind == Failure::Kind::device);
    CHECK(filled.unverified(sample.bytes(), {}) == "");
    CHECK(fake_cuda_copies_pending() == 0);
    Devices::recover();
  }
}

TEST_CASE_FIXTURE(Refusals, "memory that is not pinned at once is the driver's for this slab") {
  for (const bool lost : {false, true}) {
    fake_cuda_fail("cuMemHostRegister", 1, kLaunchFailed, lost ? 1 : 0);
    const Outcome outcome = load(options(EnginePreference::automatic), {0});
    CHECK((outcome.error != 0) == lost);
    nothing_is_left();
    Devices::recover();
    CHECK(pinned_account().unpinned_bytes == (lost ? 64 * kMiB : 0));
    static_cast<void>(trim_pinned());
    CHECK(load(options(EnginePreference::automatic), {1, 0}).operation == "");
    static_cast<void>(trim_pinned());
  }
}

}  // namespace
}  // namespace fastio
