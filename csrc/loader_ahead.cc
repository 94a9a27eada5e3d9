#include "loader_ahead.h"

#include <algorithm>

#include "populate.h"

namespace fastio {
namespace {

// Pages of one huge page come together, and those behind a missing one: half of it at least.
constexpr std::uint64_t kTrialBytes = std::uint64_t{1} << 20;
// Enough for a disk that answers within 10 ms, at 3 GB/s.
constexpr std::uint64_t kAheadBytes = std::uint64_t{32} << 20;

File& file_of(const LoadLayout& layout, const ShardBlock& block) {
  return *layout.shards[block.shard].local_file();
}

}  // namespace

void MappingAhead::come_to(const LoadLayout& layout, std::size_t block, const Region& region) {
  const ShardBlock& work = layout.blocks[block];
  if (kernel_.load() == Kernel::untried) try_on(file_of(layout, work), region, work.range.begin);
  if (asks()) ask(layout, block);
}

// No verdict where the file is too short, or where some of it is cached already.
void MappingAhead::try_on(File& file, const Region& region, std::uint64_t begin) {
  const std::uint64_t page = begin / page_bytes() * page_bytes();
  if (file.nbytes() - page < kTrialBytes) return;
  if (file.resident_bytes(page, kTrialBytes).value_or(1) != 0) return;
  if (populate(file, region, page, page + 1)) return;  // told when all of the block is read
  const bool whole = file.resident_bytes(page, kTrialBytes).value_or(0) == kTrialBytes;
  kernel_.store(whole ? Kernel::reads_ahead : Kernel::is_asked);
}

// Each block is asked for once, by the first lane that comes near it.
void MappingAhead::ask(const LoadLayout& layout, std::size_t block) {
  const auto& blocks = layout.blocks;
  const std::uint64_t block_bytes = std::max<std::uint64_t>(blocks[block].range.nbytes(), 1);
  const std::size_t until =
      std::min<std::size_t>(blocks.size(), block + 1 + kAheadBytes / block_bytes);
  std::size_t next = asked_.load();
  while (next < until) {
    if (!asked_.compare_exchange_weak(next, next + 1)) continue;
    const ShardBlock& ahead = blocks[next];
    if (layout.brings_in(ahead.shard))
      file_of(layout, ahead).will_need(ahead.range.begin, ahead.range.end);
    ++next;
  }
}

}  // namespace fastio
