#include "failing_memory.h"

#include <dirent.h>
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <thread>

#include "loading.h"
#include "memory.h"

namespace {

constexpr long kNever = -1;

// How many allocations succeed before one fails.
thread_local long left_here = kNever;
thread_local bool is_main_thread = false;
std::atomic<long> left_elsewhere{kNever};

bool fails_now() {
  if (left_here != kNever && left_here-- == 0) return true;
  if (is_main_thread || left_elsewhere.load() == kNever) return false;
  long left = left_elsewhere.load();
  while (left != kNever && !left_elsewhere.compare_exchange_weak(left, left - 1)) {
  }
  return left == 0;
}

}  // namespace

// NOLINTBEGIN(cppcoreguidelines-no-malloc): operator new is made of it.
void* operator new(std::size_t nbytes) {
  void* memory = fails_now() ? nullptr : std::malloc(nbytes == 0 ? 1 : nbytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
// NOLINTEND(cppcoreguidelines-no-malloc)

namespace fastio::testing {

using Clock = std::chrono::steady_clock;

FailingAllocation::FailingAllocation(long n) { left_here = n; }
FailingAllocation::~FailingAllocation() { left_here = kNever; }
bool FailingAllocation::came() { return left_here == kNever; }

void this_is_the_main_thread() { is_main_thread = true; }
void fail_allocation_elsewhere(long n) { left_elsewhere = n; }
bool allocation_failed_elsewhere() { return left_elsewhere.exchange(kNever) == kNever; }

std::size_t threads_of_this_process() {
  const std::unique_ptr<DIR, int (*)(DIR*)> tasks(opendir("/proc/self/task"), &closedir);
  REQUIRE(tasks != nullptr);
  std::size_t count = 0;
  while (readdir(tasks.get()) != nullptr) ++count;
  return count;
}

bool threads_become(std::size_t count) {
  const auto end = Clock::now() + kPatience;
  while (threads_of_this_process() > count && Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return threads_of_this_process() <= count;
}

// Abandoned memory is freed with the thread that holds it, in either order.
bool nothing_is_abandoned() {
  const auto end = Clock::now() + kPatience;
  while (abandoned_bytes() != 0 && Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return abandoned_bytes() == 0;
}

}  // namespace fastio::testing
