#include "loader.h"

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>

#include "loader_lane.h"

namespace fastio {
namespace {

constexpr std::uint64_t kRegionBytes = std::uint64_t{256} << 20;
// Four of them fill a usual window, so that one is consumed while others are read.
constexpr std::uint64_t kWindowRegionBytes = std::uint64_t{64} << 20;
constexpr std::uint64_t kLargestBlockBytes = std::uint64_t{1}
                                             << 30;  // below what one read system call takes
constexpr std::uint64_t kInlineBytes = std::uint64_t{4} << 20;
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
  const bool fills = !shards.empty() && !shards.front().places.empty();
  for (const ShardRequest& shard : shards) {
    if (shard.places.size() != (fills ? shard.extents.size() : 0)) {
      throw std::invalid_argument("places are given for every extent, or for none");
    }
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

Plan LoadJob::plan_shard(std::size_t index) const {
  const ShardRequest& shard = shards_[index];
  const ShardAccess& access = accesses_[index];
  PlanRequest request;
  request.extents = shard.extents;
  request.file_nbytes = shard.file->nbytes();
  if (shard.table) request.grid = shard.table->grid;
  request.alignment = access.alignment;
  request.block_bytes = options_.block_bytes;
  const std::uint64_t limit =
      options_.window_bytes.value_or(options_.memory_limit_bytes.value_or(UINT64_MAX));
  const std::uint64_t largest = options_.window_bytes ? kWindowRegionBytes : kRegionBytes;
  request.region_bytes = std::max<std::uint64_t>(std::min(largest, limit / 4), 1);
  request.whole_file_region = access.source == Source::mapped && !options_.window_bytes;
  if (shard.places.empty()) return make_plan(request);
  // A direct read lands where the address is congruent to the offset; one through the page cache
  // anywhere.
  std::vector<char> straight;
  for (std::size_t e = 0; e < shard.extents.size(); ++e) {
    const auto address = reinterpret_cast<std::uintptr_t>(shard.places[e].contiguous());
    const bool congruent = access.source == Source::buffered ||
                           (address - shard.extents[e].begin) % access.alignment == 0;
    straight.push_back(static_cast<char>(address != 0 && congruent));
  }
  return make_fill_plan(request, straight);
}

void LoadJob::make_plans() {
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    plans_.push_back(plan_shard(i));
    const bool mapped = accesses_[i].source == Source::mapped;
    std::vector<RegionState>& states = states_.emplace_back(plans_.back().regions.size());
    for (const PlannedBlock& block : plans_.back().blocks) {
      // A mapping has the bytes already: only what is to be verified is gone through.
      if (mapped && !shards_[i].table) break;
      blocks_.push_back({i, block});
      if (block.region != kStaged) ++states[block.region].blocks_left;
      bytes_total_ += block.end - block.begin;
      if (!mapped) bytes_to_read_ += block.end - block.begin;
    }
    if (shards_[i].places.empty()) continue;
    places_left_.resize(shards_.size());
    for (const Extent& extent : shards_[i].extents) {
      places_left_[i].push_back(extent.end - extent.begin);
    }
  }
}

// Throws MemoryLimitExceeded where what is asked cannot be done within the limits; takes fewer
// lanes where that helps.
void LoadJob::check_memory() {
  const std::uint64_t held = parked_bytes();
  const auto require = [&](std::uint64_t asked, std::uint64_t limit) {
    if (asked > limit || held > limit - asked) throw MemoryLimitExceeded(asked, limit, held);
  };
  if (options_.window_bytes) {
    for (const ShardRequest& shard : shards_) {
      if (shard.table) require(shard.table->grid.chunk_bytes, *options_.window_bytes);
    }
  }
  if (!options_.memory_limit_bytes || options_.window_bytes) return;
  const std::uint64_t limit = *options_.memory_limit_bytes;
  if (fills()) {
    std::uint64_t block_bytes = 0;
    for (const Block& block : blocks_) {
      block_bytes = std::max(block_bytes, staging_bytes(block.range.end - block.range.begin));
    }
    if (block_bytes == 0) return;
    require(block_bytes, limit);
    const std::uint64_t slots = (limit - held) / block_bytes;
    options_.lanes = static_cast<unsigned>(std::min<std::uint64_t>(options_.lanes, slots));
    options_.queue_depth = static_cast<unsigned>(
        std::min<std::uint64_t>(options_.queue_depth, slots / options_.lanes));
    return;
  }
  std::uint64_t asked = 0;
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    if (accesses_[i].source != Source::mapped) {
      asked += plans_[i].block_bytes_total;
      continue;
    }
    for (const Extent& extent : shards_[i].extents) asked += extent.end - extent.begin;
  }
  require(asked, limit);
}

void LoadJob::make_regions() {
  regions_.resize(shards_.size());
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    regions_[i].resize(plans_[i].regions.size());
    if (options_.window_bytes) continue;
    for (std::size_t r = 0; r < regions_[i].size(); ++r) regions_[i][r] = make_region(i, r);
  }
  if (!options_.window_bytes) mappings_.clear();
}

std::shared_ptr<Region> LoadJob::make_region(std::size_t shard, std::size_t region) const {
  const PlannedRegion& planned = plans_[shard].regions[region];
  const std::uint64_t nbytes = planned.end - planned.begin;
  if (!shards_[shard].places.empty()) {
    const std::size_t extent = planned.first_extent;
    std::byte* place = shards_[shard].places[extent].contiguous();
    return Region::borrow(place + (planned.begin - shards_[shard].extents[extent].begin),
                          planned.begin, nbytes);
  }
  if (accesses_[shard].source == Source::mapped) return mappings_[shard];
  auto made = Region::allocate(planned.begin, nbytes, options_.huge_pages);
  made->keep_from_children(true);  // until it is finished
  return made;
}

// Chunks hold bytes that nobody asked for: their pages go back.
void LoadJob::finish_region(std::size_t shard, std::size_t region) const {
  const Region& finished = *regions_[shard][region];
  if (finished.mapped()) return;
  finished.keep_from_children(false);
  const PlannedRegion& planned = plans_[shard].regions[region];
  std::uint64_t kept_until = planned.begin;
  for (std::size_t e = planned.first_extent; e < planned.last_extent; ++e) {
    const Extent& extent = shards_[shard].extents[e];
    if (extent.begin == extent.end) continue;
    if (extent.begin > kept_until) finished.give_back(kept_until, extent.begin);
    kept_until = extent.end;
  }
  if (planned.end > kept_until) finished.give_back(kept_until, planned.end);
}

// A small job whose bytes are in memory needs no lanes: it is done here, on the caller's thread.
bool LoadJob::finish_inline() {
  if (bytes_total_ > kInlineBytes || options_.window_bytes || fills()) return false;
  for (const Block& block : blocks_) {
    const Region& region = *regions_[block.shard][block.range.region];
    if (region.mapped()) continue;
    if (accesses_[block.shard].source == Source::direct) return false;
    const std::span out(region.at(block.range.begin), block.range.end - block.range.begin);
    if (!shards_[block.shard].file->read_cached(block.range.begin, out)) return false;
  }
  for (const Block& block : blocks_) {
    const auto& region = regions_[block.shard][block.range.region];
    if (!region->mapped()) counters_.bytes_buffered += block.range.end - block.range.begin;
    leave({block, region}, region->mapped() ? take_mapped(block, *region)
                                            : verify(block, region->at(block.range.begin)));
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
  } else {
    set.engines.resize(lane_count_);
  }
  // Each is handed over to its thread, or taken back where there is no thread for it. All memory
  // for that is there before the first one starts.
  std::vector<std::shared_ptr<std::unique_ptr<Lane>>> lanes;
  for (auto& engine : set.engines) {
    lanes.push_back(std::make_shared<std::unique_ptr<Lane>>(
        std::make_unique<Lane>(shared_from_this(), std::move(engine), options_.queue_depth)));
  }
  failures_.reserve(2 * lanes.size());  // a lane can tell that it has no memory without any
  std::size_t started = 0;
  for (const auto& handed : lanes) {
    {
      const std::lock_guard lock(mutex_);
      ++lanes_running_;
    }
    try {
      std::thread([job = shared_from_this(), handed] {
        job->run_lane(std::move(*handed));
      }).detach();
      ++started;
    } catch (const std::system_error&) {
      if (started != 0) {  // fewer lanes than asked for do the same work
        lane_finished();
        break;
      }
      note_fallback("no thread could be started: read on the caller's, where Ctrl-C has to wait");
      run_lane(std::move(*handed));
      started = 1;
      break;
    } catch (...) {  // no memory: nobody learns of this job, so those that were started stop
      lane_finished();
      cancel();
      throw;
    }
  }
  lane_count_ = started;
}

void LoadJob::run_lane(std::unique_ptr<Lane> lane) {
  try {
    lane->run();
  } catch (const std::bad_alloc&) {
    fail(0, Failure{ENOMEM, "allocate", {}, {}, {}});
  }
  lane.reset();  // waits for reads that are still out
  lane_finished();
}

void LoadJob::note_fallback(const std::string& what) {
  const std::lock_guard lock(mutex_);
  if (std::find(fallbacks_.begin(), fallbacks_.end(), what) == fallbacks_.end())
    fallbacks_.push_back(what);
}

void LoadJob::lane_finished() {
  const std::lock_guard lock(mutex_);
  --lanes_running_;
  changed_.notify_all();
}

bool LoadJob::wait_for(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [this] { return lanes_running_ == 0; });
}

bool LoadJob::wait_for_places(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [this] { return placing_ == 0; });
}

bool LoadJob::placed(std::size_t shard, std::size_t extent) const {
  const std::lock_guard lock(mutex_);
  return places_left_.at(shard).at(extent) == 0;
}

void LoadJob::cancel() {
  std::vector<std::weak_ptr<Region>> seen;
  {
    const std::lock_guard lock(mutex_);
    stop();
    for (auto& of_shard : regions_) {
      for (auto& region : of_shard) seen.push_back(region);
    }
    regions_.clear();  // lanes keep those that they read into
    mappings_.clear();
  }
  for (const auto& region : seen) {
    // A mapping is no memory, and what has no read in it was freed.
    if (const auto held = region.lock(); held && !held->mapped()) held->park();
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
  for (std::size_t i = 0; i < regions_.size(); ++i) {
    for (std::size_t r = 0; r < regions_[i].size(); ++r) finish_region(i, r);
  }
  return std::exchange(regions_, {});
}

std::vector<std::string> LoadJob::fallbacks() const {
  const std::lock_guard lock(mutex_);
  return fallbacks_;
}

std::string LoadJob::engine() const { return engine_name_; }

}  // namespace fastio
