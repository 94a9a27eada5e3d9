#include "mapped.h"

#include <algorithm>
#include <utility>

#include "checksum.h"

namespace fastio {
namespace {

// Whoever wants more bytes at once gets pages of his own: those that were verified are let go of
// then, or both would count as memory of this process.
constexpr std::uint64_t kKeptBytes = std::uint64_t{16} << 20;

}  // namespace

std::shared_ptr<MappedFile> MappedFile::open(ShardRequest shard, const LoadOptions& options,
                                             std::shared_ptr<ActiveTime> active_time) {
  // What is not local is never mapped, and asking for its state may take forever.
  if (shard.extents.empty() || shard.copies.size() != 1 || !shard.copies.front()->mount().local ||
      choose_source(shard, 0, options).source != Source::mapped) {
    return nullptr;
  }
  std::shared_ptr<Region> everything;
  try {
    everything = Region::map(*shard.copies.front());
  } catch (const IoError&) {  // a limit of this process, or a filesystem that maps nothing
    return nullptr;
  }
  return std::shared_ptr<MappedFile>(
      new MappedFile(std::move(shard), std::move(everything), std::move(active_time)));
}

MappedFile::MappedFile(ShardRequest shard, std::shared_ptr<Region> everything,
                       std::shared_ptr<ActiveTime> active_time)
    : shard_(std::move(shard)),
      everything_(std::move(everything)),
      sound_(shard_.table ? shard_.table->digests.size() : 0),
      active_time_(std::move(active_time)) {}

std::uint64_t MappedFile::chunk_of(std::uint64_t offset) const {
  return (offset - shard_.table->grid.start) / shard_.table->grid.chunk_bytes;
}

bool MappedFile::verified(const Extent& extent) const {
  if (!shard_.table || extent.begin == extent.end) return true;
  for (std::uint64_t chunk = chunk_of(extent.begin); chunk <= chunk_of(extent.end - 1); ++chunk) {
    if (!sound_[chunk].load(std::memory_order_acquire)) return false;
  }
  return true;
}

std::optional<DamagedChunk> MappedFile::verify(const Extent& extent) {
  if (!shard_.table || extent.begin == extent.end) return std::nullopt;
  const ChunkGrid& grid = shard_.table->grid;
  for (std::uint64_t chunk = chunk_of(extent.begin); chunk <= chunk_of(extent.end - 1); ++chunk) {
    if (sound_[chunk].load(std::memory_order_acquire)) continue;
    const std::uint64_t begin = grid.start + chunk * grid.chunk_bytes;
    const std::uint64_t end = std::min(begin + grid.chunk_bytes, shard_.nbytes());
    if (auto failure = populate(*shard_.copies.front(), *everything_, begin, end)) {
      throw IoError(std::move(*failure));
    }
    const std::uint64_t found = xxh3_64({everything_->at(begin), end - begin});
    const std::uint64_t expected = shard_.table->digests[chunk];
    if (found != expected) return DamagedChunk{0, 0, chunk, {begin, end}, expected, found};
    if (!sound_[chunk].exchange(true, std::memory_order_release)) ++chunks_verified_;
    if (extent.end - extent.begin > kKeptBytes) let_go({begin, end});
  }
  return std::nullopt;
}

}  // namespace fastio
