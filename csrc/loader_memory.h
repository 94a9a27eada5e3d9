// The regions of a load: made, handed out, abandoned.
//
// Takes no lock; whoever owns the memory guards it. The layout outlives it. A region itself is
// shared with the lanes that read into it, and with whoever takes it.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "loader_layout.h"
#include "memory.h"
#include "plan.h"

namespace fastio {

class RegionMemory {
 public:
  // `mappings` of each shard that is mapped, else null.
  RegionMemory(const LoadLayout& layout, HugePages huge_pages,
               std::vector<std::shared_ptr<Region>> mappings);

  // Makes all regions, so that no mapping is needed any more. Throws OutOfMemory.
  void make_all();
  // Makes one, in place of an earlier one if there is one. Throws OutOfMemory.
  void make(RegionId id);

  [[nodiscard]] const std::shared_ptr<Region>& at(RegionId id) const {
    return regions_[id.shard][id.region];
  }

  // A whole region, handed over. Throws IoError where a file cannot be mapped once more.
  [[nodiscard]] std::shared_ptr<Region> take(RegionId id);
  // All of them, by shard.
  [[nodiscard]] std::vector<std::vector<std::shared_ptr<Region>>> take_all();

  // Nobody wants the region: its memory goes when no read is in it.
  void release(RegionId id);
  // All of them, and the mappings, for whoever frees them: that takes its time. Lanes keep those
  // that they read into.
  [[nodiscard]] std::vector<std::shared_ptr<Region>> give_up();
  // After take_all or give_up.
  [[nodiscard]] bool is_empty() const { return regions_.empty(); }

 private:
  [[nodiscard]] std::shared_ptr<Region> made(RegionId id) const;
  void finish(RegionId id) const;

  const LoadLayout& layout_;
  HugePages huge_pages_;
  std::vector<std::shared_ptr<Region>> mappings_;
  std::vector<std::vector<std::shared_ptr<Region>>> regions_;  // by shard
};

}  // namespace fastio
