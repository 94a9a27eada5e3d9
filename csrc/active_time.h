// How long at least one of several threads was active: time that overlaps counts once.
//
// Safe for concurrent use by multiple threads. It has no lock, so that a child made by fork can use
// it at once.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace fastio {

class ActiveTime {
 public:
  // Each start is to be followed by a stop, on any thread.
  void start() {
    change([](std::int64_t ticks, std::int64_t running, std::int64_t now) {
      return pack(running == 0 ? ticks - now : ticks, running + 1);
    });
  }

  void stop() {
    change([](std::int64_t ticks, std::int64_t running, std::int64_t now) {
      if (running == 0) return pack(ticks, 0);  // it was started before a fork
      return pack(running == 1 ? ticks + now : ticks, running - 1);
    });
  }

  // In a child made by fork: the threads that started it are not there.
  void stop_all() {
    change([](std::int64_t ticks, std::int64_t running, std::int64_t now) {
      return pack(running == 0 ? ticks : ticks + now, 0);
    });
  }

  // Until now, also while it runs.
  [[nodiscard]] double seconds() const {
    const std::int64_t state = state_.load();
    const std::int64_t ticks = (state >> kRunningBits) + ((state & kRunning) == 0 ? 0 : now());
    return static_cast<double>(ticks) * kTickNs * 1e-9;
  }

 private:
  // One word holds both: how many run, and the time of those that ended, less when the first of
  // those that run began. 52 bits of ticks are a year.
  static constexpr int kRunningBits = 12;
  static constexpr std::int64_t kRunning = (std::int64_t{1} << kRunningBits) - 1;
  static constexpr std::int64_t kTickNs = 16;

  static std::int64_t pack(std::int64_t ticks, std::int64_t running) {
    return ticks * (kRunning + 1) + running;
  }

  [[nodiscard]] std::int64_t now() const {
    const auto since = std::chrono::steady_clock::now() - made_;
    return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count() / kTickNs;
  }

  template <typename Change>
  void change(Change changed) {
    const std::int64_t at = now();
    std::int64_t state = state_.load();
    while (!state_.compare_exchange_weak(state,
                                         changed(state >> kRunningBits, state & kRunning, at))) {
    }
  }

  const std::chrono::steady_clock::time_point made_ = std::chrono::steady_clock::now();
  std::atomic<std::int64_t> state_{0};
};

// Counts as active while it lives, where the time is taken at all.
class Active {
 public:
  explicit Active(ActiveTime* active_time) : active_time_(active_time) {
    if (active_time_ != nullptr) active_time_->start();
  }
  ~Active() {
    if (active_time_ != nullptr) active_time_->stop();
  }
  Active(const Active&) = delete;
  Active& operator=(const Active&) = delete;

 private:
  ActiveTime* active_time_;
};

}  // namespace fastio
