// Files for the tests to read: known random bytes, on a disk or in memory, cold or warm.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "loader.h"

namespace fastio::testing {

using Random = std::mt19937_64;

// FASTIO_TEST_SEED if it is set, else a new one; printed, so that a failure can be reproduced.
[[nodiscard]] std::uint64_t random_seed();

// How many random cases a test tries: fewer under TSan, which is some ten times slower.
[[nodiscard]] constexpr int random_cases(int count) {
#if defined(__SANITIZE_THREAD__)
  return count / 3;
#else
  return count;
#endif
}

// Compares all bytes at once: byte by byte takes minutes under the sanitizers.
[[nodiscard]] bool same(std::span<const std::byte> one, std::span<const std::byte> other);
[[nodiscard]] std::uint64_t between(Random& random, std::uint64_t low, std::uint64_t high);

enum class Place { disk, memory };  // the working folder, /dev/shm

// Removes its file at the end.
class SampleFile {
 public:
  SampleFile(Place place, std::size_t nbytes, std::uint64_t seed = 1);
  SampleFile(const SampleFile&) = delete;
  SampleFile& operator=(const SampleFile&) = delete;
  ~SampleFile();

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }  // as the file was made

  [[nodiscard]] bool in_memory() const { return in_memory_; }  // the working folder may be as well

  // Drops the file from the page cache, or brings it in, at most [begin, end) of it, and locks it
  // there until it is evicted. `evict` is false if the file stays: it lies in memory.
  [[nodiscard]] bool evict() const;
  void warm() const { warm(0, bytes_.size()); }
  void warm(std::size_t begin, std::size_t end) const;

  // A second opinion about the page cache, for the owner of the file: mincore.
  [[nodiscard]] std::size_t resident_pages() const;

  void truncate(std::size_t nbytes) const;
  void overwrite(std::size_t offset, std::byte value) const;

  [[nodiscard]] ChunkTable table(std::uint64_t start, std::uint64_t chunk_bytes,
                                 const Algorithm& algorithm = default_algorithm()) const;

 private:
  std::string path_;
  bool in_memory_ = false;
  std::vector<std::byte> bytes_;
  mutable std::shared_ptr<void> kept_warm_;  // a mapping that holds the pages
};

// Extents from `begin` to `end` without a hole between them, `count` of them, some of them empty.
[[nodiscard]] std::vector<Extent> tile(Random& random, std::uint64_t begin, std::uint64_t end,
                                       std::size_t count);

}  // namespace fastio::testing
