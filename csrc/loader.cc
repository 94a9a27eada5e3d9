#include "loader.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>

#include "checksum.h"
#include "loader_lane.h"

namespace fastio {
namespace {

constexpr std::uint64_t kRegionBytes = std::uint64_t{256} << 20;
constexpr std::uint64_t kLargestBlockBytes = std::uint64_t{1}
                                             << 30;  // below what one read system call takes
constexpr std::uint64_t kInlineBytes = std::uint64_t{4} << 20;
// Reading a header brings this much of a cold file into the page cache (readahead); it is still
// cold.
constexpr std::uint64_t kHeaderTraceBytes = std::uint64_t{512} << 10;

constexpr const char* kMappedReason = "all bytes are in the page cache";

std::string megabytes(std::uint64_t nbytes) {
  return std::to_string((nbytes + 500'000) / 1'000'000) + " MB";
}

// Whether O_DIRECT can serve this request: the blocks must begin at multiples of the alignment.
DirectAccess direct_for(const ShardRequest& shard) {
  DirectAccess direct = shard.file->direct_access();
  if (!direct.possible || !shard.table) return direct;
  const ChunkGrid& grid = shard.table->grid;
  if (grid.start % direct.alignment != 0 || grid.chunk_bytes % direct.alignment != 0) {
    return {false, 0,
            "chunks do not begin at multiples of the " + std::to_string(direct.alignment) +
                " bytes that O_DIRECT needs here"};
  }
  return direct;
}

ShardAccess through_cache(const ShardRequest& shard, const LoadOptions& options, std::string state,
                          std::string why) {
  if (options.mapping == MappingMode::automatic && state == "warm" && shard.file->mount().local) {
    return {Source::mapped, std::move(state), why + ", mapped", 4096};
  }
  return {Source::buffered, std::move(state), why + ", read through the page cache", 4096};
}

ShardAccess past_cache(const ShardRequest& shard, Source source, std::string state,
                       const std::string& why) {
  const DirectAccess direct = direct_for(shard);
  if (!direct.possible) {
    return {Source::buffered, std::move(state),
            why + ", read through the page cache: " + direct.reason, 4096};
  }
  return {source, std::move(state), why + ", read with O_DIRECT", direct.alignment};
}

ShardAccess choose_source(const ShardRequest& shard, const LoadOptions& options) {
  const std::uint64_t nbytes = shard.file->nbytes();
  if (shard.file->mount().memory_backed) {
    return through_cache(shard, options, "warm", shard.file->mount().filesystem + " is memory");
  }
  const std::optional<std::uint64_t> resident = shard.file->resident_bytes(0, nbytes);
  const bool warm = resident && *resident == nbytes;
  const bool cold = !resident || *resident <= std::min(kHeaderTraceBytes, nbytes / 2);
  const std::string state = warm ? "warm" : cold ? "cold" : "mixed";
  const std::string why =
      resident ? megabytes(*resident) + " of " + megabytes(nbytes) + " in the page cache"
               : "the kernel does not say what is in the page cache";
  if (options.cache == CacheMode::bypass) return past_cache(shard, Source::direct, state, why);
  if (warm || options.cache == CacheMode::keep) return through_cache(shard, options, state, why);
  if (options.keep_cold)
    return through_cache(shard, options, state, why + ", kept for the other ranks of this host");
  return past_cache(shard, cold ? Source::direct : Source::by_block, state, why);
}

// One digest for each chunk, and chunks that one request can read.
bool table_fits(const ChunkTable& table, const File& file) {
  const auto& [start, chunk_bytes] = table.grid;
  if (chunk_bytes == 0 || chunk_bytes > kLargestBlockBytes) return false;
  const std::uint64_t covered = file.nbytes() < start ? 0 : file.nbytes() - start;
  return table.digests.size() == (covered + chunk_bytes - 1) / chunk_bytes;
}

}  // namespace

LoadJob::LoadJob(std::vector<ShardRequest> shards, const LoadOptions& options)
    : shards_(std::move(shards)), options_(options) {}

std::shared_ptr<LoadJob> LoadJob::start(std::vector<ShardRequest> shards,
                                        const LoadOptions& options) {
  if (options.queue_depth == 0 || options.queue_depth > 4096)
    throw std::invalid_argument("queue_depth not in 1..4096");
  if (options.lanes == 0 || options.lanes > 1024)
    throw std::invalid_argument("lanes not in 1..1024");
  if (options.block_bytes == 0 || options.block_bytes > kLargestBlockBytes) {
    throw std::invalid_argument("block_bytes not in 1..1 GiB");
  }
  for (const ShardRequest& shard : shards) {
    if (shard.table && !table_fits(*shard.table, *shard.file)) {
      throw std::invalid_argument("the chunk table does not fit the file");
    }
  }
  auto job = std::shared_ptr<LoadJob>(new LoadJob(std::move(shards), options));
  job->choose_sources();
  job->make_plans();
  job->check_memory();
  job->make_regions();
  if (job->blocks_.empty() || job->finish_inline()) return job;
  job->start_lanes();
  return job;
}

void LoadJob::choose_sources() {
  mappings_.resize(shards_.size());
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    const ShardRequest& shard = shards_[i];
    accesses_.push_back(shard.extents.empty()
                            ? ShardAccess{Source::buffered, "warm", "nothing to read", 4096}
                            : choose_source(shard, options_));
    ShardAccess& access = accesses_.back();
    if (access.source != Source::mapped) continue;
    try {
      mappings_[i] = Region::map(*shard.file);
      engine_name_ = "mmap";
      engine_reason_ = kMappedReason;
    } catch (const IoError& error) {  // a limit of this process, or a filesystem that maps nothing
      access.source = Source::buffered;
      access.reason +=
          ", but read through the page cache: " + describe_error(error.failure().error);
      note_fallback(std::string(error.what()) + ", read through the page cache");
    }
  }
}

void LoadJob::make_plans() {
  const std::uint64_t limit = options_.memory_limit_bytes.value_or(UINT64_MAX);
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    const ShardRequest& shard = shards_[i];
    const ShardAccess& access = accesses_[i];
    PlanRequest request;
    request.extents = shard.extents;
    request.file_nbytes = shard.file->nbytes();
    if (shard.table) request.grid = shard.table->grid;
    request.alignment = access.alignment;
    request.block_bytes = options_.block_bytes;
    request.region_bytes = std::max<std::uint64_t>(std::min(kRegionBytes, limit / 4), 1);
    request.whole_file_region = access.source == Source::mapped;
    plans_.push_back(make_plan(request));
    for (const PlannedBlock& block : plans_.back().blocks) {
      // A mapping has the bytes already: only what is to be verified is gone through.
      if (access.source == Source::mapped && !shard.table) break;
      blocks_.push_back({i, block});
      bytes_total_ += block.end - block.begin;
      if (access.source != Source::mapped) bytes_to_read_ += block.end - block.begin;
    }
  }
}

void LoadJob::check_memory() const {
  if (!options_.memory_limit_bytes) return;
  std::uint64_t asked = 0;
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    if (accesses_[i].source != Source::mapped) {
      asked += plans_[i].block_bytes_total;
      continue;
    }
    for (const Extent& extent : shards_[i].extents) asked += extent.end - extent.begin;
  }
  const std::uint64_t held = parked_bytes();
  if (asked + held > *options_.memory_limit_bytes) {
    throw MemoryLimitExceeded(asked, *options_.memory_limit_bytes, held);
  }
}

void LoadJob::make_regions() {
  regions_.resize(shards_.size());
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    for (const PlannedRegion& region : plans_[i].regions) {
      if (accesses_[i].source == Source::mapped) {
        regions_[i].push_back(mappings_[i]);
      } else {
        regions_[i].push_back(
            Region::allocate(region.begin, region.end - region.begin, options_.huge_pages));
      }
    }
  }
  mappings_.clear();
}

void LoadJob::protect_from_fork(bool protect) const {
  for (const auto& of_shard : regions_) {
    for (const auto& region : of_shard) {
      if (!region->mapped()) region->keep_from_children(protect);
    }
  }
}

// A small job whose bytes are in memory needs no lanes: it is done here, on the caller's thread.
bool LoadJob::finish_inline() {
  if (bytes_total_ > kInlineBytes) return false;
  for (const Block& block : blocks_) {
    const Region& region = *regions_[block.shard][block.range.region];
    if (region.mapped()) continue;
    if (accesses_[block.shard].source == Source::direct) return false;
    const std::span out(region.at(block.range.begin), block.range.end - block.range.begin);
    if (!shards_[block.shard].file->read_cached(block.range.begin, out)) return false;
  }
  for (const Block& block : blocks_) {
    const Region& region = *regions_[block.shard][block.range.region];
    if (!region.mapped()) counters_.bytes_buffered += block.range.end - block.range.begin;
    if (region.mapped() && !populate(block, region)) break;
    verify(block, region);
  }
  engine_name_ = bytes_to_read_ == 0 ? "mmap" : "inline";
  engine_reason_ = "small and in memory: done on the caller's thread";
  return true;
}

void LoadJob::start_lanes() {
  lane_count_ = std::min<std::size_t>(options_.lanes, blocks_.size());
  EngineSet set;
  if (bytes_to_read_ != 0) {
    set = make_engines(options_.engine, lane_count_, options_.queue_depth);
    engine_name_ = name_of(set.kind);
    engine_reason_ = std::move(set.reason);
    protect_from_fork(true);
  } else {
    set.engines.resize(lane_count_);
  }
  std::vector<std::unique_ptr<Lane>> lanes;
  for (auto& engine : set.engines) {
    lanes.push_back(
        std::make_unique<Lane>(shared_from_this(), std::move(engine), options_.queue_depth));
  }
  std::size_t started = 0;
  for (auto& lane : lanes) {
    {
      const std::lock_guard lock(mutex_);
      ++lanes_running_;
    }
    try {
      std::thread([job = shared_from_this(), mine = std::move(lane)]() mutable {
        try {
          mine->run();
        } catch (const std::bad_alloc&) {
          job->fail(0, Failure{ENOMEM, "allocate", {}, {}, {}});
        }
        mine.reset();  // waits for reads that are still out
        job->lane_finished();
      }).detach();
      ++started;
    } catch (const std::system_error& error) {
      lane_finished();
      if (started == 0) throw IoError(Failure{error.code().value(), "pthread_create", {}, {}, {}});
      break;  // fewer lanes than asked for do the same work
    }
  }
  lane_count_ = started;
}

std::optional<LoadJob::Assignment> LoadJob::next_block() {
  if (stopping()) return std::nullopt;
  const std::size_t index = next_block_.fetch_add(1, std::memory_order_relaxed);
  if (index >= blocks_.size()) return std::nullopt;
  const Block& block = blocks_[index];
  const std::lock_guard lock(mutex_);
  if (stopping()) return std::nullopt;
  return Assignment{block, regions_[block.shard][block.range.region]};
}

// Brings a mapped block's pages in at once, and finds out in a way that can be reported whether
// they are there: touching a page behind the end of a file that shrank would be a SIGBUS.
bool LoadJob::populate(const Block& block, const Region& region) {
#ifdef MADV_POPULATE_READ
  const std::uint64_t begin = block.range.begin / page_bytes() * page_bytes();
  if (madvise(region.at(begin), block.range.end - begin, MADV_POPULATE_READ) != 0) {
    const int error = last_error();
    if (error == EFAULT || error == EHWPOISON || error == EIO) {
      const std::string detail =
          error == EFAULT ? "the file ends before (it shrank after it was opened)" : "";
      fail(block.shard, Failure{error, "read from a mapping", shards_[block.shard].file->path(),
                                block.range.begin, detail});
      return false;
    }
  }
#endif
  counters_.bytes_mapped += block.range.end - block.range.begin;
  return true;
}

void LoadJob::verify(const Block& block, const Region& region) {
  const ShardRequest& shard = shards_[block.shard];
  const PlannedBlock& range = block.range;
  if (shard.table) {
    const ChunkGrid& grid = shard.table->grid;
    const std::uint64_t fresh_from = plans_[block.shard].regions[range.region].fresh_from;
    std::uint64_t counted = 0;
    for (std::uint64_t begin = range.begin; begin < range.end && !stopping();
         begin += grid.chunk_bytes) {
      const std::uint64_t end = std::min(begin + grid.chunk_bytes, range.end);
      const std::uint64_t chunk = (begin - grid.start) / grid.chunk_bytes;
      const std::uint64_t found = xxh3_64({region.at(begin), end - begin});
      if (begin >= fresh_from) ++counted;
      if (found == shard.table->digests[chunk]) continue;
      const std::lock_guard lock(mutex_);
      damages_.push_back({block.shard, chunk, {begin, end}, shard.table->digests[chunk], found});
      stopping_.store(true, std::memory_order_release);
    }
    counters_.chunks_verified += counted;
  }
  counters_.bytes_done += range.end - range.begin;
}

void LoadJob::fail(std::size_t shard, Failure failure) {
  const std::lock_guard lock(mutex_);
  failures_.emplace_back(shard, std::move(failure));
  stopping_.store(true, std::memory_order_release);
}

void LoadJob::note_fallback(const std::string& what) {
  const std::lock_guard lock(mutex_);
  if (std::find(fallbacks_.begin(), fallbacks_.end(), what) == fallbacks_.end())
    fallbacks_.push_back(what);
}

void LoadJob::lane_finished() {
  const std::lock_guard lock(mutex_);
  if (--lanes_running_ == 0) finished_.notify_all();
}

bool LoadJob::wait_for(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return finished_.wait_for(lock, timeout, [this] { return lanes_running_ == 0; });
}

void LoadJob::cancel() {
  stopping_.store(true, std::memory_order_release);
  std::vector<std::weak_ptr<Region>> seen;
  {
    const std::lock_guard lock(mutex_);
    for (auto& of_shard : regions_) {
      for (auto& region : of_shard) seen.push_back(region);
    }
    regions_.clear();  // lanes keep those that they read into
  }
  for (const auto& region : seen) {
    if (const auto held = region.lock()) held->park();
  }
}

std::optional<Failure> LoadJob::failure() const {
  const std::lock_guard lock(mutex_);
  const auto first =
      std::min_element(failures_.begin(), failures_.end(), [](const auto& a, const auto& b) {
        return std::pair(a.first, a.second.offset) < std::pair(b.first, b.second.offset);
      });
  return first == failures_.end() ? std::nullopt : std::optional(first->second);
}

std::optional<DamagedChunk> LoadJob::damage() const {
  const std::lock_guard lock(mutex_);
  const auto first =
      std::min_element(damages_.begin(), damages_.end(), [](const auto& a, const auto& b) {
        return std::pair(a.shard, a.chunk) < std::pair(b.shard, b.chunk);
      });
  return first == damages_.end() ? std::nullopt : std::optional(*first);
}

std::vector<std::vector<std::shared_ptr<Region>>> LoadJob::take_regions() {
  const std::lock_guard lock(mutex_);
  if (bytes_to_read_ != 0) protect_from_fork(false);
  for (std::size_t i = 0; i < regions_.size(); ++i) {
    for (std::size_t r = 0; r < regions_[i].size(); ++r) {
      if (regions_[i][r]->mapped()) continue;
      // Chunks hold bytes that nobody asked for: their pages go back.
      const PlannedRegion& planned = plans_[i].regions[r];
      std::uint64_t kept_until = planned.begin;
      for (std::size_t e = planned.first_extent; e < planned.last_extent; ++e) {
        const Extent& extent = shards_[i].extents[e];
        if (extent.begin == extent.end) continue;
        if (extent.begin > kept_until) regions_[i][r]->give_back(kept_until, extent.begin);
        kept_until = extent.end;
      }
      if (planned.end > kept_until) regions_[i][r]->give_back(kept_until, planned.end);
    }
  }
  return std::exchange(regions_, {});
}

std::vector<std::string> LoadJob::fallbacks() const {
  const std::lock_guard lock(mutex_);
  return fallbacks_;
}

std::string LoadJob::engine() const { return engine_name_; }

}  // namespace fastio
