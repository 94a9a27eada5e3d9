// Memory of the caller for tests to load into, between fences, and its permitted contents
// afterwards.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "loader.h"
#include "sample_file.h"

namespace fastio::testing {

inline constexpr std::byte kFence{0xA5};
inline constexpr std::uint64_t kChunkBytes = std::uint64_t{64} << 10;

// Memory for one extent: `lead` bytes past a page, between guard pages.
class Target {
 public:
  Target(std::uint64_t nbytes, std::uint64_t lead)
      : memory_(nbytes + lead + 2 * kPage, kFence), nbytes_(nbytes) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    begin_ = (address + kPage - 1) / kPage * kPage - address + lead;
  }
  [[nodiscard]] std::byte* data() { return memory_.data() + begin_; }
  [[nodiscard]] std::span<const std::byte> bytes() const {
    return std::span(memory_).subspan(begin_, nbytes_);
  }
  [[nodiscard]] bool fences_stand() const {
    const auto is_fence = [](std::byte byte) { return byte == kFence; };
    return std::all_of(memory_.begin(), memory_.begin() + static_cast<std::ptrdiff_t>(begin_),
                       is_fence) &&
           std::all_of(memory_.begin() + static_cast<std::ptrdiff_t>(begin_ + nbytes_),
                       memory_.end(), is_fence);
  }

 private:
  static constexpr std::uint64_t kPage = 4096;
  std::vector<std::byte> memory_;
  std::uint64_t nbytes_, begin_ = 0;
};

struct Filling {
  std::vector<Extent> extents;
  std::vector<Target> targets;

  [[nodiscard]] ShardRequest request(const SampleFile& sample, bool verified) {
    ShardRequest made{{File::open(sample.path())}, extents, {}};
    if (verified) made.table = sample.table(0, kChunkBytes);
    return with_places(std::move(made));
  }

  [[nodiscard]] ShardRequest with_places(ShardRequest made) {
    for (std::size_t i = 0; i < extents.size(); ++i) {
      made.places.emplace_back(targets[i].data(), 1,
                               std::vector<Axis>{{extents[i].end - extents[i].begin, 1}});
    }
    return made;
  }

  [[nodiscard]] bool is_right(std::span<const std::byte> bytes) const {
    for (std::size_t i = 0; i < extents.size(); ++i) {
      const auto found = targets[i].bytes();
      if (!same(found, bytes.subspan(extents[i].begin, found.size()))) return false;
    }
    return true;
  }

  [[nodiscard]] bool is_right(const SampleFile& sample) const { return is_right(sample.bytes()); }

  [[nodiscard]] bool fences_stand() const {
    return std::ranges::all_of(targets, [](const Target& t) { return t.fences_stand(); });
  }
};

// Extents of all sizes, some next to each other; half of their places are congruent to the file.
inline Filling random_filling(Random& random, std::uint64_t file_bytes) {
  Filling made;
  for (std::uint64_t at = 0; at < file_bytes;) {
    const std::uint64_t size = between(random, 0, 1) != 0
                                   ? between(random, 0, std::uint64_t{1400} << 10)
                                   : between(random, 0, std::uint64_t{10} << 10);
    const std::uint64_t end = std::min(at + size, file_bytes);
    made.extents.push_back({at, end});
    const std::uint64_t lead = between(random, 0, 1) != 0 ? at % 4096 : between(random, 0, 4095);
    made.targets.emplace_back(end - at, lead);
    at = end + (between(random, 0, 3) == 0 ? between(random, 0, std::uint64_t{1} << 20) : 0);
  }
  return made;
}

// Checks memory after damage or an error: it holds only verified bytes of the file, zeros, or its
// old bytes.
inline void check_nothing_unverified(const Filling& filling, std::span<const std::byte> bytes,
                                     const LoadJob& job, const Extent& bad) {
  constexpr std::size_t kRun = 4096;
  CHECK(filling.fences_stand());
  for (std::size_t e = 0; e < filling.extents.size(); ++e) {
    const Extent& extent = filling.extents[e];
    const auto found = filling.targets[e].bytes();
    const bool placed = job.is_placed(0, e);
    for (std::size_t begin = 0; begin < found.size(); begin += kRun) {
      const std::size_t end = std::min(begin + kRun, found.size());
      const bool beside_bad = extent.begin + end <= bad.begin || bad.end <= extent.begin + begin;
      const auto expected = bytes.subspan(extent.begin + begin, end - begin);
      if (beside_bad && same(found.subspan(begin, end - begin), expected)) continue;
      for (std::size_t i = begin; i < end; ++i) {
        const std::uint64_t at = extent.begin + i;
        const bool in_bad = bad.begin <= at && at < bad.end;
        const bool verified = !in_bad && found[i] == bytes[at];
        if (!verified && found[i] != std::byte{0} && found[i] != kFence) {
          FAIL("an unverified byte at offset " << at);
        }
        if (placed && (in_bad || found[i] != bytes[at])) FAIL("not complete at " << at);
      }
    }
  }
}

}  // namespace fastio::testing
