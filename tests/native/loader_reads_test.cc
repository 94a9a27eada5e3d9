// Reads of a lane: taken by slots, left while they are out, and taken back when they return.
#include "loader_reads.h"

#include <doctest/doctest.h>

#include <cstring>

#include "loader_slot.h"

namespace fastio {
namespace {

using State = LaneRead::State;

constexpr std::uint64_t kBytes = std::uint64_t{64} << 10;

struct ThreeReads {
  LaneReads reads{3};
  Slot slot, other;
  std::uint64_t before = abandoned_bytes();

  // As if a request was submitted.
  LaneRead& begin(Slot& of) {
    LaneRead& read = reads.take(of);
    read.data = read.staging.make(kBytes, HugePages::automatic);
    read.state = State::out;
    return read;
  }
};

TEST_CASE_FIXTURE(ThreeReads, "each read has a tag of its own, also two of one slot") {
  LaneRead& first = begin(slot);
  LaneRead& second = begin(slot);
  CHECK(first.tag != second.tag);
  CHECK(&reads[first.tag] == &first);
  CHECK(&reads[second.tag] == &second);
  CHECK(first.slot == second.slot);
  CHECK(first.data != second.data);
  CHECK(reads.unused() == 1);
}

TEST_CASE_FIXTURE(ThreeReads,
                  "a read that is left keeps its memory, which counts, until it is back") {
  LaneRead& late = begin(slot);
  std::byte* const data = late.data;
  reads.leave(late);
  CHECK(late.slot == nullptr);
  CHECK(reads.left() == 1);
  CHECK(abandoned_bytes() == before + kBytes);
  reads.free_unused();
  LaneRead& next = begin(slot);
  CHECK(next.data != data);
  std::memset(data, 0x77, kBytes);  // as a late read does
  reads.take_back(late);
  CHECK(reads.left() == 0);
  CHECK(abandoned_bytes() == before);
  CHECK(reads.unused() == 2);
}

TEST_CASE_FIXTURE(ThreeReads, "memory of a read that was not left is used again") {
  LaneRead& read = begin(slot);
  std::byte* const data = read.data;
  read.state = State::held;
  reads.release(read);
  CHECK(&begin(other) == &read);
  CHECK(read.data == data);
  CHECK(read.slot == &other);
}

TEST_CASE_FIXTURE(ThreeReads, "a region stays while a read of it is left") {
  auto region = Region::allocate(0, kBytes, HugePages::off);
  const std::weak_ptr<Region> seen = region;
  LaneRead& read = begin(slot);
  read.region = std::move(region);
  reads.leave(read);
  CHECK_FALSE(seen.expired());
  reads.take_back(read);
  CHECK(seen.expired());
}

}  // namespace
}  // namespace fastio
