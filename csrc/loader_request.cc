// How each file is read: by a mapping, through the page cache, or past it.
#include "loader_request.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "populate.h"

namespace fastio {
namespace {

constexpr std::uint64_t kLargestBlockBytes = std::uint64_t{1}
                                             << 30;  // below what one read system call takes
constexpr std::size_t kReplicasMost = 64;            // sets of them are the bits of one number

// Reading a header brings this much of a cold file into the page cache (readahead); it is still
// cold.
constexpr std::uint64_t kHeaderTraceBytes = std::uint64_t{512} << 10;

std::string megabytes(std::uint64_t nbytes) {
  return std::to_string((nbytes + 500'000) / 1'000'000) + " MB";
}

// Second tries need memory that is no mapping, and so do bytes that come from several files.
bool may_map(const ShardRequest& shard, const LoadOptions& options) {
  return options.mapping != MappingMode::never && !options.persistent &&
         shard.local_file() != nullptr;
}

// Whether a file that is not all in the page cache may be brought in and mapped.
bool may_bring_in(const ShardRequest& shard, const LoadOptions& options) {
  return options.mapping_room_bytes && may_map(shard, options);
}

ShardAccess brought_in(const ShardRequest& shard, const LoadOptions& options, std::string state,
                       const std::string& why) {
  const std::uint64_t nbytes = shard.bytes_of_extents();
  std::string refusal;
  if (!can_populate()) {
    refusal = "this kernel does not report what of a mapping it cannot read";
  } else if (options.mapping != MappingMode::always && nbytes > *options.mapping_room_bytes) {
    refusal = "memory has no room to keep the pages of a mapping";
  } else {
    return {ReadMode::mapped, std::move(state), why + ", brought in and mapped", 4096};
  }
  return {ReadMode::buffered, std::move(state), why + ", read through the page cache: " + refusal,
          4096};
}

ShardAccess through_cache(const ShardRequest& shard, const LoadOptions& options, std::string state,
                          const std::string& why) {
  const bool resident = state == "warm";
  if (resident && may_map(shard, options)) {
    return {ReadMode::mapped, std::move(state), why + ", mapped", 4096, resident};
  }
  if (!resident && may_bring_in(shard, options))
    return brought_in(shard, options, std::move(state), why);
  return {ReadMode::buffered, std::move(state), why + ", read through the page cache", 4096,
          resident};
}

ShardAccess past_cache(const ShardRequest& shard, std::size_t replica, ReadMode mode,
                       std::string state, const std::string& why) {
  const DirectAccess direct = direct_for(shard, replica);
  if (!direct.possible) {
    return {ReadMode::buffered, std::move(state),
            why + ", read through the page cache: " + direct.reason, 4096};
  }
  return {mode, std::move(state), why + ", read with O_DIRECT", direct.alignment};
}

void check_shard(const ShardRequest& shard, std::size_t places, std::size_t devices) {
  const auto& replicas = shard.replicas;
  if (replicas.empty() || replicas.size() > kReplicasMost)
    throw std::invalid_argument("a file has 1 to 64 replicas");
  if (!std::ranges::all_of(replicas, &Replica::valid))
    throw std::invalid_argument("a replica is nothing");
  if (!std::ranges::all_of(
          replicas, [&](const auto& replica) { return replica.nbytes() == shard.nbytes(); })) {
    throw std::invalid_argument("the replicas of a file have different sizes");
  }
  if (shard.places.size() != places)
    throw std::invalid_argument("places are given for every extent, or for none");
  if (!shard.devices.empty() && shard.devices.size() != shard.places.size())
    throw std::invalid_argument("devices are given for every place, or for none");
  if (shard.table && !table_fits(*shard.table, shard.nbytes()))
    throw std::invalid_argument("the chunk table does not fit the file");
  for (const int device : shard.devices) {
    if (device < kHost || device >= static_cast<int>(devices))
      throw std::invalid_argument("a place is on a device that the job has not");
  }
}

}  // namespace

bool table_fits(const ChunkTable& table, std::uint64_t file_nbytes) {
  const auto& [start, chunk_bytes] = table.grid;
  if (chunk_bytes == 0 || chunk_bytes > kLargestBlockBytes) return false;
  const std::uint64_t covered = file_nbytes < start ? 0 : file_nbytes - start;
  return table.digests.size() == (covered + chunk_bytes - 1) / chunk_bytes;
}

ComparedChunk ChunkTable::compare(std::uint64_t chunk, std::span<const std::byte> data) const {
  const Digest expected = digests.at(chunk);
  if (trusted && trusted->holds(chunk, expected)) return {ComparedChunk::Is::trusted, {}, {}};
  const Digest found(digests.algorithm(), data);
  if (found != expected) return {ComparedChunk::Is::damaged, expected, found};
  if (trusted) trusted->put(chunk, expected);
  return {ComparedChunk::Is::sound, {}, {}};
}

void check(const std::vector<ShardRequest>& shards, const LoadOptions& options) {
  if (options.queue_depth == 0 || options.queue_depth > 4096)
    throw std::invalid_argument("queue_depth not in 1..4096");
  if (options.lanes == 0 || options.lanes > 1024)
    throw std::invalid_argument("lanes not in 1..1024");
  if (options.lanes_limit && (*options.lanes_limit == 0 || *options.lanes_limit > 1024))
    throw std::invalid_argument("lanes_limit not in 1..1024");
  if (options.block_bytes == 0 || options.block_bytes > kLargestBlockBytes)
    throw std::invalid_argument("block_bytes not in 1..1 GiB");
  if (options.engine == EnginePreference::uring &&
      std::ranges::any_of(shards, &ShardRequest::has_feed))
    throw std::invalid_argument("io_uring reads files, and a replica is a feed");
  const bool fills = !shards.empty() && !shards.front().places.empty();
  for (const ShardRequest& shard : shards) {
    check_shard(shard, fills ? shard.extents.size() : 0, options.devices.size());
  }
}

std::uint64_t ShardRequest::bytes_of_extents() const {
  std::uint64_t nbytes = 0;
  for (const Extent& extent : extents) nbytes += extent.nbytes();
  return nbytes;
}

File* ShardRequest::local_file() const {
  return replicas.size() == 1 && replicas.front().is_local() ? replicas.front().file() : nullptr;
}

bool ShardRequest::has_feed() const {
  return std::ranges::any_of(replicas, [](const Replica& each) { return each.feed() != nullptr; });
}

std::vector<std::uint64_t> disks_of(const ShardRequest& shard) {
  std::vector<std::uint64_t> disks;
  for (const Replica& replica : shard.replicas) disks.push_back(replica.disk());
  return disks;
}

DirectAccess direct_for(const ShardRequest& shard, std::size_t replica) {
  File* const file = shard.replicas[replica].file();
  if (file == nullptr) return {false, 0, "it is no file"};
  DirectAccess direct = file->direct_access();
  if (!direct.possible || !shard.table) return direct;
  const ChunkGrid& grid = shard.table->grid;
  if (grid.start % direct.alignment != 0 || grid.chunk_bytes % direct.alignment != 0) {
    return {false, 0,
            "chunks do not begin at multiples of the " + std::to_string(direct.alignment) +
                " bytes that O_DIRECT needs here"};
  }
  return direct;
}

ShardAccess choose_access(const ShardRequest& shard, std::size_t replica,
                          const LoadOptions& options) {
  if (shard.replicas[replica].feed() != nullptr)
    return {ReadMode::fed, "cold", "it comes from elsewhere than a file"};
  const File& file = *shard.replicas[replica].file();
  const std::uint64_t nbytes = file.nbytes();
  if (file.mount().memory_backed) {
    return through_cache(shard, options, "warm", file.mount().filesystem + " is memory");
  }
  const std::optional<std::uint64_t> resident = file.resident_bytes(0, nbytes);
  const bool warm = resident && *resident == nbytes;
  const bool cold = !resident || *resident <= std::min(kHeaderTraceBytes, nbytes / 2);
  const std::string state = warm ? "warm" : cold ? "cold" : "mixed";
  const std::string why =
      resident ? megabytes(*resident) + " of " + megabytes(nbytes) + " in the page cache"
               : "the kernel does not say what is in the page cache";
  if (options.cache == CacheMode::bypass)
    return past_cache(shard, replica, ReadMode::direct, state, why);
  if (warm || options.cache == CacheMode::keep) return through_cache(shard, options, state, why);
  if (options.keep_cold)
    return through_cache(shard, options, state, why + ", kept for the other ranks of this host");
  if (options.mapping == MappingMode::always && may_bring_in(shard, options))
    return through_cache(shard, options, state, why);
  return past_cache(shard, replica, cold ? ReadMode::direct : ReadMode::by_block, state, why);
}

std::string open_record(ShardRequest& shard, const ShardAccess& access,
                        const LoadOptions& options) {
  const bool cached = access.mode == ReadMode::mapped || access.mode == ReadMode::buffered;
  const File* const file = shard.local_file();
  if (!options.trust_folder || options.surveys || !shard.table || shard.extents.empty() ||
      !cached || file == nullptr)
    return {};
  ChunkTable& table = *shard.table;
  TrustRecord::Opened opened = TrustRecord::open(*options.trust_folder, *file, table.grid.start,
                                                 table.grid.chunk_bytes, table.digests);
  table.trusted = std::move(opened.record);
  return std::move(opened.refusal);
}

}  // namespace fastio
