#include "loader_tries.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <vector>

namespace fastio {
namespace {

using Remedy = Incident::Remedy;

constexpr std::uint64_t kChunk = 100;
const Failure kFailure{EIO, "read", "file", 0, {}};

Tries tries_of(std::uint64_t chunks, std::size_t replica = 0) {
  Tries tries;
  tries.begin(0, {0, chunks * kChunk}, replica);
  return tries;
}

std::vector<DamagedChunk> damaged(const Tries& tries, const std::vector<std::uint64_t>& chunks) {
  std::vector<DamagedChunk> damaged;
  damaged.reserve(chunks.size());
  for (const std::uint64_t chunk : chunks) {
    damaged.push_back({0, tries.now().replica, chunk, {chunk * kChunk, (chunk + 1) * kChunk}});
  }
  return damaged;
}

// Records the damage, and has it read from the same replica, or from the given one.
void read_later(Tries& tries, const std::vector<std::uint64_t>& chunks, std::size_t other) {
  const auto found = damaged(tries, chunks);
  tries.note_damage(found);
  tries.read_later(found, tries.useless_for(found) ? other : tries.now().replica);
}

TEST_CASE("damaged chunks are read again from the same replica, in order, neighbours together") {
  Tries tries = tries_of(8);
  const auto found = damaged(tries, {1, 2, 5});
  CHECK_FALSE(tries.useless_for(found).has_value());
  read_later(tries, {1, 2, 5}, 9);
  tries.next();
  CHECK(tries.now().span == Extent{kChunk, 3 * kChunk});
  CHECK(tries.now().again);
  CHECK(tries.now().replica == 0);
  tries.next();
  CHECK(tries.now().span == Extent{5 * kChunk, 6 * kChunk});
  CHECK_FALSE(tries.has_later());
}

TEST_CASE("chunks that are damaged twice are read from another replica") {
  Tries tries = tries_of(2);
  read_later(tries, {0}, 9);
  tries.next();
  const auto found = damaged(tries, {0});
  REQUIRE(tries.useless_for(found).has_value());
  CHECK(*tries.useless_for(found) == only(0));
  read_later(tries, {0}, 1);
  tries.next();
  CHECK(tries.now().replica == 1);
  CHECK_FALSE(tries.now().again);
  CHECK(tries.now().useless() == only(0));
}

TEST_CASE(
    "an incident is remedied if no later try concerns its bytes, by the replica that was read") {
  Tries tries = tries_of(4);
  read_later(tries, {0, 3}, 9);
  CHECK(tries.take_remedied().empty());
  tries.next();
  const auto first = tries.take_remedied();
  REQUIRE(first.size() == 1);
  CHECK(first[0].extent == Extent{0, kChunk});
  CHECK(first[0].remedy == Remedy::read_again);
  tries.next();
  read_later(tries, {3}, 1);
  tries.next();
  const auto second = tries.take_remedied();
  REQUIRE(second.size() == 2);
  for (const Incident& incident : second) {
    CHECK(incident.remedy == Remedy::other_replica);
    CHECK(incident.remedied_by == 1);
  }
  CHECK_FALSE(tries.has_incidents());
}

TEST_CASE("a failed read is asked of another replica, which may still have parts of it") {
  Tries tries = tries_of(4);
  tries.fail(kFailure, tries.now().replica);
  CHECK(tries.now().useless() == only(0));
  tries.ask(1);
  CHECK(tries.now().span == Extent{0, 4 * kChunk});
  // Some chunks of the other one are damaged: the first one may be able to read those.
  read_later(tries, {2}, 9);
  tries.next();
  CHECK(tries.now().useless() == 0);
}

TEST_CASE("blocks that no replica could read are tried part by part, from the first one on") {
  Tries tries = tries_of(3, 1);
  tries.fail(kFailure, tries.now().replica);
  REQUIRE(tries.split(kChunk, 1));
  CHECK_FALSE(tries.has_incidents());  // parts reveal more than the whole
  for (std::uint64_t chunk = 0; chunk < 3; ++chunk) {
    REQUIRE(tries.has_later());
    tries.next();
    CHECK(tries.now().span == Extent{chunk * kChunk, (chunk + 1) * kChunk});
    CHECK(tries.now().replica == 1);
    CHECK(tries.now().useless() == 0);
  }
  tries.fail(kFailure, tries.now().replica);
  CHECK_FALSE(tries.split(kChunk, 1));
  const auto lost = tries.take_lost(tries.now().span);
  REQUIRE(lost.size() == 1);
  CHECK(lost[0].remedy == Remedy::none);
}

}  // namespace
}  // namespace fastio
