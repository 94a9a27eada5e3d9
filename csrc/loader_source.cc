// The source of the bytes of each file: a mapping, the page cache, or the disk.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "loader.h"

namespace fastio {
namespace {

// Reading a header brings this much of a cold file into the page cache (readahead); it is still
// cold.
constexpr std::uint64_t kHeaderTraceBytes = std::uint64_t{512} << 10;

constexpr const char* kMappedReason = "all bytes are in the page cache";

std::string megabytes(std::uint64_t nbytes) {
  return std::to_string((nbytes + 500'000) / 1'000'000) + " MB";
}

// Second tries need memory that is no mapping, and so do bytes that come from several files.
bool may_map(const ShardRequest& shard, const LoadOptions& options) {
  return options.mapping == MappingMode::automatic && !options.persistent &&
         shard.replicas.size() == 1 && shard.replicas.front()->mount().local;
}

ShardAccess through_cache(const ShardRequest& shard, const LoadOptions& options, std::string state,
                          const std::string& why) {
  if (state == "warm" && may_map(shard, options)) {
    return {ReadMode::mapped, std::move(state), why + ", mapped", 4096};
  }
  const bool resident = state == "warm";
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

}  // namespace

DirectAccess direct_for(const ShardRequest& shard, std::size_t replica) {
  DirectAccess direct = shard.replicas[replica]->direct_access();
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
  const File& file = *shard.replicas[replica];
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
  return past_cache(shard, replica, cold ? ReadMode::direct : ReadMode::by_block, state, why);
}

std::optional<Failure> populate(const File& file, const Region& region, std::uint64_t begin,
                                std::uint64_t end) {
#ifdef MADV_POPULATE_READ
  const std::uint64_t page = begin / page_bytes() * page_bytes();
  if (madvise(region.at(page), end - page, MADV_POPULATE_READ) != 0) {
    const int error = last_error();
    if (error == EFAULT || error == EHWPOISON || error == EIO) {
      const std::string detail =
          error == EFAULT ? "the file ends before (it shrank after it was opened)" : "";
      return Failure{error, "read from a mapping", file.path(), begin, detail};
    }
  }
#endif
  return std::nullopt;
}

void LoadJob::choose_sources() {
  mappings_.resize(shards_.size());
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    const ShardRequest& shard = shards_[i];
    LoadOptions options = options_;
    if (!shard.places.empty()) options.mapping = MappingMode::never;  // it would be one more copy
    std::vector<ShardAccess>& accesses = accesses_.emplace_back();
    for (std::size_t replica = 0; replica < shard.replicas.size(); ++replica) {
      if (shard.extents.empty()) {
        accesses.push_back({ReadMode::buffered, "warm", "nothing to read", 4096});
      } else if (answers_ && owes_answer(shard.replicas[replica]->mount().disk)) {
        accesses.push_back({ReadMode::buffered, "cold", "its disk does not answer", 4096});
      } else {
        accesses.push_back(choose_access(shard, replica, options));
      }
    }
    if (accesses.front().mode == ReadMode::mapped) map_shard(i);
  }
}

void LoadJob::map_shard(std::size_t index) {
  try {
    mappings_[index] = Region::map(*shards_[index].replicas.front());
    engine_name_ = "mmap";
    engine_reason_ = kMappedReason;
  } catch (const IoError& error) {  // a limit of this process, or a filesystem that maps nothing
    ShardAccess& access = accesses_[index].front();
    access.mode = ReadMode::buffered;
    access.reason += ", but read through the page cache: " + describe_error(error.failure().error);
    note_fallback(std::string(error.what()) + ", read through the page cache");
  }
}

}  // namespace fastio
