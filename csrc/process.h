// State that belongs to one process id. A child made by fork gets a fresh one, and the parent's
// (whose locks may have been held by threads that the child does not have) is left alone, never
// destroyed.
#pragma once

#include <unistd.h>

#include <atomic>

namespace fastio {

template <typename State>
State& process_state() {
  struct Owned {
    pid_t pid = getpid();
    State state;
  };
  static std::atomic<Owned*> current{nullptr};
  Owned* seen = current.load(std::memory_order_acquire);
  while (seen == nullptr || seen->pid != getpid()) {
    // It lives as long as the process: detached lanes may use it until the very end.
    auto* fresh = new Owned;
    if (current.compare_exchange_strong(seen, fresh, std::memory_order_acq_rel))
      return fresh->state;
    delete fresh;
  }
  return seen->state;
}

}  // namespace fastio
