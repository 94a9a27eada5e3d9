// A windowed job without threads: whoever waits for a region does the work, step by step, and the
// room that it needs comes from regions that he lets go between two calls.
#include <chrono>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "loader.h"
#include "loader_lane.h"

namespace fastio {
namespace {

using Clock = std::chrono::steady_clock;

// How long a job that is given up waits for reads that are out.
constexpr std::chrono::milliseconds kEndPatience{250};

}  // namespace

void leave_behind(std::unique_ptr<Lane> lane) {
  static std::mutex mutex;
  static auto* const left = new std::vector<std::unique_ptr<Lane>>();
  const std::lock_guard lock(mutex);
  left->push_back(std::move(lane));
}

void LoadJob::keep_lane(std::unique_ptr<Lane> lane) {
  const std::lock_guard lock(alone_mutex_);
  alone_ = std::move(lane);
  works_alone_.store(true, std::memory_order_release);
}

// True while there is something left to do.
bool LoadJob::step_alone() {
  bool more = false;
  try {
    more = alone_->step();
  } catch (const std::bad_alloc& error) {
    fail_without_memory(error);
  }
  if (more) return true;
  record(alone_->times());
  works_alone_.store(false, std::memory_order_release);
  auto lane = std::move(alone_);
  if (lane->lost() != 0) {
    lane->keep_lost();
    succeed_alone(*lane);
    leave_behind(std::move(lane));
  }
  lane.reset();  // waits for reads that are still out
  lane_finished();
  return alone_ != nullptr;
}

void LoadJob::succeed_alone(const Lane& lane) {
  alone_ = successor_of(lane);
  if (!alone_) return;
  lane_joins();
  works_alone_.store(true, std::memory_order_release);
}

// Works until the region is there, nothing is left to do, or the time is over. A read may take
// longer.
void LoadJob::work_alone(std::size_t shard, std::size_t region,
                         std::chrono::steady_clock::time_point until) {
  const std::unique_lock turn(alone_mutex_, std::try_to_lock);
  if (!turn || !alone_) return;  // another thread does the work
  while (Clock::now() < until && !is_settled(shard, region) && step_alone()) {
  }
}

// After stop().
void LoadJob::end_alone() {
  if (!works_alone_.load(std::memory_order_acquire)) return;
  const std::lock_guard turn(alone_mutex_);
  const auto until = Clock::now() + kEndPatience;
  while (alone_ && step_alone()) {
    if (Clock::now() < until) continue;
    leave_behind(std::move(alone_));
  }
}

bool LoadJob::is_settled(std::size_t shard, std::size_t region) const {
  const std::lock_guard lock(mutex_);
  const RegionState& state = states_.at(shard).at(region);
  return state.blocks_left == 0 || state.let_go || stopping();
}

}  // namespace fastio
