// An operator new that fails when it is asked to, for tests in an executable of their own; and what
// has to be gone after a job that met it.
#pragma once

#include <cstddef>

namespace fastio::testing {

// Of the allocations from now on, the n-th (from 0) of this thread fails, while this lives. That
// one failure is all; what cleans up after it finds memory again.
class FailingAllocation {
 public:
  explicit FailingAllocation(long n);
  FailingAllocation(const FailingAllocation&) = delete;
  FailingAllocation& operator=(const FailingAllocation&) = delete;
  ~FailingAllocation();

  [[nodiscard]] static bool came();  // whether there was an n-th one
};

// The same of all threads but the main one, which says so first.
void this_is_the_main_thread();
void fail_allocation_elsewhere(long n);
[[nodiscard]] bool allocation_failed_elsewhere();  // since then; none fails any more

[[nodiscard]] std::size_t threads_of_this_process();
// These wait.
[[nodiscard]] bool threads_become(std::size_t count);
[[nodiscard]] bool nothing_is_abandoned();

}  // namespace fastio::testing
