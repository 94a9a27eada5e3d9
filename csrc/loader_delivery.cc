#include "loader_delivery.h"

namespace fastio {

bool RegionDelivery::wait_for(RegionId region, std::chrono::milliseconds timeout) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  solo_.work(region, until);
  MutexLock lock(state_->crew.mutex);
  while (!is_settled(region)) {
    if (!state_->crew.changed.wait_until(lock, until)) return is_settled(region);
  }
  return true;
}

std::shared_ptr<Region> RegionDelivery::take(RegionId region) {
  const MutexLock lock(state_->crew.mutex);
  const Window::Stage stage = state_->window.stage(region);
  const bool is_here = stage == Window::Stage::closed || stage == Window::Stage::open;
  if (!is_here || !state_->ledger.is_whole(region) || state_->regions.is_empty()) return nullptr;
  state_->window.take(region);
  return state_->regions.take(region);
}

void RegionDelivery::release(RegionId region) {
  const MutexLock lock(state_->crew.mutex);
  if (state_->window.stage(region) == Window::Stage::released) return;
  const bool made_room = state_->window.release(region);
  state_->regions.release(region);
  const Ledger::BlockRange blocks = state_->ledger.blocks_of(region);
  state_->replicas.dispatch().skip(blocks.first, blocks.last);
  if (made_room) state_->crew.changed.notify_all();
}

bool RegionDelivery::is_settled(RegionId region) const {
  return state_->ledger.is_whole(region) || state_->crew.stopping() ||
         state_->window.stage(region) == Window::Stage::released;
}

}  // namespace fastio
