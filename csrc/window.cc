#include "window.h"

#include "assertions.h"

namespace fastio {

Window::Window(std::optional<std::uint64_t> limit_bytes,
               const std::vector<std::vector<PlannedRegion>>& regions)
    : limit_bytes_(limit_bytes) {
  entries_.reserve(regions.size());
  for (const std::vector<PlannedRegion>& of_shard : regions) {
    std::vector<Entry>& entries = entries_.emplace_back();
    entries.reserve(of_shard.size());
    for (const PlannedRegion& region : of_shard) entries.push_back({region.nbytes()});
  }
}

bool Window::admits(RegionId id) const {
  const std::uint64_t nbytes = at(id).nbytes;
  return open_bytes_ == 0 || !limit_bytes_ ||
         (open_bytes_ <= *limit_bytes_ && nbytes <= *limit_bytes_ - open_bytes_);
}

void Window::open(RegionId id) {
  Entry& entry = at(id);
  FASTIO_ASSERT(entry.stage == Stage::closed && admits(id));
  entry.stage = Stage::open;
  entry.counted = true;
  open_bytes_ += entry.nbytes;
}

void Window::take(RegionId id) {
  Entry& entry = at(id);
  FASTIO_ASSERT(entry.stage == Stage::closed || entry.stage == Stage::open);
  entry.stage = Stage::taken;
}

bool Window::release(RegionId id) {
  Entry& entry = at(id);
  FASTIO_ASSERT(entry.stage != Stage::released);
  entry.stage = Stage::released;
  if (!std::exchange(entry.counted, false)) return false;
  FASTIO_ASSERT(open_bytes_ >= entry.nbytes);
  open_bytes_ -= entry.nbytes;
  return true;
}

}  // namespace fastio
