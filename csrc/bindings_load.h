// What load() gives back to Python: the finished job and its memory.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "loader.h"

namespace fastio {

class Loaded {
 public:
  explicit Loaded(std::shared_ptr<LoadJob> job)
      : job_(std::move(job)), regions_(job_->take_regions()) {}

  [[nodiscard]] const LoadJob& job() const { return *job_; }

  // The region of every extent of one shard, in order; null for an extent of no bytes.
  [[nodiscard]] std::vector<std::shared_ptr<Region>> regions_of_extents(std::size_t shard) const;

  // From now on a region lives as long as its tensors.
  void release() { regions_.clear(); }

 private:
  std::shared_ptr<LoadJob> job_;
  std::vector<std::vector<std::shared_ptr<Region>>> regions_;
};

}  // namespace fastio
