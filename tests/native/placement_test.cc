#include "placement.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "sample_file.h"

namespace fastio {
namespace {

using testing::between;
using testing::Random;

struct Layout {
  std::uint64_t item_bytes = 1;
  std::vector<Axis> axes;
  std::int64_t first = 0;  // the position of the element with indices 0 in `memory_bytes`
  std::uint64_t memory_bytes = 0;

  [[nodiscard]] std::uint64_t nbytes() const {
    return std::accumulate(axes.begin(), axes.end(), item_bytes,
                           [](std::uint64_t n, const Axis& axis) { return n * axis.length; });
  }

  // The place of byte `at` of the row-major tensor: the reference for put().
  [[nodiscard]] std::uint64_t place_of(std::uint64_t at) const {
    std::int64_t place = first + static_cast<std::int64_t>(at % item_bytes);
    std::uint64_t element = at / item_bytes;
    for (std::size_t axis = axes.size(); axis-- > 0;) {
      place += static_cast<std::int64_t>(element % axes[axis].length) * axes[axis].stride_bytes;
      element /= axes[axis].length;
    }
    return static_cast<std::uint64_t>(place);
  }
};

// Axes in any order in memory, each stepping over the span of the inner ones, with gaps or without,
// forwards or backwards.
Layout random_layout(Random& random) {
  Layout layout;
  layout.item_bytes = std::uint64_t{1} << between(random, 0, 3);
  layout.axes.resize(between(random, 0, 4));
  std::vector<std::size_t> order(layout.axes.size());
  std::iota(order.rbegin(), order.rend(), 0);
  if (between(random, 0, 1) != 0) std::shuffle(order.begin(), order.end(), random);
  auto span = static_cast<std::int64_t>(layout.item_bytes);
  for (const std::size_t axis : order) {
    Axis& made = layout.axes[axis];
    made.length = between(random, 1, 6);
    made.stride_bytes = span + static_cast<std::int64_t>(between(random, 0, 2) == 0 ? 3 : 0);
    span = made.stride_bytes * static_cast<std::int64_t>(made.length);
    if (between(random, 0, 3) == 0) {
      layout.first += made.stride_bytes * static_cast<std::int64_t>(made.length - 1);
      made.stride_bytes = -made.stride_bytes;
    }
  }
  layout.memory_bytes = static_cast<std::uint64_t>(span) + 16;
  return layout;
}

TEST_CASE(
    "every byte goes to its place, in any layout and in any pieces, and nothing else is written") {
  Random random(testing::random_seed());
  for (int i = 0; i < testing::random_cases(3000); ++i) {
    const Layout layout = random_layout(random);
    const std::uint64_t nbytes = layout.nbytes();
    std::vector<std::byte> source(nbytes);
    for (auto& byte : source) byte = static_cast<std::byte>(between(random, 1, 255));
    std::vector<std::byte> expected(layout.memory_bytes);
    for (std::uint64_t at = 0; at < nbytes; ++at) expected[layout.place_of(at)] = source[at];

    std::vector<std::byte> memory(layout.memory_bytes);
    const Placement placement(memory.data() + layout.first, layout.item_bytes, layout.axes);
    for (std::uint64_t at = 0; at < nbytes;) {
      const std::uint64_t taken = between(random, 1, nbytes - at);
      placement.put(at, std::span(source).subspan(at, taken));
      at += taken;
    }
    REQUIRE(memory == expected);
  }
}

// The same, and axes of stride 0, whose elements are all one: broadcast tensors are only read.
Layout random_layout_to_read(Random& random) {
  Layout layout = random_layout(random);
  for (Axis& axis : layout.axes) {
    if (between(random, 0, 3) != 0) continue;
    if (axis.stride_bytes < 0)
      layout.first += axis.stride_bytes * static_cast<std::int64_t>(axis.length - 1);
    axis.stride_bytes = 0;
    axis.length = between(random, 1, 9);
  }
  return layout;
}

TEST_CASE("every byte is taken from its place, in any layout and in any pieces") {
  Random random(testing::random_seed());
  for (int i = 0; i < testing::random_cases(3000); ++i) {
    const Layout layout = random_layout_to_read(random);
    const std::uint64_t nbytes = layout.nbytes();
    std::vector<std::byte> memory(layout.memory_bytes);
    for (auto& byte : memory) byte = static_cast<std::byte>(between(random, 0, 255));
    const std::vector<std::byte> before = memory;
    std::vector<std::byte> expected(nbytes);
    for (std::uint64_t at = 0; at < nbytes; ++at) expected[at] = memory[layout.place_of(at)];

    const Placement placement(memory.data() + layout.first, layout.item_bytes, layout.axes);
    std::vector<std::byte> found(nbytes);
    for (std::uint64_t at = 0; at < nbytes;) {
      const std::uint64_t taken = between(random, 1, nbytes - at);
      placement.take(at, std::span(found).subspan(at, taken));
      at += taken;
    }
    REQUIRE(found == expected);
    REQUIRE(memory == before);

    const std::uint64_t at = between(random, 0, nbytes - 1);  // a piece with bytes around it
    std::vector<std::byte> piece(between(random, 1, nbytes - at) + 2, std::byte{0x77});
    placement.take(at, std::span(piece).subspan(1, piece.size() - 2));
    REQUIRE(piece.front() == std::byte{0x77});
    REQUIRE(piece.back() == std::byte{0x77});
    REQUIRE(std::equal(piece.begin() + 1, piece.end() - 1,
                       expected.begin() + static_cast<std::ptrdiff_t>(at)));
  }
}

TEST_CASE("scattered bytes are gathered again") {
  Random random(testing::random_seed());
  for (int i = 0; i < testing::random_cases(1000); ++i) {
    const Layout layout = random_layout(random);
    std::vector<std::byte> source(layout.nbytes());
    for (auto& byte : source) byte = static_cast<std::byte>(between(random, 0, 255));
    std::vector<std::byte> memory(layout.memory_bytes);
    const Placement placement(memory.data() + layout.first, layout.item_bytes, layout.axes);
    placement.put(0, source);
    std::vector<std::byte> found(source.size());
    placement.take(0, found);
    REQUIRE(found == source);
  }
}

TEST_CASE("one value, and one value many times") {
  std::vector<std::byte> memory{std::byte{1}, std::byte{2}};
  std::vector<std::byte> found(2);
  Placement(memory.data(), 2, {}).take(0, found);
  CHECK(found == memory);
  Placement(memory.data(), 2, {}).take(1, std::span(found).first(1));
  CHECK(found[0] == std::byte{2});
  found.resize(12);
  Placement(memory.data(), 2, {{2, 0}, {3, 0}}).take(0, found);
  for (std::size_t at = 0; at < found.size(); ++at) CHECK(found[at] == memory[at % 2]);
}

TEST_CASE("nothing is taken from a tensor without elements, and none is put there") {
  std::vector<std::byte> memory(100);
  for (const auto& axes : std::vector<std::vector<Axis>>{
           {{0, 2}}, {{3, 7}, {0, 2}}, {{0, 50}, {5, 3}}, {{2, 50}, {0, 9}, {5, 3}}}) {
    const Placement placement(memory.data(), 2, axes);
    placement.take(0, {});
    placement.put(0, {});
  }
}

TEST_CASE("contiguous places are recognised, and no others") {
  std::vector<std::byte> memory(1000);
  std::byte* data = memory.data();
  CHECK(Placement(data, 4, {}).contiguous() == data);
  CHECK(Placement(data, 2, {{3, 20}, {5, 4}, {2, 2}}).contiguous() == data);
  CHECK(Placement(data, 2, {{3, 20}, {1, 777}, {10, 2}}).contiguous() == data);
  CHECK(Placement(data, 2, {{3, 22}, {10, 2}}).contiguous() == nullptr);
  CHECK(Placement(data, 2, {{10, 2}, {3, 20}}).contiguous() == nullptr);
  CHECK(Placement(data + 100, 2, {{10, -2}}).contiguous() == nullptr);
}

}  // namespace
}  // namespace fastio
