// What a job does with its blocks: hands them to lanes within the window, verifies them, puts them
// to their places, and keeps the account of what is whole.
#include <algorithm>
#include <cstring>
#include <utility>

#include "checksum.h"
#include "loader.h"

namespace fastio {
namespace {

// Calls visit(index, begin, end) for the part of each extent that lies in a block.
template <typename Visit>
void each_part(const std::vector<Extent>& extents, const PlannedBlock& block, Visit&& visit) {
  auto extent = std::partition_point(extents.begin(), extents.end(),
                                     [&](const Extent& e) { return e.end <= block.begin; });
  for (; extent != extents.end() && extent->begin < block.end; ++extent) {
    const std::uint64_t begin = std::max(extent->begin, block.begin);
    const std::uint64_t end = std::min(extent->end, block.end);
    if (begin < end) visit(static_cast<std::size_t>(extent - extents.begin()), begin, end);
  }
}

}  // namespace

LoadJob::Turn LoadJob::next_block(Assignment& assignment) {
  const std::lock_guard lock(mutex_);
  for (;; ++next_block_) {
    if (stopping() || next_block_ == blocks_.size()) return Turn::over;
    const Block& block = blocks_[next_block_];
    if (block.range.region == kStaged) {
      assignment = {block, nullptr};
      break;
    }
    RegionState& state = states_[block.shard][block.range.region];
    if (state.let_go) continue;
    std::shared_ptr<Region>& region = regions_[block.shard][block.range.region];
    if (options_.window_bytes && !state.counted) {
      const PlannedRegion& planned = plans_[block.shard].regions[block.range.region];
      const std::uint64_t nbytes = planned.end - planned.begin;
      if (window_used_ != 0 && window_used_ + nbytes > *options_.window_bytes) return Turn::later;
      region = make_region(block.shard, block.range.region);
      state.counted = true;
      window_used_ += nbytes;
    }
    if (fills()) ++placing_;  // a read that goes straight there
    assignment = {block, region};
    break;
  }
  ++next_block_;
  return Turn::work;
}

void LoadJob::wait_for_room(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout);
}

bool LoadJob::take_mapped(const Block& block, const Region& region) {
  const auto& [begin, end] = std::pair(block.range.begin, block.range.end);
  if (auto failure = populate(*shards_[block.shard].file, region, begin, end)) {
    fail(block.shard, std::move(*failure));
    return false;
  }
  counters_.bytes_mapped += end - begin;
  return verify(block, region.at(begin));
}

// False where a chunk is damaged, or the job stops before all are compared.
bool LoadJob::verify(const Block& block, const std::byte* data) {
  const ShardRequest& shard = shards_[block.shard];
  const PlannedBlock& range = block.range;
  if (shard.table) {
    const ChunkGrid& grid = shard.table->grid;
    const bool staged = range.region == kStaged;
    const std::uint64_t fresh_from =
        staged ? 0 : plans_[block.shard].regions[range.region].fresh_from;
    std::uint64_t counted = 0;
    for (std::uint64_t begin = range.begin; begin < range.end; begin += grid.chunk_bytes) {
      if (stopping()) return false;
      const std::uint64_t end = std::min(begin + grid.chunk_bytes, range.end);
      const std::uint64_t chunk = (begin - grid.start) / grid.chunk_bytes;
      const std::uint64_t found = xxh3_64({data + (begin - range.begin), end - begin});
      if (begin >= fresh_from) ++counted;
      if (found == shard.table->digests[chunk]) continue;
      const std::lock_guard lock(mutex_);
      damages_.push_back({block.shard, chunk, {begin, end}, shard.table->digests[chunk], found});
      stop();
      return false;
    }
    counters_.chunks_verified += counted;
  }
  counters_.bytes_done += range.end - range.begin;
  return true;
}

// Puts a staged block's bytes to the places of the extents they belong to.
void LoadJob::place(const Block& block, const std::byte* data) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping()) return;
    ++placing_;
  }
  const ShardRequest& shard = shards_[block.shard];
  each_part(shard.extents, block.range,
            [&](std::size_t index, std::uint64_t begin, std::uint64_t end) {
              shard.places[index].put(begin - shard.extents[index].begin,
                                      {data + (begin - block.range.begin), end - begin});
            });
  const std::lock_guard lock(mutex_);
  count_placed(block);
  if (--placing_ == 0) changed_.notify_all();
}

void LoadJob::leave(const Assignment& assignment, bool sound) {
  const Block& block = assignment.block;
  if (block.range.region == kStaged) return;
  if (fills() && !sound && shards_[block.shard].table) {
    // The caller's memory keeps no byte that was not verified.
    std::memset(assignment.region->at(block.range.begin), 0, block.range.end - block.range.begin);
  }
  const std::lock_guard lock(mutex_);
  if (fills()) {
    if (sound) count_placed(block);
    --placing_;
  }
  RegionState& state = states_[block.shard][block.range.region];
  if (sound) --state.blocks_left;
  if (state.blocks_left == 0 || fills()) changed_.notify_all();
}

void LoadJob::count_placed(const Block& block) {
  each_part(shards_[block.shard].extents, block.range,
            [&](std::size_t index, std::uint64_t begin, std::uint64_t end) {
              places_left_[block.shard][index] -= end - begin;
            });
}

// ---- region by region ----

bool LoadJob::wait_for_region(std::size_t shard, std::size_t region,
                              std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  const RegionState& state = states_.at(shard).at(region);
  return changed_.wait_for(lock, timeout,
                           [&] { return state.blocks_left == 0 || state.let_go || stopping(); });
}

std::shared_ptr<Region> LoadJob::take_region(std::size_t shard, std::size_t region) {
  const std::lock_guard lock(mutex_);
  RegionState& state = states_.at(shard).at(region);
  if (state.blocks_left != 0 || state.taken || state.let_go || regions_.empty()) return nullptr;
  state.taken = true;
  if (accesses_[shard].source == Source::mapped) {
    // Mapped once more for its consumer: what he writes is not seen by those who verify the chunks
    // that two regions share.
    const PlannedRegion& planned = plans_[shard].regions[region];
    regions_[shard][region].reset();
    return Region::map(*shards_[shard].file, planned.begin,
                       std::min(planned.end, shards_[shard].file->nbytes()));
  }
  finish_region(shard, region);
  return std::move(regions_[shard][region]);
}

void LoadJob::let_go(std::size_t shard, std::size_t region) {
  const std::lock_guard lock(mutex_);
  RegionState& state = states_.at(shard).at(region);
  if (std::exchange(state.let_go, true)) return;
  if (!regions_.empty()) regions_[shard][region].reset();
  if (!state.counted) return;
  const PlannedRegion& planned = plans_[shard].regions[region];
  window_used_ -= planned.end - planned.begin;
  changed_.notify_all();
}

// ---- when it ends ----

void LoadJob::fail(std::size_t shard, Failure failure) {
  const std::lock_guard lock(mutex_);
  failures_.emplace_back(shard, std::move(failure));
  stop();
}

void LoadJob::stop() {
  stopping_.store(true, std::memory_order_release);
  changed_.notify_all();
}

}  // namespace fastio
