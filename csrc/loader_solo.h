// A windowed load without threads. The caller that waits for a region does the work, step by step.
// Regions that it releases between two calls make room.
//
// Members may be called from any thread; one of them works at a time. The mutex of this is taken
// before that of the crew.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>

#include "loader_state.h"
#include "mutex.h"
#include "plan.h"

namespace fastio {

class Lane;

class SoloLane {
 public:
  using Clock = std::chrono::steady_clock;

  explicit SoloLane(std::shared_ptr<LoadState> state);
  SoloLane(const SoloLane&) = delete;
  SoloLane& operator=(const SoloLane&) = delete;
  ~SoloLane();

  // The lane has joined the crew.
  void keep(std::unique_ptr<Lane> lane);

  // Works until the region is there, nothing is left to do, or the time is over. A read may take
  // longer. Does nothing where there is no such lane, or another thread works.
  void work(RegionId region, Clock::time_point until);

  // After the job was stopped: brings the lane to its end, or abandons it.
  void end();

 private:
  [[nodiscard]] bool step() FASTIO_REQUIRES(mutex_);
  [[nodiscard]] bool is_settled(RegionId region) const;

  std::shared_ptr<LoadState> state_;
  std::atomic<bool> works_{false};
  Mutex mutex_;
  std::unique_ptr<Lane> lane_ FASTIO_GUARDED_BY(mutex_);
};

}  // namespace fastio
