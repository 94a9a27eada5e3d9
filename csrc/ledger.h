// The placement ledger of a load: blocks to come, regions that are whole, extents at their places.
//
// Pure: no memory is touched here, and no lock is taken. Whoever owns a ledger guards it. The
// extents that it is told of outlive it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "plan.h"

namespace fastio {

// A block is told as sound when its bytes are verified, where there is a table.
enum class Soundness : std::uint8_t { sound, unsound };

class Ledger {
 public:
  // Blocks [first, last) of all those of the load.
  struct BlockRange {
    std::size_t first = 0, last = 0;
  };

  Ledger(const std::vector<std::vector<PlannedRegion>>& regions,
         std::span<const ShardBlock> blocks);

  // The bytes of these extents of a shard go to places that are given.
  void expect_places(std::size_t shard, std::span<const Extent> extents);
  [[nodiscard]] bool has_places() const { return !missing_.empty(); }
  // Whether all bytes of an extent are at their place.
  [[nodiscard]] bool is_placed(std::size_t shard, std::size_t extent) const {
    return missing_.at(shard).at(extent) == 0;
  }

  // Counts the reads that go straight to places, and the lanes that copy to them.
  void begin_placing() { ++placing_; }
  void end_placing();
  [[nodiscard]] bool is_placing() const { return placing_ != 0; }

  // The block is at its places.
  void place(const ShardBlock& block);

  // A block is queued when it is where it belongs, or on its way there, or never will be.
  void queue();
  [[nodiscard]] bool all_queued() const { return unqueued_ == 0; }

  [[nodiscard]] BlockRange blocks_of(RegionId id) const { return at(id).blocks; }
  [[nodiscard]] bool is_whole(RegionId id) const { return at(id).blocks_left == 0; }
  // Another one after each restart.
  [[nodiscard]] unsigned version(RegionId id) const { return at(id).version; }

  // A block of a region has ended. Its region is of the version that the block was taken with.
  void end_block(const ShardBlock& block, Soundness soundness);

  // The memory of a region was lost: all of its blocks are to come again, as another version.
  // Returns the bytes of it that were done.
  std::uint64_t restart(RegionId id);

 private:
  struct Entry {
    BlockRange blocks;
    std::size_t blocks_left = 0;
    std::uint64_t bytes_done = 0;
    unsigned version = 0;
  };

  [[nodiscard]] const Entry& at(RegionId id) const { return entries_.at(id.shard).at(id.region); }
  [[nodiscard]] Entry& at(RegionId id) { return entries_.at(id.shard).at(id.region); }

  std::vector<std::vector<Entry>> entries_;  // by shard
  std::size_t block_count_ = 0;
  std::size_t unqueued_ = 0;
  std::size_t placing_ = 0;
  std::vector<std::span<const Extent>> extents_;     // by shard; of those with places
  std::vector<std::vector<std::uint64_t>> missing_;  // bytes of each extent; none: no places
};

}  // namespace fastio
