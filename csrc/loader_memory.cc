// The memory of a job: what its limits allow, and the regions that it makes.
#include <algorithm>
#include <cstdint>
#include <memory>

#include "loader.h"
#include "loader_lane.h"

namespace fastio {

// Throws MemoryLimitExceeded where what is asked cannot be done within the limits; takes fewer
// lanes where that helps.
void LoadJob::check_memory() {
  // A window without a limit is no bound on what a disk that hangs holds.
  const bool counts = options_.memory_limit_bytes || !options_.window_bytes;
  const std::uint64_t held = counts ? parked_bytes() : 0;
  const auto require = [&](std::uint64_t asked, std::uint64_t limit) {
    if (asked > limit || held > limit - asked) throw MemoryLimitExceeded(asked, limit, held);
  };
  if (options_.window_bytes) {
    for (const ShardRequest& shard : shards_) {
      if (shard.table) require(shard.table->grid.chunk_bytes, *options_.window_bytes);
    }
  }
  const auto keep_slots = [&](std::uint64_t block_bytes, std::uint64_t room) {
    const std::uint64_t slots = room / block_bytes;
    options_.lanes = static_cast<unsigned>(std::min<std::uint64_t>(options_.lanes, slots));
    options_.queue_depth = static_cast<unsigned>(
        std::min<std::uint64_t>(options_.queue_depth, slots / options_.lanes));
  };
  if (!options_.devices.empty() && staging_bytes_ != 0) {
    std::uint64_t& pinned = options_.pinned_limit_bytes;
    pinned = std::min(pinned, options_.memory_limit_bytes.value_or(pinned));
    if (staging_bytes_ > pinned) throw MemoryLimitExceeded(staging_bytes_, pinned, 0);
    keep_slots(staging_bytes_, pinned);
  }
  if (!options_.memory_limit_bytes || options_.window_bytes) return;
  const std::uint64_t limit = *options_.memory_limit_bytes;
  if (fills() || options_.surveys) {
    std::uint64_t block_bytes = 0;  // of all blocks: those that go straight there count as well
    for (const Block& block : blocks_) {
      block_bytes = std::max(block_bytes, staging_bytes(block.range.end - block.range.begin));
    }
    if (block_bytes == 0) return;
    require(block_bytes, limit);
    keep_slots(block_bytes, limit - held);
    return;
  }
  std::uint64_t& asked = asked_bytes_;
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    if (access(i).mode != ReadMode::mapped) {
      asked += plans_[i].block_bytes_total;
      continue;
    }
    for (const Extent& extent : shards_[i].extents) asked += extent.end - extent.begin;
  }
  require(asked, limit);
}

void LoadJob::make_regions() {
  regions_.resize(shards_.size());
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    regions_[i].resize(plans_[i].regions.size());
    if (options_.window_bytes) continue;
    for (std::size_t r = 0; r < regions_[i].size(); ++r) regions_[i][r] = make_region(i, r);
  }
  if (!options_.window_bytes) mappings_.clear();
}

std::shared_ptr<Region> LoadJob::make_region(std::size_t shard, std::size_t region) const {
  const PlannedRegion& planned = plans_[shard].regions[region];
  const std::uint64_t nbytes = planned.end - planned.begin;
  if (!shards_[shard].places.empty()) {
    const std::size_t extent = planned.first_extent;
    std::byte* place = shards_[shard].places[extent].contiguous();
    return Region::borrow(place + (planned.begin - shards_[shard].extents[extent].begin),
                          planned.begin, nbytes);
  }
  if (access(shard).mode == ReadMode::mapped) return mappings_[shard];
  auto made = Region::allocate(planned.begin, nbytes, options_.huge_pages);
  made->keep_from_children(true);  // until it is finished
  return made;
}

// Chunks hold bytes that nobody asked for: their pages go back.
void LoadJob::finish_region(std::size_t shard, std::size_t region) const {
  const Region& finished = *regions_[shard][region];
  if (finished.mapped()) return;
  finished.keep_from_children(false);
  const PlannedRegion& planned = plans_[shard].regions[region];
  std::uint64_t kept_until = planned.begin;
  for (std::size_t e = planned.first_extent; e < planned.last_extent; ++e) {
    const Extent& extent = shards_[shard].extents[e];
    if (extent.begin == extent.end) continue;
    if (extent.begin > kept_until) finished.give_back(kept_until, extent.begin);
    kept_until = extent.end;
  }
  if (planned.end > kept_until) finished.give_back(kept_until, planned.end);
}

}  // namespace fastio
