#include "outcome.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <thread>
#include <vector>

namespace fastio {
namespace {

Failure failure_at(const std::string& path, std::uint64_t offset) {
  return {EIO, "read", path, offset, {}};
}

TEST_CASE("the first failure is that of the first file, and of its lowest offset") {
  Outcome outcome({});
  CHECK_FALSE(outcome.has_failed());
  outcome.fail(1, failure_at("second", 0));
  outcome.fail(0, failure_at("first", 20));
  outcome.fail(0, failure_at("first", 10));
  REQUIRE(outcome.failure().has_value());
  CHECK(outcome.failure()->path == "first");
  CHECK(outcome.failure()->offset == 10);
  CHECK(outcome.has_failed());
}

TEST_CASE("the first damaged chunk is that of the first file, and of its lowest number") {
  Outcome outcome({});
  const Digest found(default_algorithm(), {});
  outcome.fail({1, 0, 0, {0, 10}, {}, found});
  outcome.fail({0, 0, 9, {90, 100}, {}, found});
  outcome.fail({0, 1, 3, {30, 40}, {}, found});
  REQUIRE(outcome.damage().has_value());
  CHECK(outcome.damage()->shard == 0);
  CHECK(outcome.damage()->chunk == 3);
  CHECK_FALSE(outcome.failure().has_value());
  CHECK(outcome.has_failed());
}

TEST_CASE("a lack of memory is told of the file that was named ahead, once with all details") {
  Outcome outcome({ENOMEM, "allocate", "model", {}, {}, Failure::Kind::write});
  outcome.make_room_for_lanes(2);
  outcome.fail_without_memory(OutOfMemory(4096));
  outcome.fail_without_memory(std::bad_alloc());
  REQUIRE(outcome.failure().has_value());
  CHECK(outcome.failure()->path == "model");
  CHECK(outcome.failure()->asked_bytes == 4096);
  CHECK(outcome.failure()->kind == Failure::Kind::write);
}

TEST_CASE("a limit that is exceeded is a failure, a cancelled job is none") {
  Outcome outcome({});
  outcome.cancel();
  CHECK(outcome.cancelled());
  CHECK_FALSE(outcome.has_failed());
  outcome.fail(MemoryLimitExceeded(3, 2, 1));
  REQUIRE(outcome.exceeded().has_value());
  CHECK(outcome.exceeded()->asked_bytes == 3);
  CHECK(outcome.has_failed());
}

TEST_CASE("a fallback is told once, in the order in which they came") {
  Outcome outcome({});
  for (const char* what : {"one", "other", "one"}) outcome.note_fallback(what);
  CHECK(outcome.fallbacks() == std::vector<std::string>{"one", "other"});
  CHECK_FALSE(outcome.has_failed());
}

TEST_CASE("failures of several threads are all kept") {
  Outcome outcome({});
  std::vector<std::thread> threads;
  for (std::size_t shard = 4; shard > 0; --shard) {
    threads.emplace_back([&outcome, shard] {
      for (std::uint64_t i = 100; i > 0; --i) outcome.fail(shard, failure_at("file", shard + i));
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(outcome.failure()->offset == 2);
}

}  // namespace
}  // namespace fastio
