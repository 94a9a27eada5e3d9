// Memory on devices and on the host for tests to load into, all of it between guard bytes. The pool
// of pinned memory is empty before and after each test.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "device_double.h"
#include "filling.h"
#include "loader.h"
#include "loading.h"
#include "pinned.h"
#include "sample_file.h"

namespace fastio::testing {

// Waits for an asynchronous action of a lane or of the double.
template <typename Condition>
[[nodiscard]] bool soon(Condition&& condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!condition() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return condition();
}

// Both devices of the double, with their default streams as the caller's. Outlives the jobs.
class Devices {
 public:
  Devices() {
    fake_cuda_set_delay(kDelayUs, 0);
    for (int ordinal = 0; ordinal < 2; ++ordinal) targets.push_back({Device::of(ordinal), 0});
  }
  Devices(const Devices&) = delete;
  Devices& operator=(const Devices&) = delete;
  ~Devices() {
    targets.clear();
    // A lane's thread releases its job a moment after the job is over.
    CHECK(soon([] {
      trim_pinned();
      return fake_cuda_contexts_retained() == 0;
    }));
    CHECK(pinned_account().leased_bytes == 0);
    CHECK(pinned_account().bytes == 0);
    CHECK(pinned_account().unpinned_bytes == 0);
  }

  // After a fault: checks that no error was recorded so far, and revives lost devices.
  static void recover() {
    CHECK(std::string(fake_cuda_first_violation()) == "");
    fake_cuda_clear();
    fake_cuda_set_delay(kDelayUs, 0);
  }

  [[nodiscard]] LoadOptions options(EnginePreference engine,
                                    CacheMode cache = CacheMode::bypass) const {
    LoadOptions options;
    options.engine = engine;
    options.cache = cache;
    options.block_bytes = std::uint64_t{256} << 10;
    options.queue_depth = 3;
    options.devices = targets;
    return options;
  }

 private:
  static constexpr unsigned kDelayUs = 300;
  Double double_{};

 public:
  std::vector<DeviceTarget> targets;
};

// The error of a job; "" for none.
inline std::string failure_of(const LoadJob& job) {
  const auto failure = job.outcome().failure();
  return failure ? failure->message() : job.outcome().damage() ? "damaged" : "";
}

class DeviceFilling {
 public:
  std::vector<Extent> extents;

  // The place of the next extent, on a device of the job or on the host: right behind the one
  // before, or at the given offset from a page boundary.
  void add(const Extent& extent, int device, std::optional<std::uint64_t> lead = {}) {
    const std::uint64_t nbytes = extent.end - extent.begin;
    add(extent, {device, start(device, lead), 1, {{nbytes, 1}}}, nbytes);
  }
  // In rows, separated by bytes that do not change.
  void add_rows(const Extent& extent, int device, std::uint64_t row_bytes,
                std::uint64_t stride_bytes) {
    const std::uint64_t rows = (extent.end - extent.begin) / row_bytes;
    REQUIRE(rows * row_bytes == extent.end - extent.begin);
    add(extent,
        {device,
         start(device, {}),
         1,
         {{rows, static_cast<std::int64_t>(stride_bytes)}, {row_bytes, 1}}},
        rows * stride_bytes);
  }

  [[nodiscard]] ShardRequest request(const SampleFile& sample, bool verified) {
    ShardRequest made{{File::open(sample.path())}, extents, {}};
    if (verified) made.table = sample.table(0, kChunkBytes);
    return with_places(std::move(made));
  }
  [[nodiscard]] ShardRequest with_places(ShardRequest made) {
    for (Memory& memory : memories_) memory.allocate();
    for (const Spot& spot : spots_) {
      made.places.push_back(spot.in(memory_of(spot.device).data()));
      made.devices.push_back(spot.device);
    }
    return made;
  }

  // Describes the first byte that differs from the file, or the first changed guard byte.
  [[nodiscard]] std::string difference(std::span<const std::byte> bytes) const {
    return compare([&](int device) { return image(device, bytes, {}); }, false);
  }
  [[nodiscard]] std::string difference(const SampleFile& sample) const {
    return difference(sample.bytes());
  }

  // Describes the first byte that differs from both its old value and the file, or is the file's in
  // `bad`. On the host it may be zero, too.
  [[nodiscard]] std::string unverified(std::span<const std::byte> bytes, const Extent& bad) const {
    return compare([&](int device) { return image(device, bytes, bad); }, true);
  }

  [[nodiscard]] std::string changed() const {
    return compare([&](int device) { return image(device, {}, {}); }, false);
  }

  [[nodiscard]] std::uint64_t bytes_on_devices() const {
    std::uint64_t nbytes = 0;
    for (std::size_t e = 0; e < extents.size(); ++e) {
      if (spots_[e].device != kHost) nbytes += extents[e].end - extents[e].begin;
    }
    return nbytes;
  }

  // All the memory, to check that it does not change.
  [[nodiscard]] std::vector<std::vector<std::byte>> now() const {
    std::vector<std::vector<std::byte>> all;
    for (const Memory& memory : memories_) all.push_back(memory.now());
    return all;
  }

 private:
  static constexpr int kMemories = 3;  // the host's and two devices'

  struct Spot {
    int device;
    std::uint64_t offset, item_bytes;
    std::vector<Axis> axes;

    [[nodiscard]] Placement in(std::byte* memory) const {
      return {memory + offset, item_bytes, axes};
    }
  };

  struct Memory {
    int device = kHost;
    std::uint64_t nbytes = 0;
    std::unique_ptr<DeviceBytes> theirs;
    std::unique_ptr<Target> ours;

    void allocate() {
      if (device == kHost && !ours) ours = std::make_unique<Target>(nbytes, 0);
      if (device != kHost && !theirs) theirs = std::make_unique<DeviceBytes>(device, nbytes + 1);
    }
    [[nodiscard]] std::byte* data() const {
      return ours ? ours->data() : std::bit_cast<std::byte*>(theirs->address());
    }
    [[nodiscard]] std::byte untouched() const { return device == kHost ? kFence : kPoison; }
    [[nodiscard]] std::vector<std::byte> now() const {
      if (ours) return {ours->bytes().begin(), ours->bytes().end()};
      auto bytes = theirs ? theirs->now() : std::vector<std::byte>(nbytes + 1, kPoison);
      bytes.resize(nbytes);
      return bytes;
    }
  };

  [[nodiscard]] Memory& memory_of(int device) {
    return memories_.at(static_cast<std::size_t>(device) + 1);
  }

  [[nodiscard]] std::uint64_t start(int device, std::optional<std::uint64_t> lead) {
    constexpr std::uint64_t kPage = 4096;
    const std::uint64_t behind = memory_of(device).nbytes;
    return lead ? (behind + kPage - 1) / kPage * kPage + *lead : behind;
  }

  void add(const Extent& extent, Spot spot, std::uint64_t nbytes) {
    extents.push_back(extent);
    memory_of(spot.device).nbytes = spot.offset + nbytes;
    spots_.push_back(std::move(spot));
  }

  // The expected memory if no byte of `bad` arrives.
  [[nodiscard]] std::vector<std::byte> image(int device, std::span<const std::byte> bytes,
                                             const Extent& bad) const {
    const Memory& memory = memories_.at(static_cast<std::size_t>(device) + 1);
    std::vector<std::byte> image(memory.nbytes, memory.untouched());
    for (std::size_t e = 0; e < spots_.size() && !bytes.empty(); ++e) {
      if (spots_[e].device != device) continue;
      const auto [begin, end] = extents[e];
      std::vector<std::byte> part(bytes.begin() + static_cast<std::ptrdiff_t>(begin),
                                  bytes.begin() + static_cast<std::ptrdiff_t>(end));
      for (std::uint64_t at = std::max(begin, bad.begin); at < std::min(end, bad.end); ++at) {
        part[at - begin] = memory.untouched();
      }
      spots_[e].in(image.data()).put(0, part);
    }
    return image;
  }

  template <typename Image>
  [[nodiscard]] std::string compare(Image&& image_of, bool may_lack) const {
    constexpr std::size_t kRun = 4096;  // one comparison of the whole first: sanitizers are slow
    for (const Memory& memory : memories_) {
      if (memory.ours && !memory.ours->fences_stand()) return "a fence of the host fell";
      const auto found = memory.now();
      const auto wanted = image_of(memory.device);
      for (std::size_t begin = 0; begin < found.size(); begin += kRun) {
        const std::size_t nbytes = std::min(kRun, found.size() - begin);
        if (same(std::span(found).subspan(begin, nbytes), std::span(wanted).subspan(begin, nbytes)))
          continue;
        for (std::size_t i = begin; i < begin + nbytes; ++i) {
          const bool left_alone = found[i] == memory.untouched() ||
                                  (memory.device == kHost && found[i] == std::byte{0});
          if (found[i] == wanted[i] || (may_lack && left_alone)) continue;
          return "device " + std::to_string(memory.device) + " differs at " + std::to_string(i);
        }
      }
    }
    return {};
  }

  std::vector<Spot> spots_;
  std::array<Memory, kMemories> memories_{Memory{kHost, 0, {}, {}}, Memory{0, 0, {}, {}},
                                          Memory{1, 0, {}, {}}};
};

// Extents of all sizes, some next to each other, on the given devices; some of them in rows.
inline DeviceFilling random_device_filling(Random& random, std::uint64_t file_bytes,
                                           const std::vector<int>& devices) {
  DeviceFilling made;
  for (std::uint64_t at = 0; at < file_bytes;) {
    const std::uint64_t largest = (between(random, 0, 1) != 0 ? 1400 : 10) * std::uint64_t{1024};
    const std::uint64_t end = std::min(at + between(random, 0, largest), file_bytes);
    const int device = devices[between(random, 0, devices.size() - 1)];
    const std::uint64_t row_bytes = between(random, 1, 3) * 4096;
    if (end - at > row_bytes && between(random, 0, 3) == 0) {
      const std::uint64_t whole = (end - at) / row_bytes * row_bytes;
      made.add_rows({at, at + whole}, device, row_bytes, row_bytes + between(random, 0, 100));
      at += whole;
      continue;
    }
    switch (between(random, 0, 2)) {
      case 0:
        made.add({at, end}, device, at % 4096);
        break;
      case 1:
        made.add({at, end}, device, between(random, 0, 4095));
        break;
      default:
        made.add({at, end}, device);
    }
    at = end + (between(random, 0, 3) == 0 ? between(random, 0, std::uint64_t{1} << 20) : 0);
  }
  return made;
}

}  // namespace fastio::testing
