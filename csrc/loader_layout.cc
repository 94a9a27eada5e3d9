#include "loader_layout.h"

#include <algorithm>
#include <set>
#include <utility>

#include "answers.h"
#include "assertions.h"

namespace fastio {
namespace {

constexpr std::uint64_t kRegionBytes = std::uint64_t{256} << 20;
// Four of them fill a usual window, so that one is consumed while others are read.
constexpr std::uint64_t kWindowRegionBytes = std::uint64_t{64} << 20;

// A direct read lands where the address is congruent to the offset; any other one anywhere.
std::vector<char> straight_extents(const ShardRequest& shard,
                                   const std::vector<ShardAccess>& accesses,
                                   std::uint64_t alignment, Landing landing) {
  const bool anywhere = std::ranges::all_of(accesses, [](const ShardAccess& access) {
    return access.mode == ReadMode::buffered || access.mode == ReadMode::fed;
  });
  std::vector<char> straight;
  if (landing != Landing::straight) {
    straight.resize(shard.extents.size());
    return straight;
  }
  for (std::size_t e = 0; e < shard.extents.size(); ++e) {
    const auto address = reinterpret_cast<std::uintptr_t>(shard.places[e].contiguous());
    const bool congruent = anywhere || (address - shard.extents[e].begin) % alignment == 0;
    const bool here = address != 0 && shard.device_of(e) == kHost;
    straight.push_back(static_cast<char>(here && congruent));
  }
  return straight;
}

Plan plan_shard(const ShardRequest& shard, const std::vector<ShardAccess>& accesses,
                const LoadOptions& options, Landing landing) {
  PlanRequest request;
  request.extents = shard.extents;
  request.file_nbytes = shard.nbytes();
  if (shard.table) request.grid = shard.table->grid;
  for (const ShardAccess& access : accesses) {  // powers of two: the largest suits all
    request.alignment = std::max(request.alignment, access.alignment);
  }
  const ShardAccess& first = accesses.front();
  const bool is_copied = first.resident && first.mode == ReadMode::buffered && !options.surveys;
  request.block_bytes =
      is_copied ? std::min(options.block_bytes, kCachedBlockBytes) : options.block_bytes;
  const std::uint64_t limit =
      options.window_bytes.value_or(options.memory_limit_bytes.value_or(UINT64_MAX));
  const std::uint64_t largest = options.window_bytes ? kWindowRegionBytes : kRegionBytes;
  request.region_bytes = std::max<std::uint64_t>(std::min(largest, limit / 4), 1);
  request.whole_file_region = first.mode == ReadMode::mapped && !options.window_bytes;
  if (options.surveys) {
    return make_fill_plan(request, std::vector<char>(shard.extents.size(), 0));
  }
  if (shard.places.empty()) return make_plan(request);
  return make_fill_plan(request, straight_extents(shard, accesses, request.alignment, landing));
}

// Adds the blocks of a shard whose plan is the last one.
void add_blocks(LoadLayout& layout, std::size_t shard) {
  const bool mapped = layout.maps(shard);
  // A mapping of cached pages has the bytes already: only what is to be verified is gone through.
  if (mapped && !layout.brings_in(shard) && !layout.shards[shard].table) return;
  for (const PlannedBlock& block : layout.plans[shard].blocks) {
    const std::uint64_t staged = staging_bytes_for(block.nbytes());
    layout.largest_block_bytes = std::max(layout.largest_block_bytes, staged);
    if (layout.stages(block)) layout.staging_bytes = std::max(layout.staging_bytes, staged);
    layout.blocks.push_back({shard, block});
    layout.bytes_total += block.nbytes();
    if (!mapped) layout.bytes_to_read += block.nbytes();
  }
}

std::uint64_t memory_bytes_of(const LoadLayout& layout, std::size_t shard) {
  if (!layout.maps(shard)) return layout.plans[shard].block_bytes_total;
  return layout.shards[shard].bytes_of_extents();
}

}  // namespace

std::vector<std::vector<PlannedRegion>> LoadLayout::regions() const {
  std::vector<std::vector<PlannedRegion>> regions;
  regions.reserve(plans.size());
  for (const Plan& plan : plans) regions.push_back(plan.regions);
  return regions;
}

std::vector<std::vector<std::uint64_t>> LoadLayout::disks() const {
  std::vector<std::vector<std::uint64_t>> disks;
  disks.reserve(shards.size());
  for (const ShardRequest& shard : shards) disks.push_back(disks_of(shard));
  return disks;
}

std::size_t LoadLayout::disk_count() const {
  std::set<std::uint64_t> known;
  for (const auto& of_shard : disks()) known.insert(of_shard.begin(), of_shard.end());
  return known.size();
}

std::uint64_t staging_bytes_for(std::uint64_t block_bytes) {
  constexpr std::uint64_t kUnit = std::uint64_t{64} << 10;
  return (block_bytes + kUnit - 1) / kUnit * kUnit;
}

FileAccesses access_files(const std::vector<ShardRequest>& shards, const LoadOptions& options,
                          bool watches_disks) {
  FileAccesses files;
  files.mappings.resize(shards.size());
  std::uint64_t wanted_bytes = 0;
  for (const ShardRequest& shard : shards) wanted_bytes += shard.bytes_of_extents();
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const ShardRequest& shard = shards[i];
    LoadOptions allowed = options;
    if (!shard.places.empty()) allowed.mapping = MappingMode::never;  // it would be one more copy
    if (wanted_bytes > options.mapping_room_bytes.value_or(UINT64_MAX))
      allowed.mapping_room_bytes = 0;
    std::vector<ShardAccess>& accesses = files.replicas.emplace_back();
    for (std::size_t replica = 0; replica < shard.replicas.size(); ++replica) {
      if (shard.extents.empty()) {
        accesses.push_back({ReadMode::buffered, "warm", "nothing to read", 4096});
      } else if (watches_disks && owes_answer(shard.replicas[replica].disk())) {
        accesses.push_back({ReadMode::buffered, "cold", "its disk does not answer", 4096});
      } else {
        accesses.push_back(choose_access(shard, replica, allowed));
      }
    }
    ShardAccess& access = accesses.front();
    if (access.mode != ReadMode::mapped) continue;
    try {
      files.mappings[i] = Region::map(*shard.local_file());
      if (!access.resident && options.huge_pages != HugePages::off)
        files.mappings[i]->ask_for_huge_pages();
    } catch (const IoError& error) {  // a limit of this process, or a filesystem that maps nothing
      access.mode = ReadMode::buffered;
      access.reason +=
          ", but read through the page cache: " + describe_error(error.failure().error);
      files.fallbacks.push_back(std::string(error.what()) + ", read through the page cache");
    }
  }
  return files;
}

LoadLayout lay_out(std::vector<ShardRequest> shards, std::vector<std::vector<ShardAccess>> accesses,
                   const LoadOptions& options, Landing landing) {
  FASTIO_ASSERT(shards.size() == accesses.size());
  LoadLayout layout;
  layout.landing = landing;
  layout.shards = std::move(shards);
  layout.accesses = std::move(accesses);
  for (std::size_t i = 0; i < layout.shards.size(); ++i) {
    layout.plans.push_back(plan_shard(layout.shards[i], layout.accesses[i], options, landing));
    add_blocks(layout, i);
    layout.memory_bytes += memory_bytes_of(layout, i);
    layout.fills = layout.fills || !layout.shards[i].places.empty();
  }
  return layout;
}

LoadOptions within_limits(LoadOptions options, const LoadLayout& layout) {
  // A window without a limit is no bound on what a disk that hangs holds.
  const bool counts = options.memory_limit_bytes || !options.window_bytes;
  const std::uint64_t held = counts ? abandoned_bytes() : 0;
  if (!layout.hedges()) options.hedge_after.reset();
  const auto require = [&](std::uint64_t asked, std::uint64_t limit) {
    if (asked > limit || held > limit - asked) throw MemoryLimitExceeded(asked, limit, held);
  };
  if (options.window_bytes) {
    for (const ShardRequest& shard : layout.shards) {
      if (shard.table) require(shard.table->grid.chunk_bytes, *options.window_bytes);
    }
  }
  const auto keep_slots = [&](std::uint64_t block_bytes, std::uint64_t room) {
    const std::uint64_t slots = room / block_bytes / layout.reads_per_slot();
    if (layout.hedges() && slots == 0) return options.hedge_after.reset();
    FASTIO_ASSERT(slots != 0);
    options.lanes = static_cast<unsigned>(std::min<std::uint64_t>(options.lanes, slots));
    options.queue_depth =
        static_cast<unsigned>(std::min<std::uint64_t>(options.queue_depth, slots / options.lanes));
    const std::uint64_t lanes_most = slots / options.queue_depth;
    if (options.lanes_limit && *options.lanes_limit > lanes_most)
      options.lanes_limit = static_cast<unsigned>(lanes_most);
  };
  if (!options.devices.empty() && layout.staging_bytes != 0) {
    std::uint64_t& pinned = options.pinned_limit_bytes;
    pinned = std::min(pinned, options.memory_limit_bytes.value_or(pinned));
    if (layout.staging_bytes > pinned) throw MemoryLimitExceeded(layout.staging_bytes, pinned, 0);
    keep_slots(layout.staging_bytes, pinned);
  }
  if (options.window_bytes && layout.hedges() && layout.staging_bytes != 0) {
    keep_slots(layout.staging_bytes, *options.window_bytes / 4);
    if (!options.hedge_after) return options;
    const std::uint64_t lanes = std::max(options.lanes, options.lanes_limit.value_or(0));
    const std::uint64_t slots = lanes * options.queue_depth;
    *options.window_bytes -= slots * layout.reads_per_slot() * layout.staging_bytes;
  }
  if (!options.memory_limit_bytes || options.window_bytes) return options;
  const std::uint64_t limit = *options.memory_limit_bytes;
  if (!layout.fills && !options.surveys) {
    require(layout.memory_bytes, limit);
    if (layout.staging_bytes != 0)
      keep_slots(layout.staging_bytes, limit - held - layout.memory_bytes);
    return options;
  }
  // Of all blocks: those that go straight to their places count as well.
  if (layout.largest_block_bytes == 0) return options;
  require(layout.largest_block_bytes, limit);
  keep_slots(layout.largest_block_bytes, limit - held);
  return options;
}

}  // namespace fastio
