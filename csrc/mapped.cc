#include "mapped.h"

#include <algorithm>
#include <utility>

#include "populate.h"

namespace fastio {
namespace {

// A caller who takes more bytes at once gets pages of its own, or a copy. The pages of this mapping
// are then released: otherwise both would count as memory of the process.
constexpr std::uint64_t kKeptBytes = std::uint64_t{16} << 20;

// Values that are farther apart are verified each on its own: what lies between may be chunks that
// nobody asks for.
constexpr std::uint64_t kGapBytes = std::uint64_t{128} << 10;

std::uint64_t size_of(const Extent& extent) { return extent.end - extent.begin; }

}  // namespace

std::shared_ptr<MappedFile> MappedFile::open(ShardRequest shard, const LoadOptions& options,
                                             std::shared_ptr<ActiveTime> active_time) {
  // Only local files are mapped; asking a server for the state of a file may take forever.
  if (shard.extents.empty() || shard.local_file() == nullptr) return nullptr;
  const ShardAccess access = choose_access(shard, 0, options);
  if (access.mode != ReadMode::mapped) return nullptr;
  // Without a record all is verified, as for whoever asked for none.
  static_cast<void>(open_record(shard, access, options));
  std::shared_ptr<Region> everything;
  try {
    everything = Region::map(*shard.local_file());
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
    if (auto failure = populate(*shard_.local_file(), *everything_, begin, end)) {
      throw IoError(std::move(*failure));
    }
    const auto [is, expected, found] =
        shard_.table->compare(chunk, {everything_->at(begin), end - begin});
    if (is == ComparedChunk::Is::damaged)
      return DamagedChunk{0, 0, chunk, {begin, end}, expected, found};
    if (!sound_[chunk].exchange(true, std::memory_order_release))
      ++(is == ComparedChunk::Is::trusted ? chunks_trusted_ : chunks_verified_);
    if (size_of(extent) > kKeptBytes) release({begin, end});
  }
  return std::nullopt;
}

std::optional<DamagedChunk> MappedFile::take(const StridedPart& part, std::span<std::byte> out) {
  const Placement place(everything_->at(part.first), part.item_bytes, part.axes);
  if (part.axes.empty() || size_of(part.span) <= kGapBytes) {
    if (auto damage = verify(part.span)) return damage;
    place.take(0, out);
    return std::nullopt;
  }
  const auto& [length, stride] = part.axes.front();
  const bool ascends = stride > 0;
  const auto step = static_cast<std::uint64_t>(ascends ? stride : -stride);
  const std::uint64_t inner_span = size_of(part.span) - (length - 1) * step;
  const std::uint64_t inner_bytes = out.size() / length;
  const bool apart = step > inner_span + kGapBytes;
  const std::uint64_t together =
      apart || inner_span > kKeptBytes ? 1 : std::max<std::uint64_t>(kKeptBytes / step, 1);
  Extent passed{};
  for (std::uint64_t done = 0; done < length; done += together) {
    const std::uint64_t count = std::min(together, length - done);
    const std::uint64_t begin = part.span.begin + (ascends ? done : length - done - count) * step;
    const Extent here{begin, begin + (count - 1) * step + inner_span};
    const auto to = out.subspan(done * inner_bytes, count * inner_bytes);
    if (inner_span > kKeptBytes) {
      const std::uint64_t first = ascends ? part.first + done * step : part.first - done * step;
      const StridedPart inner{
          first, here, part.item_bytes, {part.axes.begin() + 1, part.axes.end()}};
      if (auto damage = take(inner, to)) return damage;
      continue;
    }
    if (auto damage = verify(here)) return damage;
    place.take(done * inner_bytes, to);
    passed = done == 0 ? here
                       : Extent{std::min(passed.begin, here.begin), std::max(passed.end, here.end)};
    if (size_of(passed) > kKeptBytes) {
      release(passed);
      passed = ascends ? Extent{here.end, here.end} : Extent{here.begin, here.begin};
    }
  }
  return std::nullopt;
}

}  // namespace fastio
