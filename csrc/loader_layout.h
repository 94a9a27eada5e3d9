// The layout of a load: how each file is read, its regions, and the blocks of all files in order.
//
// A layout is made once, before any lane runs, and is only read afterwards, by any thread. Its
// functions ask the kernel what is cached and what can be read past the cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loader_request.h"
#include "memory.h"
#include "plan.h"

namespace fastio {

// Where reads land. One that lands in memory of its own can be left while it is out.
enum class Landing : std::uint8_t {
  straight,       // at places of the caller, as far as they can be read to, and in regions
  beside_places,  // never there: regions can be made anew, places cannot
  staged,         // always in staging, two of them for each slot
};

struct LoadLayout {
  std::vector<ShardRequest> shards;
  std::vector<std::vector<ShardAccess>> accesses;  // of each replica of each shard
  std::vector<Plan> plans;                         // of each shard
  std::vector<ShardBlock> blocks;                  // of all shards, in order
  std::uint64_t bytes_total = 0;                   // of all blocks
  std::uint64_t bytes_to_read = 0;                 // of those that are not mapped
  std::uint64_t staging_bytes = 0;                 // of the largest block that is staged
  std::uint64_t largest_block_bytes = 0;           // in units of staging
  std::uint64_t memory_bytes = 0;                  // of regions, and of extents that are mapped
  bool fills = false;                              // bytes go to places that are given
  Landing landing = Landing::straight;

  // Whether a block is read into staging; also one that has a region.
  [[nodiscard]] bool stages(const PlannedBlock& block) const {
    return block.staged() || landing == Landing::staged;
  }
  // Whether a slot may have two reads out.
  [[nodiscard]] bool hedges() const { return landing == Landing::staged; }
  [[nodiscard]] unsigned reads_per_slot() const { return hedges() ? 2 : 1; }
  [[nodiscard]] const ShardAccess& access(std::size_t shard, std::size_t replica = 0) const {
    return accesses[shard][replica];
  }
  [[nodiscard]] bool maps(std::size_t shard) const {
    return access(shard).mode == ReadMode::mapped;
  }
  // Of a mapped file: it was not all in the page cache.
  [[nodiscard]] bool brings_in(std::size_t shard) const {
    return maps(shard) && !access(shard).resident;
  }
  [[nodiscard]] const PlannedRegion& region(RegionId id) const {
    return plans[id.shard].regions[id.region];
  }
  [[nodiscard]] std::vector<std::vector<PlannedRegion>> regions() const;
  [[nodiscard]] std::vector<std::vector<std::uint64_t>> disks() const;
  [[nodiscard]] std::size_t disk_count() const;
};

// How the files are read, and what of that is not as it was meant to be.
struct FileAccesses {
  std::vector<std::vector<ShardAccess>> replicas;  // of each shard
  std::vector<std::shared_ptr<Region>> mappings;   // of each shard; null: not mapped
  std::vector<std::string> fallbacks;
};

// A file that cannot be mapped is read through the page cache. A disk that owes an answer is not
// asked how its files are read, where disks are watched.
[[nodiscard]] FileAccesses access_files(const std::vector<ShardRequest>& shards,
                                        const LoadOptions& options, bool watches_disks);

// Throws std::invalid_argument for extents that no plan can be made of.
[[nodiscard]] LoadLayout lay_out(std::vector<ShardRequest> shards,
                                 std::vector<std::vector<ShardAccess>> accesses,
                                 const LoadOptions& options, Landing landing);

// The options with so many lanes and blocks in flight as the limits allow. `hedge_after` stays
// where the layout hedges, and the limits leave room for that. Throws MemoryLimitExceeded if one
// block does not fit, or the regions do not.
[[nodiscard]] LoadOptions within_limits(LoadOptions options, const LoadLayout& layout);

// The size of a slot's own memory for a block of so many bytes: whole units of direct I/O.
[[nodiscard]] std::uint64_t staging_bytes_for(std::uint64_t block_bytes);

}  // namespace fastio
