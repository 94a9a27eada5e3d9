// The lanes of one job that are at work, and the mutex and condition that they share with whoever
// waits for them.
//
// The mutex guards the state of the job that its lanes share; the condition is told of each change
// that somebody may wait for. `stopping` may be asked by any thread without the mutex.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>

#include "assertions.h"
#include "mutex.h"

namespace fastio {

class Crew {
 public:
  Crew() = default;
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;
  ~Crew() = default;

  Mutex mutex;
  Condition changed;

  // Whether the lanes shall end soon: the job has failed, or was cancelled.
  [[nodiscard]] bool stopping() const { return stopping_.load(std::memory_order_acquire); }
  void stop() FASTIO_REQUIRES(mutex) {
    stopping_.store(true, std::memory_order_release);
    changed.notify_all();
  }

  // A lane is counted from before it runs until it has ended.
  void begin_lane() FASTIO_REQUIRES(mutex) { ++running_; }
  void end_lane() FASTIO_REQUIRES(mutex) {
    FASTIO_ASSERT(running_ != 0);
    --running_;
    changed.notify_all();
  }
  [[nodiscard]] std::size_t running() const FASTIO_REQUIRES(mutex) { return running_; }
  // True when no lane is at work any more.
  [[nodiscard]] bool wait_until_gone(std::chrono::milliseconds timeout) FASTIO_EXCLUDES(mutex) {
    const auto until = std::chrono::steady_clock::now() + timeout;
    MutexLock lock(mutex);
    while (running_ != 0) {
      if (!changed.wait_until(lock, until)) return running_ == 0;
    }
    return true;
  }

 private:
  std::atomic<bool> stopping_{false};
  std::size_t running_ FASTIO_GUARDED_BY(mutex) = 0;
};

}  // namespace fastio
