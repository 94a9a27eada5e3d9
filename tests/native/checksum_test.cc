#include "checksum.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "sample_file.h"

namespace fastio {

std::uint64_t xxh3_64_portable(const void* data, std::size_t nbytes);
#ifdef FASTIO_HAVE_AVX2
std::uint64_t xxh3_64_avx2(const void* data, std::size_t nbytes);
#endif

namespace {

// The bytes that xxHash's own sanity check hashes (cli/xsum_sanity_check.c, XSUM_fillTestBuffer).
std::vector<std::byte> published_bytes(std::size_t nbytes) {
  std::vector<std::byte> bytes(nbytes);
  std::uint64_t generator = 2654435761U;
  for (std::byte& byte : bytes) {
    byte = static_cast<std::byte>(generator >> 56U);
    generator *= 11400714785074694797ULL;
  }
  return bytes;
}

struct Published {
  std::size_t nbytes;
  std::uint64_t digest;
};

// XSUM_XXH3_testdata of the same file, the rows with seed 0. Each length takes another branch of
// the code.
constexpr std::array kPublished = {
    Published{0, 0x2D06800538D394C2},    Published{1, 0xC44BDFF4074EECDB},
    Published{6, 0x27B56A84CD2D7325},    Published{12, 0xA713DAF0DFBB77E7},
    Published{24, 0xA3FE70BF9D3510EB},   Published{48, 0x397DA259ECBA1F11},
    Published{80, 0xBCDEFBBB2C47C90A},   Published{195, 0xCD94217EE362EC3A},
    Published{403, 0xCDEB804D65C6DEA4},  Published{512, 0x617E49599013CB6B},
    Published{2048, 0xDD59E2C3A5F038E0}, Published{2240, 0x6E73A90539CF2948},
    Published{2367, 0xCB37AEB9E5D361ED},
};

TEST_CASE("digests are those that xxHash publishes") {
  const auto bytes = published_bytes(4096);
  for (const Published& published : kPublished) {
    const auto [nbytes, digest] = published;
    CAPTURE(published.nbytes);
    CHECK(xxh3_64(std::span(bytes).first(nbytes)) == digest);
    CHECK(xxh3_64_portable(bytes.data(), nbytes) == digest);
  }
}

#ifdef FASTIO_HAVE_AVX2
TEST_CASE("both variants agree on every length up to 2048 at every alignment") {
  if (__builtin_cpu_supports("avx2") == 0) {
    MESSAGE("not tested: this processor has no AVX2");
    return;
  }
  constexpr std::size_t kAlignments = 64;
  const auto bytes = published_bytes(2048 + kAlignments);
  std::size_t differences = 0;
  for (std::size_t nbytes = 0; nbytes <= 2048; ++nbytes) {
    // Longer inputs take one branch of the code: every alignment is tried on every 64th length of
    // them.
    const std::size_t step = nbytes <= 1100 || nbytes % 64 == 0 ? 1 : 13;
    for (std::size_t at = 0; at < kAlignments; at += step) {
      if (xxh3_64_portable(bytes.data() + at, nbytes) != xxh3_64_avx2(bytes.data() + at, nbytes)) {
        ++differences;
      }
    }
  }
  CHECK(differences == 0);
}

TEST_CASE("both variants agree around the lengths of chunks") {
  if (__builtin_cpu_supports("avx2") == 0) {
    MESSAGE("not tested: this processor has no AVX2");
    return;
  }
  constexpr std::size_t kChunkBytes = std::size_t{1} << 20;
  const auto bytes = published_bytes(kChunkBytes + 65);
  for (const std::size_t nbytes :
       {kChunkBytes - 1, kChunkBytes, kChunkBytes + 1, kChunkBytes / 2 + 17}) {
    for (const std::size_t at : {std::size_t{0}, std::size_t{1}, std::size_t{63}}) {
      CAPTURE(nbytes);
      CAPTURE(at);
      CHECK(xxh3_64_portable(bytes.data() + at, nbytes) == xxh3_64_avx2(bytes.data() + at, nbytes));
    }
  }
}
#endif

TEST_CASE("one flipped bit, whichever it is, changes the digest") {
  for (const std::size_t nbytes : std::initializer_list<std::size_t>{1, 16, 100, 240, 300, 1500}) {
    auto bytes = published_bytes(nbytes);
    const std::uint64_t before = xxh3_64(bytes);
    std::size_t unnoticed = 0;
    for (std::size_t bit = 0; bit < 8 * nbytes; ++bit) {
      const auto mask = static_cast<std::byte>(1U << (bit % 8));
      bytes[bit / 8] ^= mask;
      if (xxh3_64(bytes) == before) ++unnoticed;
      bytes[bit / 8] ^= mask;
    }
    CAPTURE(nbytes);
    CHECK(unnoticed == 0);
  }
}

TEST_CASE("an algorithm is found by its name") {
  for (const Algorithm& algorithm : algorithms())
    CHECK(find_algorithm(algorithm.name) == &algorithm);
  CHECK(default_algorithm().name == "xxh3_64");
  CHECK(find_algorithm("md5") == nullptr);
  CHECK(find_algorithm("") == nullptr);
}

TEST_CASE("a digest by XXH3-64 lies little-endian and is read as a number") {
  const auto bytes = published_bytes(403);
  const Digest digest(default_algorithm(), bytes);
  CHECK(digest.text() == "cdeb804d65c6dea4");
  CHECK(digest.bytes().front() == std::byte{0xA4});
}

// XSUM_XXH128_testdata of the file named above: seed 0, in the canonical order of its bytes.
TEST_CASE("digests of another algorithm have their own length and text") {
  const Algorithm* const algorithm = find_algorithm("xxh3_128");
  REQUIRE(algorithm != nullptr);
  const auto bytes = published_bytes(403);
  CHECK(Digest(*algorithm, {}).text() == "99aa06d3014798d86001c324468d497f");
  CHECK(Digest(*algorithm, bytes).bytes().size() == 16);
  CHECK(Digest(*algorithm, bytes) != Digest(default_algorithm(), bytes));
  CHECK_THROWS_AS(
      static_cast<void>(Digest::of_table(*algorithm, Digest(default_algorithm(), bytes).bytes())),
      std::invalid_argument);
  CHECK_THROWS_AS(Digests(*algorithm, std::vector<std::byte>(24)), std::invalid_argument);
}

TEST_CASE("each chunk has its digest, and the last one may be short") {
  const auto bytes = published_bytes(2500);
  for (const Algorithm& algorithm : algorithms()) {
    const Digests digests = digests_of(algorithm, bytes, 1000);
    REQUIRE(digests.size() == 3);
    CHECK(digests.bytes().size() == 3 * algorithm.digest_bytes);
    CHECK(digests.at(0) == Digest(algorithm, std::span(bytes).first(1000)));
    CHECK(digests.at(2) == Digest(algorithm, std::span(bytes).last(500)));
    CHECK(digests_of(algorithm, {}, 1000).empty());
  }
}

TEST_CASE("the variant in use has a name") {
  const std::string name = checksum_variant();
  CHECK((name == "avx2" || name == "portable"));
}

}  // namespace
}  // namespace fastio
