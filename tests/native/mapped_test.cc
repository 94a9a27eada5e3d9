#include "mapped.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "loading.h"
#include "sample_file.h"

namespace fastio {
namespace {

using testing::Place;
using testing::SampleFile;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

ShardRequest halves(const SampleFile& sample, bool verified) {
  ShardRequest request{{File::open(sample.path())}, {{0, kMiB}, {kMiB, 2 * kMiB}}, {}};
  if (verified) request.table = sample.table(0, 65536);
  return request;
}

TEST_CASE("a chunk is verified once, when it is come to") {
  const SampleFile sample(Place::disk, 2 * kMiB);
  sample.warm();
  const auto file = MappedFile::open(halves(sample, true), LoadOptions{});
  REQUIRE(file != nullptr);
  CHECK_FALSE(file->verified({0, 1}));
  CHECK_FALSE(file->verify({65535, 65537}).has_value());
  CHECK(file->verified({0, 131072}));
  CHECK_FALSE(file->verified({0, 131073}));
  CHECK(file->chunks_verified() == 2);
  CHECK_FALSE(file->verify({0, 2 * kMiB}).has_value());
  CHECK(file->chunks_verified() == 32);
  const auto bytes = file->bytes({100, 200});
  CHECK(std::memcmp(bytes.data(), sample.bytes().data() + 100, 100) == 0);
}

TEST_CASE("a damaged chunk is told each time, and its neighbours are sound") {
  const SampleFile sample(Place::disk, 2 * kMiB);
  sample.overwrite(kMiB + 5, ~sample.bytes()[kMiB + 5]);
  sample.warm();
  const auto file = MappedFile::open(halves(sample, true), LoadOptions{});
  REQUIRE(file != nullptr);
  for (int i = 0; i < 2; ++i) {
    const auto damage = file->verify({kMiB - 10, kMiB + 10});
    REQUIRE(damage.has_value());
    CHECK(damage->chunk == 16);
    CHECK(damage->extent == Extent{kMiB, kMiB + 65536});
  }
  CHECK_FALSE(file->verify({0, kMiB}).has_value());
}

TEST_CASE("a part by strides is copied in its order, and verifies what it lies in") {
  const SampleFile sample(Place::disk, 2 * kMiB);
  sample.warm();
  // Rows of 64 KiB, of 4-byte values.
  constexpr std::uint64_t kRow = 65536;
  constexpr std::int64_t kStride = 65536;
  struct Case {
    StridedPart part;
    std::uint64_t chunks = 0;
  };
  const Case cases[] = {
      {{8, {8, 12}, 4, {}}, 1},
      {{0, {0, 28 * kRow + 4}, 4, {{5, 7 * kStride}}}, 5},  // far apart: no chunk between
      {{30 * kRow, {2 * kRow, 30 * kRow + 12}, 4, {{8, -4 * kStride}, {3, 4}}}, 8},
      {{kRow + 8, {kRow, 2 * kRow + 12}, 4, {{2, kStride}, {3, -4}}}, 2},
      {{0, {0, 31 * kRow + 4}, 4, {{32, kStride}}}, 32},
  };
  for (const Case& tried : cases) {
    const StridedPart& part = tried.part;
    const auto file = MappedFile::open(halves(sample, true), LoadOptions{});
    REQUIRE(file != nullptr);
    std::vector<std::byte> expected;
    const auto add = [&](auto&& self, std::uint64_t at, std::size_t axis) -> void {
      if (axis == part.axes.size()) {
        const std::byte* bytes = sample.bytes().data() + at;
        expected.insert(expected.end(), bytes, bytes + part.item_bytes);
        return;
      }
      const auto& [length, stride] = part.axes[axis];
      for (std::uint64_t i = 0; i < length; ++i) {
        self(self, at + static_cast<std::uint64_t>(static_cast<std::int64_t>(i) * stride),
             axis + 1);
      }
    };
    add(add, part.first, 0);
    std::vector<std::byte> found(expected.size());
    CHECK_FALSE(file->take(part, found).has_value());
    CHECK(found == expected);
    CHECK(file->chunks_verified() == tried.chunks);
  }
}

TEST_CASE("a part with a damaged chunk says which") {
  const SampleFile sample(Place::disk, 2 * kMiB);
  sample.overwrite(kMiB + 5, ~sample.bytes()[kMiB + 5]);
  sample.warm();
  const auto file = MappedFile::open(halves(sample, true), LoadOptions{});
  REQUIRE(file != nullptr);
  std::vector<std::byte> out(32);
  const auto damage = file->take({0, {0, 31 * 65536 + 1}, 1, {{32, 65536}}}, out);
  REQUIRE(damage.has_value());
  CHECK(damage->chunk == 16);
}

TEST_CASE("two mappings of one extent are not each other's") {
  const SampleFile sample(Place::disk, 2 * kMiB);
  sample.warm();
  const auto file = MappedFile::open(halves(sample, false), LoadOptions{});
  REQUIRE(file != nullptr);
  const auto one = file->map({5000, 90000});
  const auto other = file->map({5000, 90000});
  std::memset(one->at(5000), 0, 85000);
  CHECK(std::memcmp(other->at(5000), sample.bytes().data() + 5000, 85000) == 0);
  CHECK(std::memcmp(file->bytes({5000, 90000}).data(), sample.bytes().data() + 5000, 85000) == 0);
}

TEST_CASE("a mapped file is refused where a load would not map") {
  const SampleFile sample(Place::disk, 2 * kMiB);
  sample.warm();
  LoadOptions options;
  options.mapping = MappingMode::never;
  CHECK(MappedFile::open(halves(sample, false), options) == nullptr);
  if (sample.evict()) CHECK(MappedFile::open(halves(sample, false), LoadOptions{}) == nullptr);
}

TEST_CASE("a file that shrank is an error, and no signal") {
  const SampleFile sample(Place::disk, 2 * kMiB);
  sample.warm();
  const auto file = MappedFile::open(halves(sample, true), LoadOptions{});
  REQUIRE(file != nullptr);
  sample.truncate(kMiB);
  try {
    static_cast<void>(file->verify({kMiB + 65536, 2 * kMiB}));
    FAIL("the end was not seen");
  } catch (const IoError& error) {
    CHECK(error.failure().error == ENODATA);
    CHECK(error.failure().offset == kMiB);
  }
}

}  // namespace
}  // namespace fastio
