#include "process.h"

#include <doctest/doctest.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "child_process.h"
#include "engine.h"
#include "engine_faults.h"
#include "file.h"
#include "memory.h"

namespace fastio {
namespace {

using testing::in_forked_child;

struct Counter {
  std::mutex mutex;
  int value = 0;
};

struct OtherCounter {
  int value = 0;
};

struct Raced {
  std::atomic<int> value{0};
};

TEST_CASE("state is made once for all threads, by the first of them") {
  std::vector<std::thread> threads;
  threads.reserve(8);
  std::atomic<bool> go{false};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      while (!go) std::this_thread::yield();
      ++process_state<Raced>().value;
    });
  }
  go = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(process_state<Raced>().value == 8);
}

TEST_CASE("each type has a state of its own") {
  process_state<OtherCounter>().value = 3;
  process_state<Counter>().value = 7;
  CHECK(process_state<OtherCounter>().value == 3);
}

TEST_CASE(
    "a child has a fresh state, even while a thread of the parent holds the lock in its own") {
  auto& state = process_state<Counter>();
  state.value = 5;
  const std::lock_guard lock(state.mutex);
  const int status = in_forked_child([] {
    auto& fresh = process_state<Counter>();
    if (!fresh.mutex.try_lock()) return 1;
    fresh.mutex.unlock();
    if (fresh.value != 0) return 2;
    fresh.value = 9;
    if (process_state<Counter>().value != 9) return 3;
    return in_forked_child([] { return process_state<Counter>().value == 0 ? 0 : 4; });
  });
  CHECK(status == 0);
  CHECK(state.value == 5);
}

TEST_CASE("the abandoned memory, faults and mounts of a process are not its child's") {
  constexpr dev_t kNoDevice = ~dev_t{0};
  const auto region = Region::allocate(0, 4096, HugePages::off);
  region->abandon();
  set_completion_faults({{0, FaultKind::zero, 0}});
  remember_direct_refusal(kNoDevice, "refused");
  REQUIRE(abandoned_bytes() == 4096);
  const int status = in_forked_child([] {
    if (abandoned_bytes() != 0) return 1;
    if (completion_faults_set()) return 2;
    if (!direct_refusal_of(kNoDevice).empty()) return 3;
    return 0;
  });
  CHECK(status == 0);
  CHECK(direct_refusal_of(kNoDevice) == "refused");
  set_completion_faults({});
}

TEST_CASE("a child asks the kernel for itself whether it has io_uring") {
  const bool here = uring_status().available;
  CHECK(in_forked_child([&] { return uring_status().available == here ? 0 : 1; }) == 0);
}

}  // namespace
}  // namespace fastio
