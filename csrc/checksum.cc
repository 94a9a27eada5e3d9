#include "checksum.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "assertions.h"

namespace fastio {

// One translation unit a variant, each with its own compiler flags.
std::uint64_t xxh3_64_portable(const void* data, std::size_t nbytes);
#ifdef FASTIO_HAVE_AVX2
std::uint64_t xxh3_64_avx2(const void* data, std::size_t nbytes);
#endif
#ifdef FASTIO_TESTING
void xxh3_128_portable(std::span<const std::byte> data, std::byte* out);
#endif

namespace {

struct Variant {
  const char* name;
  std::uint64_t (*hash)(const void*, std::size_t);
};

Variant choose_variant() {
#ifdef FASTIO_HAVE_AVX2
  if (__builtin_cpu_supports("avx2") != 0) return {"avx2", xxh3_64_avx2};
#endif
  return {"portable", xxh3_64_portable};
}

const Variant& variant() {
  static const Variant chosen = choose_variant();
  return chosen;
}

void put_xxh3_64(std::span<const std::byte> data, std::byte* out) {
  std::uint64_t number = xxh3_64(data);
  for (std::size_t i = 0; i < sizeof number; ++i, number >>= 8U) {
    out[i] = static_cast<std::byte>(number);  // little-endian on every machine
  }
}

constexpr std::array kAlgorithms = {
    Algorithm{"xxh3_64", 8, Algorithm::Text::number, put_xxh3_64},
#ifdef FASTIO_TESTING
    // Shows that a second algorithm fits, with digests of another length.
    Algorithm{"xxh3_128", 16, Algorithm::Text::bytes, xxh3_128_portable},
#endif
};

static_assert(std::ranges::all_of(kAlgorithms, [](const Algorithm& algorithm) {
  return algorithm.digest_bytes <= kDigestBytesMost;
}));

}  // namespace

std::span<const Algorithm> algorithms() { return kAlgorithms; }

const Algorithm& default_algorithm() { return kAlgorithms.front(); }

const Algorithm* find_algorithm(std::string_view name) {
  const auto* const found = std::ranges::find(kAlgorithms, name, &Algorithm::name);
  return found == kAlgorithms.end() ? nullptr : found;
}

Digest::Digest(const Algorithm& algorithm, std::span<const std::byte> data)
    : algorithm_(&algorithm) {
  algorithm.digest(data, bytes_.data());
}

Digest Digest::of_table(const Algorithm& algorithm, std::span<const std::byte> stored) {
  if (stored.size() != algorithm.digest_bytes)
    throw std::invalid_argument("a digest has not the length of its algorithm");
  Digest digest;
  digest.algorithm_ = &algorithm;
  std::ranges::copy(stored, digest.bytes_.begin());
  return digest;
}

std::span<const std::byte> Digest::bytes() const {
  return std::span(bytes_).first(algorithm_ == nullptr ? 0 : algorithm_->digest_bytes);
}

std::string Digest::text() const {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : bytes()) {
    const std::array digits{kDigits[std::to_integer<unsigned>(byte) >> 4U],
                            kDigits[std::to_integer<unsigned>(byte) & 0xFU]};
    const bool first = algorithm_->text == Algorithm::Text::number;
    text.insert(first ? text.begin() : text.end(), digits.begin(), digits.end());
  }
  return text;
}

Digests::Digests(const Algorithm& algorithm, std::size_t count)
    : algorithm_(&algorithm), bytes_(count * algorithm.digest_bytes) {}

Digests::Digests(const Algorithm& algorithm, std::vector<std::byte> stored)
    : algorithm_(&algorithm), bytes_(std::move(stored)) {
  if (bytes_.size() % algorithm.digest_bytes != 0)
    throw std::invalid_argument("a table of checksums has no whole number of them");
}

std::size_t Digests::place_of(std::size_t chunk) const {
  FASTIO_ASSERT(chunk < size());
  return chunk * algorithm_->digest_bytes;
}

Digest Digests::at(std::size_t chunk) const {
  return Digest::of_table(*algorithm_, bytes().subspan(place_of(chunk), algorithm_->digest_bytes));
}

void Digests::put(std::size_t chunk, const Digest& digest) {
  FASTIO_ASSERT(digest.bytes().size() == algorithm_->digest_bytes);
  std::memcpy(bytes_.data() + place_of(chunk), digest.bytes().data(), digest.bytes().size());
}

Digests digests_of(const Algorithm& algorithm, std::span<const std::byte> data,
                   std::uint64_t chunk_bytes) {
  Digests digests(algorithm, (data.size() + chunk_bytes - 1) / chunk_bytes);
  for (std::size_t chunk = 0; chunk < digests.size(); ++chunk) {
    const std::size_t begin = chunk * chunk_bytes;
    const std::size_t nbytes = std::min<std::size_t>(chunk_bytes, data.size() - begin);
    digests.put(chunk, {algorithm, data.subspan(begin, nbytes)});
  }
  return digests;
}

std::uint64_t xxh3_64(std::span<const std::byte> data) {
  return variant().hash(data.data(), data.size());
}

const char* checksum_variant() { return variant().name; }

}  // namespace fastio
