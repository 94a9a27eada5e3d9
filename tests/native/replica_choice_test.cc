#include "replica_choice.h"

#include <doctest/doctest.h>

#include <chrono>
#include <vector>

namespace fastio {
namespace {

using Disks = std::vector<std::vector<std::uint64_t>>;

constexpr std::uint64_t kBlock = 1000;
constexpr ReplicaChoice::Time kStart{};

ReplicaChoice choice_of(const Disks& disks, std::size_t blocks) {
  ReplicaChoice choice(disks, std::vector<Dispatch::Block>(blocks, {0, kBlock}));
  choice.dispatch().open_until(blocks);
  return choice;
}

// Makes a disk count as hung, like a lane that waits for a read of it.
void let_hang(Answers& answers, std::size_t disk) {
  using namespace std::chrono_literals;
  Vigil vigil(answers, 100ms);
  auto now = Vigil::Clock::time_point{} + 1s;
  static_cast<void>(vigil.pass(now));
  for (int turn = 0; turn < 10; ++turn) static_cast<void>(vigil.pass(now += 50ms));
  const std::vector<Vigil::Read> reads{{disk, {}, false}};
  REQUIRE(vigil.look(reads));
}

TEST_CASE("the next replica is the first one that is of use") {
  const ReplicaChoice choice = choice_of({{1, 2, 3}}, 1);
  CHECK(choice.next(0, 0, nullptr) == 0);
  CHECK(choice.next(0, only(0), nullptr) == 1);
  CHECK(choice.next(0, only(0) | only(1), nullptr) == 2);
  CHECK_FALSE(choice.next(0, only(0) | only(1) | only(2), nullptr).has_value());
}

TEST_CASE("a replica of three failed reads is asked last, and no block is picked from it") {
  ReplicaChoice choice = choice_of({{1, 2}}, 8);
  for (int failed = 0; failed < 3; ++failed) {
    CHECK(choice.next(0, 0, nullptr) == 0);
    choice.started(0, 0, kBlock, kStart);
    choice.finished(0, 0, kBlock, ReadEnd::failed, kStart);
  }
  CHECK(choice.next(0, 0, nullptr) == 1);
  CHECK(choice.next(0, only(1), nullptr) == 0);
  for (int block = 0; block < 8; ++block) CHECK(choice.dispatch().pick(kStart)->replica == 1);
}

TEST_CASE("a replica on a disk that hangs is not asked") {
  const Disks disks{{1, 2}};
  Answers answers(disks);
  ReplicaChoice choice = choice_of(disks, 8);
  let_hang(answers, 0);
  CHECK(choice.next(0, 0, &answers) == 1);
  CHECK_FALSE(choice.next(0, only(1), &answers).has_value());
  choice.avoid_hung(answers);
  for (int block = 0; block < 8; ++block) CHECK(choice.dispatch().pick(kStart)->replica == 1);
}

TEST_CASE("a replica that fails is asked after all when the disk of the other one hangs") {
  const Disks disks{{1, 2}};
  Answers answers(disks);
  ReplicaChoice choice = choice_of(disks, 8);
  for (int failed = 0; failed < 3; ++failed) {
    choice.started(0, 1, kBlock, kStart);
    choice.finished(0, 1, kBlock, ReadEnd::failed, kStart);
  }
  let_hang(answers, 0);
  choice.avoid_hung(answers);
  for (int block = 0; block < 8; ++block) CHECK(choice.dispatch().pick(kStart)->replica == 1);
}

}  // namespace
}  // namespace fastio
