// Memory that runs out at any allocation of a load to devices: the load is refused or fails, keeps
// nothing, and leaves the caller's memory alone after its end. In an executable of its own, for its
// operator new.
#include <doctest/doctest.h>

#include <cerrno>
#include <new>

#include "device_filling.h"
#include "failing_memory.h"
#include "loader.h"
#include "loading.h"
#include "sample_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::DeviceFilling;
using testing::Devices;
using testing::engines_here;
using testing::FailingAllocation;
using testing::kPatience;
using testing::Place;
using testing::SampleFile;
using testing::soon;
using testing::threads_become;
using testing::threads_of_this_process;

constexpr std::uint64_t kKiB = 1024;
constexpr long kStep = 4 - testing::random_cases(3);  // not each allocation under TSan

struct Loads {
  Devices devices{};
  SampleFile sample{Place::memory, 512 * kKiB};

  // Rows on the host need memory during the scatter, in a block that also goes to both devices.
  [[nodiscard]] static DeviceFilling filling() {
    DeviceFilling filling;
    for (std::uint64_t at = 0; at < 512 * kKiB; at += 128 * kKiB) {
      filling.add({at, at + 32 * kKiB}, 0);
      filling.add_rows({at + 32 * kKiB, at + 64 * kKiB}, kHost, 64, 100);
      filling.add_rows({at + 64 * kKiB, at + 128 * kKiB}, 1, 16 * kKiB, 17 * kKiB);
    }
    return filling;
  }
  [[nodiscard]] LoadOptions options(EnginePreference engine) const {
    LoadOptions options = devices.options(engine);
    options.block_bytes = 128 * kKiB;
    return options;
  }

  // One-time allocations, such as the double's thread and the names of its calls.
  void warm_up() const {
    for (const EnginePreference engine : engines_here()) {
      auto filled = filling();
      const auto job = testing::load_to_the_end({filled.request(sample, true)}, options(engine));
      REQUIRE_FALSE(job->outcome().failure().has_value());
      CHECK(filled.difference(sample) == "");
    }
    testing::this_is_the_main_thread();
  }

  static void nothing_is_left() {
    CHECK(soon([] { return fake_cuda_events_alive() == 0 && fake_cuda_streams_alive() == 0; }));
    CHECK(pinned_account().leased_bytes == 0);
    CHECK(testing::nothing_is_abandoned());
  }
};

// Of this library, or of the double.
bool is_out_of_memory(const Failure& failure) {
  return failure.kind == Failure::Kind::device ? failure.error == 2 : failure.error == ENOMEM;
}

TEST_CASE_FIXTURE(Loads, "a load that runs out of memory while it starts is refused, and is over") {
  warm_up();
  for (const EnginePreference engine : engines_here()) {
    CAPTURE(testing::name_of(engine));
    const std::size_t threads = threads_of_this_process();
    int refused = 0;
    bool came = true;
    for (long n = 0; came; n += kStep) {
      CAPTURE(n);
      auto filled = filling();
      auto request = std::vector{filled.request(sample, true)};
      const LoadOptions asked = options(engine);
      std::shared_ptr<LoadJob> job;
      try {
        const FailingAllocation failing(n);
        job = LoadJob::start(std::move(request), asked);
        came = FailingAllocation::came();
      } catch (const std::bad_alloc&) {
      } catch (const IoError& error) {
        CHECK(is_out_of_memory(error.failure()));
      }
      if (job == nullptr) {
        ++refused;
        const auto before = filled.now();  // a refused job has released its memory at once
        CHECK(filled.unverified(sample.bytes(), {}) == "");
        REQUIRE(threads_become(threads));
        CHECK(before == filled.now());
      } else {
        REQUIRE(job->wait_for(kPatience));
        CHECK_FALSE(job->outcome().failure().has_value());
        CHECK(filled.difference(sample) == "");
        job.reset();
        REQUIRE(threads_become(threads));
      }
      nothing_is_left();
    }
    CHECK(refused > 10);
  }
}

TEST_CASE_FIXTURE(Loads, "a lane that runs out of memory, also with copies out, fails its job") {
  warm_up();
  for (const EnginePreference engine : engines_here()) {
    int failed = 0;
    bool came = true;
    for (long n = 0; came; n += kStep) {
      CAPTURE(testing::name_of(engine));
      CAPTURE(n);
      auto filled = filling();
      auto request = filled.request(sample, true);
      if (n / kStep % 2 != 0) static_cast<void>(trim_pinned());  // a lane makes the slab
      fake_cuda_set_delay(500, static_cast<std::uint64_t>(n));
      testing::fail_allocation_elsewhere(n);
      const auto job = LoadJob::start({std::move(request)}, options(engine));
      REQUIRE(job->wait_for(kPatience));
      came = testing::allocation_failed_elsewhere();
      CHECK(job->wait_until_released(0ms));
      CHECK_FALSE(job->outcome().damage().has_value());
      if (job->outcome().failure()) {
        CHECK(is_out_of_memory(*job->outcome().failure()));
        CHECK(filled.unverified(sample.bytes(), {}) == "");
        ++failed;
      } else {
        CHECK(filled.difference(sample) == "");
      }
      CHECK(fake_cuda_copies_pending() == 0);
      CHECK(pinned_account().leased_bytes == 0);
    }
    CHECK(failed > 10);
  }
}

TEST_CASE("a pool that runs out of memory while it grows keeps nothing of it") {
  testing::this_is_the_main_thread();
  const Devices devices;
  for (const bool ours : {true, false}) {
    fake_cuda_refuse_registration(ours ? 0 : 801);
    static_cast<void>(PinnedLease::take(*devices.targets[0].device, 1, UINT64_MAX));
    static_cast<void>(trim_pinned());
    bool came = true;
    int refused = 0;
    for (long n = 0; came; ++n) {
      CAPTURE(n);
      const int register_calls = fake_cuda_calls("cuMemHostRegister");
      try {
        const FailingAllocation failing(n);
        const auto lease = PinnedLease::take(*devices.targets[0].device, 1, UINT64_MAX);
        came = FailingAllocation::came();
        CHECK(lease.has_value());
      } catch (const std::bad_alloc&) {
        ++refused;
      }
      CHECK(fake_cuda_calls("cuMemHostRegister") <= register_calls + 1);
      CHECK(pinned_account().leased_bytes == 0);
      static_cast<void>(trim_pinned());
      CHECK(pinned_account().bytes == 0);
      CHECK(fake_cuda_pinned_bytes() == 0);
    }
    CHECK(refused > 2);
  }
}

}  // namespace
}  // namespace fastio
