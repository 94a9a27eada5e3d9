// The delivery of a windowed load: its regions, one by one, to whoever takes them.
//
// Members may be called from any thread. A region is waited for, taken and released; until it is
// released it counts against the window, and lanes wait for room meanwhile.
#pragma once

#include <chrono>
#include <memory>
#include <utility>

#include "loader_solo.h"
#include "loader_state.h"
#include "plan.h"

namespace fastio {

class RegionDelivery {
 public:
  RegionDelivery(std::shared_ptr<LoadState> state, SoloLane& solo)
      : state_(std::move(state)), solo_(solo) {}

  // True when the region is whole, or never will be.
  [[nodiscard]] bool wait_for(RegionId region, std::chrono::milliseconds timeout);

  // The region, once; null where it is not whole, or was released.
  [[nodiscard]] std::shared_ptr<Region> take(RegionId region);

  // From now on the region does not count against the window; what was not yet read of it is not
  // read any more, unless it was taken.
  void release(RegionId region);

 private:
  [[nodiscard]] bool is_settled(RegionId region) const FASTIO_REQUIRES(state_->crew.mutex);

  std::shared_ptr<LoadState> state_;
  SoloLane& solo_;
};

}  // namespace fastio
