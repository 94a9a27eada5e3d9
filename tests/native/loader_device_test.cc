// Loads to devices: every byte at its place, staged in pinned memory within the limits, and not
// before the caller's stream is ready for it.
#include <doctest/doctest.h>

#include <array>
#include <string>

#include "device_filling.h"
#include "loader.h"
#include "loading.h"
#include "sample_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::between;
using testing::DeviceBytes;
using testing::DeviceFilling;
using testing::Devices;
using testing::engines_here;
using testing::failure_of;
using testing::filled;
using testing::InjectedFaults;
using testing::kPatience;
using testing::kPoison;
using testing::Place;
using testing::Random;
using testing::random_device_filling;
using testing::SampleFile;
using testing::soon;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;

void check_right(const LoadJob& job, const DeviceFilling& filling, const SampleFile& sample) {
  REQUIRE(failure_of(job) == "");
  CHECK(filling.difference(sample) == "");
  for (std::size_t e = 0; e < filling.extents.size(); ++e) CHECK(job.is_placed(0, e));
  CHECK(pinned_account().leased_bytes == 0);
}

DeviceFilling whole_on(int device, const SampleFile& sample) {
  DeviceFilling filling;
  filling.add({0, sample.bytes().size()}, device);
  return filling;
}

// ---- every byte ----

TEST_CASE("every byte is right on one device, on two, and on the host beside them") {
  Random random(testing::random_seed());
  const Devices devices;
  for (const Place place : {Place::disk, Place::memory}) {
    const SampleFile sample(place, 2 * kMiB + between(random, 0, 9000));
    for (const EnginePreference engine : engines_here()) {
      for (const CacheMode cache : {CacheMode::bypass, CacheMode::keep, CacheMode::automatic}) {
        for (const bool verified : {true, false}) {
          for (const auto& where : {std::vector{0}, {1, 0}, {kHost, 0, 1}}) {
            CAPTURE(testing::name_of(engine));
            CAPTURE(where.size());
            if (between(random, 0, 1) != 0) static_cast<void>(sample.evict());
            auto filling = random_device_filling(random, sample.bytes().size(), where);
            const std::uint64_t before = fake_cuda_bytes_in();
            const auto job = testing::load_to_the_end({filling.request(sample, verified)},
                                                      devices.options(engine, cache));
            check_right(*job, filling, sample);
            CHECK(fake_cuda_bytes_in() - before == filling.bytes_on_devices());
          }
        }
      }
    }
  }
}

TEST_CASE("every byte is right for random sizes, delays and orders") {
  Random random(testing::random_seed());
  const Devices devices;
  for (int i = 0; i < testing::random_cases(30); ++i) {
    CAPTURE(i);
    const SampleFile sample(Place::disk, between(random, 1, 3 * kMiB), between(random, 1, 1000));
    for (const EnginePreference engine : engines_here()) {
      auto filling = random_device_filling(random, sample.bytes().size(), {kHost, 0, 0, 1});
      LoadOptions options = devices.options(engine, std::array{CacheMode::bypass, CacheMode::keep,
                                                               CacheMode::automatic}[random() % 3]);
      options.block_bytes = between(random, 1, kMiB);
      options.queue_depth = static_cast<unsigned>(between(random, 1, 6));
      options.lanes = static_cast<unsigned>(between(random, 1, 4));
      options.persistent = between(random, 0, 1) != 0;
      options.pinned_limit_bytes = between(random, 2, 8) * kMiB;
      fake_cuda_set_delay(static_cast<unsigned>(between(random, 0, 1500)), random());
      std::vector<Fault> slow;
      for (std::uint64_t at = between(random, 0, 3); at < 30; at += between(random, 1, 9)) {
        slow.push_back({at, between(random, 0, 1) != 0 ? FaultKind::late : FaultKind::reorder,
                        static_cast<std::int64_t>(between(random, 0, 3))});
      }
      const InjectedFaults faults(slow);
      const auto job =
          testing::load_to_the_end({filling.request(sample, between(random, 0, 1) != 0)}, options);
      check_right(*job, filling, sample);
    }
    static_cast<void>(trim_pinned());  // limits differ
  }
}

TEST_CASE("several files are one job") {
  const Devices devices;
  const SampleFile one(Place::disk, kMiB, 1);
  const SampleFile other(Place::memory, kMiB, 2);
  for (const EnginePreference engine : engines_here()) {
    auto first = whole_on(1, one);
    DeviceFilling second;
    second.add({0, kMiB / 2}, kHost);
    second.add({kMiB / 2, kMiB}, 0);
    const auto job = testing::load_to_the_end(
        {first.request(one, true), second.request(other, true)}, devices.options(engine));
    REQUIRE(failure_of(*job) == "");
    CHECK(first.difference(one) == "");
    CHECK(second.difference(other) == "");
  }
}

// ---- copies ----

TEST_CASE("neighbours in the file and on the device are one copy a block") {
  const Devices devices;
  const SampleFile sample(Place::disk, kMiB);
  struct Case {
    std::vector<int> devices;
    std::optional<std::uint64_t> lead;
    std::uint64_t copies;
    bool one_allocation = true;
  };
  for (const auto& [where, lead, copies, one_allocation] :
       {Case{{0}, {}, 4}, Case{{0}, 256, 16}, Case{{0, 1}, {}, 16}, Case{{0, 0, 1, 1}, {}, 8},
        Case{{0}, {}, 16, false}}) {
    DeviceFilling filling;
    for (std::uint64_t i = 0; i < 16; ++i) {
      filling.add({i * 64 * kKiB, (i + 1) * 64 * kKiB}, where[i % where.size()], lead);
      filling.add({(i + 1) * 64 * kKiB, (i + 1) * 64 * kKiB}, where[i % where.size()]);
    }
    const std::uint64_t before = fake_cuda_copies_executed();
    LoadOptions options = devices.options(EnginePreference::automatic);
    options.joins_places = one_allocation;
    const auto job = testing::load_to_the_end({filling.request(sample, true)}, options);
    check_right(*job, filling, sample);
    CHECK(fake_cuda_copies_executed() - before == copies);
  }
}

TEST_CASE("rows go to their places one by one") {
  const Devices devices;
  const SampleFile sample(Place::disk, kMiB);
  for (const EnginePreference engine : engines_here()) {
    DeviceFilling filling;
    filling.add_rows({0, 400'000}, 0, 1000, 1024);
    filling.add_rows({400'000, 900'000}, 1, 5000, 5000);
    filling.add_rows({900'000, 1'000'000}, kHost, 10, 13);
    const std::uint64_t before = fake_cuda_copies_executed();
    const auto job =
        testing::load_to_the_end({filling.request(sample, true)}, devices.options(engine));
    check_right(*job, filling, sample);
    CHECK(fake_cuda_copies_executed() - before <= 400 + 2 * 4);
  }
}

TEST_CASE("extents of no bytes need no device to do anything") {
  const Devices devices;
  const SampleFile sample(Place::disk, kMiB);
  DeviceFilling filling;
  for (const int device : {0, 1, kHost, 0}) filling.add({4096, 4096}, device);
  const auto job = testing::load_to_the_end({filling.request(sample, true)},
                                            devices.options(EnginePreference::automatic));
  check_right(*job, filling, sample);
  CHECK(job->report().lanes == 0);
  CHECK(fake_cuda_calls("cuStreamCreate") == 0);
  CHECK(pinned_account().bytes == 0);
}

TEST_CASE("a job that has devices and fills none of them is right as well") {
  const Devices devices;
  const SampleFile sample(Place::disk, kMiB);
  for (const std::uint64_t lead : {0U, 64U}) {  // read straight there, and staged
    DeviceFilling filling;
    filling.add({0, kMiB}, kHost, lead);
    const auto job = testing::load_to_the_end({filling.request(sample, true)},
                                              devices.options(EnginePreference::automatic));
    check_right(*job, filling, sample);
    CHECK(fake_cuda_copies_executed() == 0);
  }
}

TEST_CASE("places are on devices that the job has, said for each of them or for none") {
  const Devices devices;
  const SampleFile sample(Place::disk, kMiB);
  auto filling = whole_on(1, sample);
  const ShardRequest request = filling.request(sample, true);
  const auto refuses = [&](ShardRequest asked, std::size_t count) {
    LoadOptions options = devices.options(EnginePreference::automatic);
    options.devices.resize(count);
    CHECK_THROWS_AS(static_cast<void>(LoadJob::start({std::move(asked)}, options)),
                    std::invalid_argument);
  };
  refuses(request, 0);
  refuses(request, 1);
  for (const std::vector<int>& bad : {std::vector{-2}, {2}, {0, 1}}) {
    ShardRequest asked = request;
    asked.devices = bad;
    refuses(asked, 2);
  }
  CHECK(filling.changed() == "");
}

// ---- the caller's stream ----

TEST_CASE("nothing is copied before the caller's stream comes to where it was at the start") {
  const SampleFile sample(Place::disk, kMiB);
  for (const EnginePreference engine : engines_here()) {
    for (const bool by_default : {true, false}) {
      CAPTURE(by_default);
      Devices devices;
      auto filling = whole_on(1, sample);
      const ShardRequest request = filling.request(sample, true);
      const std::uintptr_t stream =
          by_default ? fake_cuda_default_stream(1) : fake_cuda_make_stream(1);
      if (!by_default) devices.targets[1].stream = stream;
      fake_cuda_hold_stream(stream);
      // An earlier kernel that still writes to the destination memory.
      fake_cuda_fill(stream, reinterpret_cast<std::uintptr_t>(request.places[0].contiguous()), 0x11,
                     sample.bytes().size());
      const auto job = LoadJob::start({request}, devices.options(engine));
      REQUIRE(soon([] { return fake_cuda_copies_pending() > 0; }));
      CHECK_FALSE(job->wait_for(30ms));
      CHECK(fake_cuda_copies_executed() == 0);
      CHECK(filling.changed() == "");
      CHECK_FALSE(job->is_placed(0, 0));
      fake_cuda_release_stream(stream);
      REQUIRE(job->wait_for(kPatience));
      check_right(*job, filling, sample);
    }
  }
}

TEST_CASE("a block is on its way until each device that it goes to has its part") {
  const Devices devices;
  const SampleFile sample(Place::disk, kMiB);
  for (const EnginePreference engine : engines_here()) {
    for (const int held : {0, 1}) {
      DeviceFilling filling;
      for (std::uint64_t i = 0; i < 16; ++i) {
        filling.add({i * 64 * kKiB, (i + 1) * 64 * kKiB}, static_cast<int>(i % 2));
      }
      const std::uintptr_t stream = fake_cuda_default_stream(held);
      const std::uint64_t before = fake_cuda_copies_executed();
      fake_cuda_hold_stream(stream);
      const auto job = LoadJob::start({filling.request(sample, true)}, devices.options(engine));
      REQUIRE(soon([&] { return fake_cuda_copies_executed() - before == 8; }));  // the other's
      CHECK_FALSE(job->wait_for(30ms));
      CHECK(fake_cuda_copies_pending() == 8);
      CHECK(pinned_account().leased_bytes == kMiB);
      for (std::size_t e = 0; e < filling.extents.size(); ++e) CHECK_FALSE(job->is_placed(0, e));
      fake_cuda_release_stream(stream);
      REQUIRE(job->wait_for(kPatience));
      check_right(*job, filling, sample);
    }
  }
}

TEST_CASE("work enqueued behind the copies waits for them without a wait on the host") {
  const Devices devices;
  const SampleFile sample(Place::disk, kMiB);
  for (const EnginePreference engine : engines_here()) {
    for (const int on : {0, 1}) {  // a stream of the device that is filled, and of the other one
      auto filling = whole_on(0, sample);
      const ShardRequest request = filling.request(sample, true);
      fake_cuda_hold_stream(fake_cuda_default_stream(0));
      const auto job = LoadJob::start({request}, devices.options(engine));
      REQUIRE(job->wait_until_queued(kPatience));
      CHECK_FALSE(job->has_failed());
      CHECK_FALSE(job->wait_for(30ms));
      CHECK(filling.changed() == "");
      const std::uintptr_t behind = fake_cuda_make_stream(on);
      const DeviceBytes there(on, 1);
      REQUIRE_FALSE(job->hold_back({devices.targets[static_cast<std::size_t>(on)].device, behind}));
      fake_cuda_fill(behind, there.address(), 0x11, 1);
      CHECK_FALSE(job->wait_for(30ms));
      CHECK(there.now() == filled(1, kPoison));
      if (on == 1) job->cancel();  // changes nothing: all blocks are in flight
      CHECK_FALSE(job->outcome().cancelled());
      fake_cuda_release_stream(fake_cuda_default_stream(0));
      REQUIRE(soon([&] { return there.now() == filled(1, std::byte{0x11}); }));
      CHECK(filling.difference(sample) == "");
      REQUIRE(job->wait_for(kPatience));
      check_right(*job, filling, sample);
      REQUIRE_FALSE(job->hold_back({devices.targets[0].device, 0}));  // no longer needed
    }
  }
}

TEST_CASE("while blocks wait for staging, not all is queued") {
  const Devices devices;
  const SampleFile sample(Place::disk, kMiB);
  for (const EnginePreference engine : engines_here()) {
    auto filling = whole_on(0, sample);
    LoadOptions options = devices.options(engine);
    options.pinned_limit_bytes = 2 * options.block_bytes;  // of four
    fake_cuda_hold_stream(fake_cuda_default_stream(0));
    const auto job = LoadJob::start({filling.request(sample, true)}, options);
    REQUIRE(soon([] { return fake_cuda_copies_pending() == 2; }));
    CHECK_FALSE(job->wait_until_queued(50ms));
    fake_cuda_release_stream(fake_cuda_default_stream(0));
    REQUIRE(job->wait_until_queued(kPatience));
    REQUIRE(job->wait_for(kPatience));
    check_right(*job, filling, sample);
    static_cast<void>(trim_pinned());
  }
}

TEST_CASE("a job whose bytes are all there ends, also where another one has all the staging") {
  const Devices devices;
  const SampleFile small(Place::disk, 512 * kKiB);
  const SampleFile large(Place::disk, 4 * kMiB);
  for (int again = 0; again < 10; ++again) {
    auto first = whole_on(0, small);
    auto second = whole_on(1, large);
    LoadOptions options = devices.options(EnginePreference::automatic);
    options.pinned_limit_bytes = 2 * options.block_bytes;
    options.devices.pop_back();
    for (const int device : {0, 1}) fake_cuda_hold_stream(fake_cuda_default_stream(device));
    const auto job = LoadJob::start({first.request(small, true)}, options);
    REQUIRE(soon([&] { return pinned_account().leased_bytes == options.pinned_limit_bytes; }));
    options.devices = devices.targets;
    options.lanes = 4;
    const auto other = LoadJob::start({second.request(large, true)}, options);
    fake_cuda_release_stream(fake_cuda_default_stream(0));
    REQUIRE(job->wait_for(kPatience / 6));
    fake_cuda_release_stream(fake_cuda_default_stream(1));
    REQUIRE(other->wait_for(kPatience));
    CHECK(first.difference(small) == "");
    check_right(*other, second, large);
    static_cast<void>(trim_pinned());
  }
}

TEST_CASE("a job that is prepared writes nothing before it is launched") {
  const Devices devices;
  const SampleFile sample(Place::disk, kMiB);
  for (const EnginePreference engine : engines_here()) {
    auto filling = whole_on(0, sample);
    const ShardRequest request = filling.request(sample, true);
    static_cast<void>(LoadJob::prepare({request}, devices.options(engine)));  // and kept
    const auto job = LoadJob::prepare({request}, devices.options(engine));
    CHECK(fake_cuda_calls("cuStreamCreate") == 0);
    CHECK(filling.changed() == "");
    job->launch();
    REQUIRE(job->wait_for(kPatience));
    check_right(*job, filling, sample);
    fake_cuda_clear();
  }
}

TEST_CASE("a job that fails is queued when nothing will be copied any more") {
  const Devices devices;
  const SampleFile sample(Place::disk, kMiB);
  for (const EnginePreference engine : engines_here()) {
    auto filling = whole_on(0, sample);
    ShardRequest request = filling.request(sample, true);
    Digests& digests = request.table->digests;
    digests.put(digests.size() - 1, {digests.algorithm(), {}});
    const auto job = LoadJob::start({request}, devices.options(engine));
    REQUIRE(job->wait_until_queued(kPatience));
    CHECK(job->outcome().damage().has_value());
    REQUIRE(job->wait_for(kPatience));
  }
}

TEST_CASE("later work of the caller's stream is not waited for") {
  const Devices devices;
  const SampleFile sample(Place::disk, kMiB);
  for (const EnginePreference engine : engines_here()) {
    auto filling = whole_on(0, sample);
    const InjectedFaults faults({{0, FaultKind::never, 0}});
    const auto job = LoadJob::start({filling.request(sample, true)}, devices.options(engine));
    testing::wait_until_held();
    fake_cuda_hold_stream(fake_cuda_default_stream(0));
    release_held_completions();
    CHECK(job->wait_for(kPatience));
    fake_cuda_release_stream(fake_cuda_default_stream(0));
    check_right(*job, filling, sample);
  }
}

}  // namespace
}  // namespace fastio
