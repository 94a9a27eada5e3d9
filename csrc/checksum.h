// Checksums of chunks: the algorithms that a table may name, and digests by them.
//
// A further algorithm is one more row of algorithms(). Nothing else in the core knows how long a
// digest is, or what it is made with. All of it may be called from any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fastio {

// The longest digest of an algorithm here, in bytes.
inline constexpr std::size_t kDigestBytesMost = 32;

struct Algorithm {
  // How people read a digest: its bytes as they lie, or as a number that lies little-endian.
  enum class Text : std::uint8_t { bytes, number };

  std::string_view name;  // as tables have it
  std::size_t digest_bytes = 0;
  Text text = Text::bytes;
  void (*digest)(std::span<const std::byte> data, std::byte* out) = nullptr;
};

// Those that are known, the default first.
[[nodiscard]] std::span<const Algorithm> algorithms();
// XXH3-64 with seed 0, little-endian.
[[nodiscard]] const Algorithm& default_algorithm();
// Null if there is none of this name.
[[nodiscard]] const Algorithm* find_algorithm(std::string_view name);

// One digest. It lives as long as it likes: algorithms are never destroyed.
class Digest {
 public:
  Digest() = default;
  // Of these bytes.
  Digest(const Algorithm& algorithm, std::span<const std::byte> data);
  // The one that a table has. Throws std::invalid_argument for another length.
  static Digest of_table(const Algorithm& algorithm, std::span<const std::byte> stored);

  [[nodiscard]] std::span<const std::byte> bytes() const;
  // In hexadecimal digits.
  [[nodiscard]] std::string text() const;

  bool operator==(const Digest& other) const = default;

 private:
  const Algorithm* algorithm_ = nullptr;
  std::array<std::byte, kDigestBytesMost> bytes_{};
};

// The digests of chunks, one behind the other, as a table has them.
class Digests {
 public:
  Digests() = default;
  // Of so many chunks, none known yet.
  Digests(const Algorithm& algorithm, std::size_t count);
  // Throws std::invalid_argument if that is no whole number of digests.
  Digests(const Algorithm& algorithm, std::vector<std::byte> stored);

  [[nodiscard]] std::size_t size() const { return bytes_.size() / algorithm_->digest_bytes; }
  [[nodiscard]] bool empty() const { return bytes_.empty(); }
  [[nodiscard]] const Algorithm& algorithm() const { return *algorithm_; }
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

  [[nodiscard]] Digest at(std::size_t chunk) const;
  // Threads may put different ones at once.
  void put(std::size_t chunk, const Digest& digest);

  bool operator==(const Digests& other) const = default;

 private:
  [[nodiscard]] std::size_t place_of(std::size_t chunk) const;

  const Algorithm* algorithm_ = &default_algorithm();
  std::vector<std::byte> bytes_;
};

// Of each chunk of `data`; the last one may be short.
[[nodiscard]] Digests digests_of(const Algorithm& algorithm, std::span<const std::byte> data,
                                 std::uint64_t chunk_bytes);

// XXH3-64 with seed 0, by the fastest code that this processor has.
[[nodiscard]] std::uint64_t xxh3_64(std::span<const std::byte> data);

// The variant of it in use, for reports: "avx2" or "portable".
[[nodiscard]] const char* checksum_variant();

}  // namespace fastio
