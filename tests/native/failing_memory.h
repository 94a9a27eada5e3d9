// An operator new that fails on request, for tests in an executable of their own; and the checks
// that a failed job keeps no memory.
#pragma once

#include <cstddef>

namespace fastio::testing {

// While this lives, the n-th allocation (from 0) of this thread from now on fails. Only that one
// fails; cleaning up finds memory again.
class FailingAllocation {
 public:
  explicit FailingAllocation(long n);
  FailingAllocation(const FailingAllocation&) = delete;
  FailingAllocation& operator=(const FailingAllocation&) = delete;
  ~FailingAllocation();

  [[nodiscard]] static bool came();  // whether there was an n-th one
};

// The same for all threads but the main one, which calls this first.
void this_is_the_main_thread();
void fail_allocation_elsewhere(long n);
[[nodiscard]] bool allocation_failed_elsewhere();  // since then; none fails any more

[[nodiscard]] std::size_t threads_of_this_process();
// These wait.
[[nodiscard]] bool threads_become(std::size_t count);
[[nodiscard]] bool nothing_is_abandoned();

}  // namespace fastio::testing
