#include "loader_solo.h"

#include <new>
#include <utility>

#include "loader_lane.h"
#include "loader_lanes.h"

namespace fastio {
namespace {

// How long a job that is cancelled waits for reads that are out.
constexpr std::chrono::milliseconds kEndPatience{250};

}  // namespace

SoloLane::SoloLane(std::shared_ptr<LoadState> state) : state_(std::move(state)) {}
SoloLane::~SoloLane() = default;

void SoloLane::keep(std::unique_ptr<Lane> lane) {
  const MutexLock lock(mutex_);
  lane_ = std::move(lane);
  works_.store(true, std::memory_order_release);
}

// True while there is something left to do.
bool SoloLane::step() {
  bool more = false;
  try {
    more = lane_->step();
  } catch (const std::bad_alloc& error) {
    state_->fail_without_memory(error);
  }
  if (more) return true;
  note_times(*state_, lane_->times());
  works_.store(false, std::memory_order_release);
  auto lane = std::move(lane_);
  if (lane->left() != 0) {
    lane->free_unused();
    lane_ = successor_of(state_, *lane);
    if (lane_) {
      lane_->hedge_nothing();
      const MutexLock lock(state_->crew.mutex);
      state_->crew.begin_lane();
      works_.store(true, std::memory_order_release);
    }
    abandon(std::move(lane));
  }
  lane.reset();  // waits for reads that are still out
  end_lane(*state_);
  return lane_ != nullptr;
}

void SoloLane::work(RegionId region, Clock::time_point until) {
  if (!works_.load(std::memory_order_acquire) || !mutex_.try_lock()) return;
  const MutexLock lock(mutex_, std::adopt_lock);
  while (lane_ && Clock::now() < until && !is_settled(region) && step()) {
  }
}

void SoloLane::end() {
  if (!works_.load(std::memory_order_acquire)) return;
  const MutexLock lock(mutex_);
  const auto until = Clock::now() + kEndPatience;
  while (lane_ && step()) {
    if (Clock::now() < until) continue;
    abandon(std::move(lane_));
  }
}

bool SoloLane::is_settled(RegionId region) const {
  const MutexLock lock(state_->crew.mutex);
  return state_->ledger.is_whole(region) || state_->crew.stopping() ||
         state_->window.stage(region) == Window::Stage::released;
}

}  // namespace fastio
