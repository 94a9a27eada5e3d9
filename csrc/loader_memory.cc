#include "loader_memory.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "assertions.h"

namespace fastio {

RegionMemory::RegionMemory(const LoadLayout& layout, HugePages huge_pages,
                           std::vector<std::shared_ptr<Region>> mappings)
    : layout_(layout), huge_pages_(huge_pages), mappings_(std::move(mappings)) {
  regions_.reserve(layout.plans.size());
  for (const Plan& plan : layout.plans) regions_.emplace_back(plan.regions.size());
}

void RegionMemory::make_all() {
  for (std::size_t shard = 0; shard < regions_.size(); ++shard) {
    for (std::size_t r = 0; r < regions_[shard].size(); ++r) make({shard, r});
  }
  mappings_.clear();
}

void RegionMemory::make(RegionId id) { regions_[id.shard][id.region] = made(id); }

std::shared_ptr<Region> RegionMemory::made(RegionId id) const {
  const PlannedRegion& planned = layout_.region(id);
  const ShardRequest& shard = layout_.shards[id.shard];
  if (!shard.places.empty()) {
    const std::size_t extent = planned.first_extent;
    std::byte* place = shard.places[extent].contiguous();
    FASTIO_ASSERT(place != nullptr);
    return Region::borrow(place + (planned.begin - shard.extents[extent].begin), planned.begin,
                          planned.nbytes());
  }
  if (layout_.maps(id.shard)) return mappings_[id.shard];
  auto region = Region::allocate(planned.begin, planned.nbytes(), huge_pages_);
  region->hide_from_children();  // until it is finished
  return region;
}

std::shared_ptr<Region> RegionMemory::take(RegionId id) {
  std::shared_ptr<Region>& region = regions_[id.shard][id.region];
  if (layout_.maps(id.shard)) {
    // Mapped once more for its consumer: what he writes is not seen by those who verify the chunks
    // that two regions share.
    const PlannedRegion& planned = layout_.region(id);
    const ShardRequest& shard = layout_.shards[id.shard];
    region.reset();
    return Region::map(*shard.local_file(), planned.begin, std::min(planned.end, shard.nbytes()));
  }
  finish(id);
  return std::move(region);
}

std::vector<std::vector<std::shared_ptr<Region>>> RegionMemory::take_all() {
  for (std::size_t shard = 0; shard < regions_.size(); ++shard) {
    for (std::size_t r = 0; r < regions_[shard].size(); ++r) finish({shard, r});
  }
  return std::exchange(regions_, {});
}

void RegionMemory::release(RegionId id) {
  if (!regions_.empty()) regions_[id.shard][id.region].reset();
}

std::vector<std::shared_ptr<Region>> RegionMemory::give_up() {
  std::vector<std::shared_ptr<Region>> given_up = std::exchange(mappings_, {});
  for (auto& of_shard : std::exchange(regions_, {})) {
    for (auto& region : of_shard) given_up.push_back(std::move(region));
  }
  return given_up;
}

// Chunks hold bytes that nobody asked for: their pages go back.
void RegionMemory::finish(RegionId id) const {
  const Region& finished = *at(id);
  if (finished.mapped()) return;
  finished.show_to_children();
  const PlannedRegion& planned = layout_.region(id);
  const std::vector<Extent>& extents = layout_.shards[id.shard].extents;
  std::uint64_t kept_until = planned.begin;
  for (std::size_t e = planned.first_extent; e < planned.last_extent; ++e) {
    const Extent& extent = extents[e];
    if (extent.begin == extent.end) continue;
    if (extent.begin > kept_until) finished.give_back(kept_until, extent.begin);
    kept_until = extent.end;
  }
  if (planned.end > kept_until) finished.give_back(kept_until, planned.end);
}

}  // namespace fastio
