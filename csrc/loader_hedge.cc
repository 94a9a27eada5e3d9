#include "loader_hedge.h"

#include <algorithm>
#include <cstring>

#include "assertions.h"

namespace fastio {
namespace {

bool on_several_disks(const ShardRequest& shard) {
  const auto disks = disks_of(shard);
  return std::ranges::any_of(disks, [&](std::uint64_t disk) { return disk != disks.front(); });
}

void copy_rest(const Extent& block, const LaneRead& from, const LaneRead& to) {
  const Extent& span = to.span;
  std::memcpy(to.data_at(block.begin), from.data_at(block.begin), span.begin - block.begin);
  std::memcpy(to.data_at(span.end), from.data_at(span.end), block.end - span.end);
}

}  // namespace

bool can_hedge(const std::vector<ShardRequest>& shards, const LoadOptions& options) {
  return options.hedge_after && options.persistent && !options.surveys &&
         std::ranges::all_of(shards, &ShardRequest::on_roots) &&
         std::ranges::any_of(shards, on_several_disks);
}

void go_on_without(Slot& slot, LaneReads& reads, LaneRead& bad) {
  LaneRead& other = *slot.beside(bad);
  if (&other == slot.hedge) copy_rest(slot.work.block.range.extent(), *slot.read, other);
  slot.read = &other;
  slot.hedge = nullptr;
  slot.tries.follow(other.replica);
  reads.drop(bad);
}

void keep_first(Slot& slot, LaneReads& reads, LaneRead& first) {
  if (slot.hedge != nullptr) go_on_without(slot, reads, *slot.beside(first));
  FASTIO_ASSERT(slot.read == &first);
}

}  // namespace fastio
