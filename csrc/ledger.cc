#include "ledger.h"

#include <utility>

#include "assertions.h"

namespace fastio {

Ledger::Ledger(const std::vector<std::vector<PlannedRegion>>& regions,
               std::span<const ShardBlock> blocks)
    : block_count_(blocks.size()), unqueued_(blocks.size()) {
  entries_.reserve(regions.size());
  for (const std::vector<PlannedRegion>& of_shard : regions) {
    entries_.emplace_back(of_shard.size());
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const auto& [shard, range] = blocks[i];
    if (range.staged()) continue;
    Entry& entry = at({shard, range.region});
    if (entry.blocks_left++ == 0) entry.blocks.first = i;
    FASTIO_ASSERT(entry.blocks_left == 1 || entry.blocks.last == i);
    entry.blocks.last = i + 1;
  }
}

void Ledger::expect_places(std::size_t shard, std::span<const Extent> extents) {
  extents_.resize(entries_.size());
  missing_.resize(entries_.size());
  extents_[shard] = extents;
  for (const Extent& extent : extents) missing_[shard].push_back(extent.nbytes());
}

void Ledger::end_placing() {
  FASTIO_ASSERT(placing_ != 0);
  --placing_;
}

void Ledger::place(const ShardBlock& block) {
  each_part(extents_[block.shard], block.range.extent(),
            [&](std::size_t index, std::uint64_t begin, std::uint64_t end) {
              std::uint64_t& missing = missing_[block.shard][index];
              FASTIO_ASSERT(missing >= end - begin);
              missing -= end - begin;
            });
}

void Ledger::queue() {
  FASTIO_ASSERT(unqueued_ != 0);
  --unqueued_;
}

void Ledger::end_block(const ShardBlock& block, Soundness soundness) {
  FASTIO_ASSERT(!block.range.staged());
  queue();
  if (has_places()) {
    if (soundness == Soundness::sound) place(block);
    end_placing();
  }
  if (soundness == Soundness::unsound) return;
  Entry& entry = at({block.shard, block.range.region});
  FASTIO_ASSERT(entry.blocks_left != 0);
  --entry.blocks_left;
  entry.bytes_done += block.range.nbytes();
}

std::uint64_t Ledger::restart(RegionId id) {
  FASTIO_ASSERT(!has_places());  // a read into memory of the caller is never abandoned
  Entry& entry = at(id);
  ++entry.version;
  const std::size_t blocks = entry.blocks.last - entry.blocks.first;
  unqueued_ += blocks - std::exchange(entry.blocks_left, blocks);
  FASTIO_ASSERT(unqueued_ <= block_count_);
  return std::exchange(entry.bytes_done, 0);
}

}  // namespace fastio
