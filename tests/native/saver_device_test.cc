// Saves of tensors on devices: copied behind the caller's stream to pinned memory, summed and
// written from there.
#include <doctest/doctest.h>

#include <cstring>

#include "checksum.h"
#include "device_filling.h"
#include "saving.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::between;
using testing::DeviceBytes;
using testing::Devices;
using testing::engines_here;
using testing::kPatience;
using testing::on_every_engine_and_way;
using testing::Random;
using testing::save_options;
using testing::soon;
using testing::Way;
using testing::WrittenFile;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kChunk = 64 * kKiB;
constexpr std::uint64_t kStart = 4096;

// Tensors side by side in a file, each on one of the devices or on the host.
class Spread {
 public:
  explicit Spread(std::uint64_t nbytes, std::uint64_t seed = 1) : expected_(nbytes) {
    Random random(seed);
    for (auto& byte : expected_) byte = static_cast<std::byte>(random());
    for (std::uint64_t begin = 0; begin < nbytes;) {
      const std::uint64_t end = std::min(nbytes, begin + between(random, 1, 300 * kKiB));
      const int device = static_cast<int>(between(random, 0, 2)) - 1;
      std::byte* data = &expected_[begin];
      if (device != kHost) {
        memory_.push_back(std::make_unique<DeviceBytes>(device, end - begin));
        fake_cuda_write(memory_.back()->address(), data, end - begin);
        // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of the device
        data = reinterpret_cast<std::byte*>(memory_.back()->address());
      }
      origins_.extents.push_back({kStart + begin, kStart + end});
      origins_.memories.emplace_back(data, end - begin, std::vector<Axis>{});
      origins_.swapped.push_back(1);
      origins_.devices.push_back(device);
      begin = end;
    }
  }

  [[nodiscard]] Origins origins() const { return origins_; }
  [[nodiscard]] const std::vector<std::byte>& expected() const { return expected_; }
  [[nodiscard]] DeviceAddress first_on(int device) const {
    for (std::size_t i = 0; i < origins_.devices.size(); ++i) {
      if (origins_.devices[i] == device)
        return reinterpret_cast<std::uintptr_t>(origins_.memories[i].contiguous());
    }
    return 0;
  }

  void check_right(const SaveJob& job, const WrittenFile& file) const {
    REQUIRE_FALSE(job.outcome().failure().has_value());
    job.file()->truncate(kStart + expected_.size());
    const auto found = file.bytes();
    CHECK(testing::same(std::span(found).subspan(kStart), expected_));
    CHECK(job.digests() == digests_of(default_algorithm(), expected_, kChunk));
  }

 private:
  std::vector<std::byte> expected_;
  std::vector<std::unique_ptr<DeviceBytes>> memory_;
  Origins origins_;
};

SaveOptions options_of(const Devices& devices, EnginePreference engine) {
  SaveOptions options = save_options(engine, 4 * kChunk, 3, 2);
  options.chunk_bytes = kChunk;
  options.devices = devices.targets;
  return options;
}

TEST_CASE("tensors on devices and on the host make one file, each byte right and summed") {
  on_every_engine_and_way([](EnginePreference engine, Way way) {
    const Devices devices;
    const Spread spread(3 * kMiB + 777);
    const WrittenFile file;
    {
      const auto job = SaveJob::make(file.target(), spread.origins(), options_of(devices, engine));
      testing::run_to_the_end(*job, way);
      spread.check_right(*job, file);
    }
    CHECK(fake_cuda_copies_pending() == 0);
  });
}

TEST_CASE("checksums alone are those of the present bytes") {
  const Devices devices;
  const Spread spread(kMiB + 5);
  const WrittenFile file;
  const auto job = SaveJob::make(file.target(), spread.origins(),
                                 options_of(devices, EnginePreference::automatic));
  testing::run_leg(*job, Leg::summed, 0, job->block_count());
  CHECK(job->digests() == digests_of(default_algorithm(), spread.expected(), kChunk));
}

TEST_CASE("earlier work of the caller's streams comes first") {
  for (const EnginePreference engine : engines_here()) {
    const Devices devices;
    const Spread spread(kMiB);
    const WrittenFile file;
    for (const int device : {0, 1}) fake_cuda_hold_stream(fake_cuda_default_stream(device));
    fake_cuda_fill(fake_cuda_default_stream(1), spread.first_on(1), 7, 1);
    const auto job = SaveJob::make(file.target(), spread.origins(), options_of(devices, engine));
    job->start(Leg::buffered, 0, job->block_count());
    CHECK_FALSE(job->wait_for(100ms));
    CHECK(fake_cuda_bytes_out() == 0);
    for (const int device : {0, 1}) fake_cuda_release_stream(fake_cuda_default_stream(device));
    REQUIRE(job->wait_for(kPatience));
    const auto origins = spread.origins();
    std::vector<std::byte> expected = spread.expected();
    for (std::size_t i = 0; i < origins.devices.size(); ++i) {
      if (origins.devices[i] != 1) continue;
      expected[origins.extents[i].begin - kStart] = std::byte{7};
      break;
    }
    job->file()->truncate(kStart + expected.size());
    const auto found = file.bytes();
    CHECK(testing::same(std::span(found).subspan(kStart), expected));
  }
}

TEST_CASE("a device that fails ends the save, and nothing is left") {
  for (const char* call : {"cuMemcpyDtoHAsync", "cuStreamSynchronize"}) {
    for (const int lost : {0, 1}) {
      CAPTURE(call);
      CAPTURE(lost);
      const Devices devices;
      const Spread spread(2 * kMiB);
      const WrittenFile file;
      fake_cuda_fail(call, 3, 719, lost);
      {
        const auto job = SaveJob::make(file.target(), spread.origins(),
                                       options_of(devices, EnginePreference::automatic));
        job->start(Leg::buffered, 0, job->block_count());
        REQUIRE(job->wait_for(kPatience));
        REQUIRE(job->outcome().failure().has_value());
        CHECK(job->outcome().failure()->kind == Failure::Kind::device);
        CHECK(job->outcome().failure()->error == 719);
      }
      CHECK(soon([] { return pinned_account().leased_bytes == 0; }));
      Devices::recover();
    }
  }
}

TEST_CASE("a cancelled save leaves the devices' memory alone after its end") {
  const Devices devices;
  const Spread spread(2 * kMiB);
  const WrittenFile file;
  {
    const auto job = SaveJob::make(file.target(), spread.origins(),
                                   options_of(devices, EnginePreference::automatic));
    fake_cuda_hold_all(1);
    job->start(Leg::buffered, 0, job->block_count());
    REQUIRE(soon([] { return fake_cuda_copies_pending() > 0; }));
    job->cancel();
    CHECK_FALSE(job->wait_until_released(50ms));
    fake_cuda_hold_all(0);
    REQUIRE(job->wait_until_released(kPatience));
    CHECK(fake_cuda_copies_pending() == 0);
    REQUIRE(job->wait_for(kPatience));
    CHECK_FALSE(job->has_failed());
  }
}

TEST_CASE("pinned memory stays within its limit, and a limit below a chunk is refused") {
  const Devices devices;
  const Spread spread(2 * kMiB);
  const WrittenFile file;
  SaveOptions options = options_of(devices, EnginePreference::automatic);
  options.pinned_limit_bytes = 3 * kChunk;
  {
    const auto job = SaveJob::make(file.target(), spread.origins(), options);
    testing::run_leg(*job, Leg::buffered, 0, job->block_count());
    spread.check_right(*job, file);
    CHECK(fake_cuda_pinned_bytes() <= options.pinned_limit_bytes);
  }
  options.pinned_limit_bytes = kChunk - 1;
  CHECK_THROWS_AS(static_cast<void>(SaveJob::make(file.target(), spread.origins(), options)),
                  MemoryLimitExceeded);
}

TEST_CASE("an origin on a device that is not given is refused") {
  const Devices devices;
  const Spread spread(300 * kKiB);
  const WrittenFile file;
  SaveOptions options = options_of(devices, EnginePreference::automatic);
  options.devices.clear();
  CHECK_THROWS_AS(static_cast<void>(SaveJob::make(file.target(), spread.origins(), options)),
                  std::invalid_argument);
}

}  // namespace
}  // namespace fastio
