// Loads to devices that meet damage, failing reads, driver errors or a cancel. Only verified bytes
// reach a device. All memory is freed, and no write follows the end of the job.
#include <doctest/doctest.h>

#include <cerrno>
#include <string>

#include "device_filling.h"
#include "loader.h"
#include "loading.h"
#include "replicated_file.h"
#include "sample_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::between;
using testing::DeviceFilling;
using testing::Devices;
using testing::engines_here;
using testing::failure_of;
using testing::InjectedFaults;
using testing::kChunkBytes;
using testing::kPatience;
using testing::Place;
using testing::Random;
using testing::random_device_filling;
using testing::ReplicatedFile;
using testing::SampleFile;
using testing::soon;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;

// Half on each device, and some of it on the host, read straight there and staged.
DeviceFilling spread(std::uint64_t nbytes) {
  DeviceFilling filling;
  const std::uint64_t part = nbytes / 4;
  filling.add({0, part}, 0);
  filling.add({part, 2 * part}, kHost, part % 4096);
  filling.add({2 * part, 3 * part}, 1, 16);
  filling.add({3 * part, nbytes - 1000}, 0);
  filling.add({nbytes - 1000, nbytes}, kHost, 16);
  return filling;
}

// ---- damage ----

TEST_CASE("no byte of a damaged chunk, nor any that was not verified, reaches a device") {
  Random random(testing::random_seed());
  const Devices devices;
  for (int i = 0; i < testing::random_cases(18); ++i) {
    CAPTURE(i);
    const SampleFile sample(Place::disk, 2 * kMiB, between(random, 1, 1000));
    const std::uint64_t at = between(random, 0, sample.bytes().size() - 1);
    sample.overwrite(at, ~sample.bytes()[at]);
    const std::uint64_t chunk = at / kChunkBytes * kChunkBytes;
    for (const EnginePreference engine : engines_here()) {
      auto filling =
          i % 3 == 0 ? spread(2 * kMiB) : random_device_filling(random, 2 * kMiB, {kHost, 0, 1});
      const bool asked = std::ranges::any_of(filling.extents, [&](const Extent& e) {
        return e.begin < e.end && e.begin < chunk + kChunkBytes && chunk < e.end;
      });
      const auto job =
          testing::load_to_the_end({filling.request(sample, true)}, devices.options(engine));
      if (!asked) continue;
      REQUIRE(job->outcome().damage().has_value());
      CHECK(job->outcome().damage()->extent == Extent{chunk, chunk + kChunkBytes});
      CHECK(filling.unverified(sample.bytes(), job->outcome().damage()->extent) == "");
      CHECK(pinned_account().leased_bytes == 0);
    }
  }
}

TEST_CASE("bytes before the damage arrive, and later ones do not") {
  const Devices devices;
  const SampleFile sample(Place::disk, 2 * kMiB);
  const std::uint64_t at = kMiB + 5 * kChunkBytes + 3;
  sample.overwrite(at, ~sample.bytes()[at]);
  for (const EnginePreference engine : engines_here()) {
    DeviceFilling filling;
    filling.add({0, kMiB}, 0);
    filling.add({kMiB, 2 * kMiB}, 1);
    LoadOptions options = testing::one_at_a_time(engine, 4 * kChunkBytes);
    options.devices = devices.targets;
    const std::uint64_t before = fake_cuda_bytes_in();
    const auto job = testing::load_to_the_end({filling.request(sample, true)}, options);
    REQUIRE(job->outcome().damage().has_value());
    CHECK(fake_cuda_bytes_in() - before == kMiB + 4 * kChunkBytes);
    CHECK(job->is_placed(0, 0));
    CHECK_FALSE(job->is_placed(0, 1));
    CHECK(filling.unverified(sample.bytes(), {kMiB + 4 * kChunkBytes, 2 * kMiB}) == "");
  }
}

TEST_CASE(
    "a damaged chunk comes from another replica while it is staged, and each byte is copied once") {
  Random random(testing::random_seed());
  const Devices devices;
  for (int i = 0; i < testing::random_cases(12); ++i) {
    CAPTURE(i);
    const ReplicatedFile file({Place::disk, i % 2 != 0 ? Place::memory : Place::disk},
                              2 * kMiB + between(random, 0, 9000), 0, kChunkBytes, random() % 1000);
    for (std::uint64_t chunk = 0; chunk + 1 < file.table().digests.size(); ++chunk) {
      if (between(random, 0, 1) != 0) file.damage(random() % 2, chunk);
    }
    for (const EnginePreference engine : engines_here()) {
      auto filling = random_device_filling(random, file.bytes().size(), {kHost, 0, 1});
      LoadOptions options = devices.options(engine, CacheMode::automatic);
      options.persistent = true;
      const std::uint64_t before = fake_cuda_bytes_in();
      const auto job =
          testing::load_to_the_end({filling.with_places(file.request(filling.extents))}, options);
      REQUIRE(failure_of(*job) == "");
      CHECK(filling.difference(file.bytes()) == "");
      CHECK(fake_cuda_bytes_in() - before == filling.bytes_on_devices());
    }
  }
}

TEST_CASE("a chunk that is damaged in every replica ends the job, and reaches no device") {
  const Devices devices;
  const ReplicatedFile file({Place::disk, Place::disk}, 2 * kMiB, 0, kChunkBytes);
  for (const std::size_t copy : {0U, 1U}) file.damage(copy, 20);
  for (const EnginePreference engine : engines_here()) {
    auto filling = spread(2 * kMiB);
    LoadOptions options = devices.options(engine);
    options.persistent = true;
    const auto job =
        testing::load_to_the_end({filling.with_places(file.request(filling.extents))}, options);
    REQUIRE(job->outcome().damage().has_value());
    CHECK(filling.unverified(file.bytes(), {20 * kChunkBytes, 21 * kChunkBytes}) == "");
  }
}

// ---- reads ----

TEST_CASE("a read that fails ends the job, and brings nothing to a device") {
  const Devices devices;
  const SampleFile sample(Place::disk, 2 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    for (const FaultKind kind : {FaultKind::error, FaultKind::zero}) {
      for (const std::uint64_t at : {0U, 2U, 5U}) {
        auto filling = spread(2 * kMiB);
        const InjectedFaults faults({{at, kind, EIO}});
        const auto job =
            testing::load_to_the_end({filling.request(sample, true)}, devices.options(engine));
        REQUIRE(job->outcome().failure().has_value());
        CHECK(job->outcome().failure()->kind == Failure::Kind::read);
        CHECK(filling.unverified(sample.bytes(), {}) == "");
        CHECK(pinned_account().leased_bytes == 0);
      }
    }
  }
}

TEST_CASE("short, late and reordered reads are right") {
  const Devices devices;
  const SampleFile sample(Place::disk, 2 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    for (const bool persistent : {false, true}) {
      auto filling = spread(2 * kMiB);
      const InjectedFaults faults({{0, FaultKind::cut, 4097},
                                   {1, FaultKind::late, 5},
                                   {2, FaultKind::reorder, 0},
                                   {3, FaultKind::cut, 100'000},
                                   {5, FaultKind::late, 2},
                                   {6, FaultKind::reorder, 0}});
      LoadOptions options = devices.options(engine);
      options.persistent = persistent;
      const auto job = testing::load_to_the_end({filling.request(sample, true)}, options);
      REQUIRE(failure_of(*job) == "");
      CHECK(filling.difference(sample) == "");
    }
  }
}

TEST_CASE("a job that copied nothing ends without waiting for the caller's stream") {
  const Devices devices;
  const SampleFile sample(Place::disk, 2 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    auto filling = spread(2 * kMiB);
    fake_cuda_hold_stream(fake_cuda_default_stream(0));
    fake_cuda_hold_stream(fake_cuda_default_stream(1));
    {
      const InjectedFaults faults({{0, FaultKind::error, EIO}});
      LoadOptions options = testing::one_at_a_time(engine, 4 * kChunkBytes);
      options.devices = devices.targets;
      const auto job = testing::load_to_the_end({filling.request(sample, true)}, options);
      CHECK(job->outcome().failure().has_value());
      // The second lane has no stream, and the first is cancelled before it ran.
      fake_cuda_fail("cuStreamCreate", 3, 2, 0);
      CHECK_THROWS_AS(static_cast<void>(
                          LoadJob::start({filling.request(sample, true)}, devices.options(engine))),
                      IoError);
    }
    CHECK(filling.changed() == "");
    for (const int device : {0, 1}) fake_cuda_release_stream(fake_cuda_default_stream(device));
  }
}

// ---- cancelling ----

TEST_CASE("a cancel during a hanging read waits until nothing is written any more") {
  const Devices devices;
  const SampleFile sample(Place::disk, 2 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    auto filling = spread(2 * kMiB);
    const InjectedFaults faults({{3, FaultKind::never, 0}});
    const auto job = LoadJob::start({filling.request(sample, true)}, devices.options(engine));
    testing::wait_until_held();
    job->cancel();
    CHECK_FALSE(job->wait_for(30ms));
    const bool straight = !job->wait_until_released(30ms);  // it hangs in a place on the host
    if (straight) release_held_completions();
    REQUIRE(job->wait_until_released(kPatience));
    const auto before = filling.now();
    CHECK(filling.unverified(sample.bytes(), {}) == "");
    release_held_completions();
    REQUIRE(job->wait_for(kPatience));
    CHECK(before == filling.now());
    CHECK(pinned_account().leased_bytes == 0);
    CHECK_FALSE(job->has_failed());
  }
}

TEST_CASE("a cancel waits until the copies in flight are done") {
  const Devices devices;
  const SampleFile sample(Place::disk, 2 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    for (const bool hangs : {false, true}) {  // a read, besides
      auto filling = spread(2 * kMiB);
      fake_cuda_hold_all(1);
      const InjectedFaults faults({{hangs ? 2U : 1000U, FaultKind::never, 0}});
      const auto job = LoadJob::start({filling.request(sample, true)}, devices.options(engine));
      REQUIRE(soon([] { return fake_cuda_copies_pending() > 0; }));
      if (hangs) {
        testing::wait_until_held();
      } else {
        REQUIRE(job->wait_until_queued(kPatience));
      }
      job->cancel();
      CHECK_FALSE(job->wait_until_released(50ms));
      CHECK(fake_cuda_copies_executed() == 0);
      CHECK(pinned_account().leased_bytes > 0);
      fake_cuda_hold_all(0);
      if (hangs) release_held_completions();
      REQUIRE(job->wait_until_released(kPatience));
      CHECK(fake_cuda_copies_pending() == 0);
      const auto before = filling.now();
      CHECK(filling.unverified(sample.bytes(), {}) == "");
      REQUIRE(job->wait_for(kPatience));
      CHECK(before == filling.now());
      CHECK_FALSE(job->has_failed());
      // A job that waits only for its copies ends.
      CHECK(job->outcome().cancelled() == hangs);
      CHECK(pinned_account().leased_bytes == 0);
      Devices::recover();
    }
  }
}

TEST_CASE("a job without an owner copies to its end") {
  const Devices devices;
  const SampleFile sample(Place::disk, 2 * kMiB);
  for (const EnginePreference engine : engines_here()) {
    auto filling = spread(2 * kMiB);
    fake_cuda_hold_all(1);
    auto job = LoadJob::start({filling.request(sample, true)}, devices.options(engine));
    REQUIRE(soon([] { return fake_cuda_copies_pending() > 0; }));
    job.reset();
    fake_cuda_hold_all(0);
    CHECK(soon([] { return fake_cuda_streams_alive() == 0; }));
    CHECK(filling.difference(sample) == "");
  }
}

}  // namespace
}  // namespace fastio
