#include "loader.h"

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <utility>

#include "lanes.h"
#include "loader_lane.h"

namespace fastio {
namespace {

constexpr std::uint64_t kRegionBytes = std::uint64_t{256} << 20;
// Four of them fill a usual window, so that one is consumed while others are read.
constexpr std::uint64_t kWindowRegionBytes = std::uint64_t{64} << 20;
constexpr std::uint64_t kLargestBlockBytes = std::uint64_t{1}
                                             << 30;  // below what one read system call takes
constexpr std::uint64_t kInlineBytes = std::uint64_t{4} << 20;
constexpr std::size_t kReplicasMost = 64;  // sets of them are the bits of one number

// One digest for each chunk, and chunks that one request can read.
bool table_fits(const ChunkTable& table, std::uint64_t file_nbytes) {
  const auto& [start, chunk_bytes] = table.grid;
  if (chunk_bytes == 0 || chunk_bytes > kLargestBlockBytes) return false;
  const std::uint64_t covered = file_nbytes < start ? 0 : file_nbytes - start;
  return table.digests.size() == (covered + chunk_bytes - 1) / chunk_bytes;
}

void check(const ShardRequest& shard, bool fills) {
  const auto& replicas = shard.replicas;
  if (replicas.empty() || replicas.size() > kReplicasMost)
    throw std::invalid_argument("a file has 1 to 64 replicas");
  if (std::find(replicas.begin(), replicas.end(), nullptr) != replicas.end())
    throw std::invalid_argument("a replica is no file");
  if (!std::all_of(replicas.begin(), replicas.end(),
                   [&](const auto& replica) { return replica->nbytes() == shard.nbytes(); })) {
    throw std::invalid_argument("the replicas of a file have different sizes");
  }
  if (shard.places.size() != (fills ? shard.extents.size() : 0))
    throw std::invalid_argument("places are given for every extent, or for none");
  if (!shard.devices.empty() && shard.devices.size() != shard.places.size())
    throw std::invalid_argument("devices are given for every place, or for none");
  if (shard.table && !table_fits(*shard.table, shard.nbytes()))
    throw std::invalid_argument("the chunk table does not fit the file");
}

}  // namespace

LoadJob::LoadJob(std::vector<ShardRequest> shards, LoadOptions options)
    : shards_(std::move(shards)), options_(std::move(options)) {
  const std::string path = shards_.empty() ? "" : shards_.front().replicas.front()->path();
  no_memory_ = {ENOMEM, "allocate", path, {}, {}};
}

std::shared_ptr<LoadJob> LoadJob::start(std::vector<ShardRequest> shards,
                                        const LoadOptions& options) {
  auto job = prepare(std::move(shards), options);
  job->launch();
  return job;
}

std::shared_ptr<LoadJob> LoadJob::prepare(std::vector<ShardRequest> shards,
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
    check(shard, fills);
    for (const int device : shard.devices) {
      if (device < kHost || device >= static_cast<int>(options.devices.size()))
        throw std::invalid_argument("a place is on a device that the job has not");
    }
  }
  auto job = std::shared_ptr<LoadJob>(new LoadJob(std::move(shards), options));
  job->watch_disks();
  job->choose_sources();
  job->make_plans();
  job->check_memory();
  job->make_regions();
  job->make_dispatch();
  job->avoid_indebted();
  job->needs_lanes_ = !job->blocks_.empty() && !job->finish_inline();
  return job;
}

void LoadJob::launch() {
  if (!needs_lanes_) return;
  ready_ = mark(options_.devices);
  start_lanes();
}

Plan LoadJob::plan_shard(std::size_t index) const {
  const ShardRequest& shard = shards_[index];
  PlanRequest request;
  request.extents = shard.extents;
  request.file_nbytes = shard.nbytes();
  if (shard.table) request.grid = shard.table->grid;
  for (const ShardAccess& access : accesses_[index]) {  // powers of two: the largest suits all
    request.alignment = std::max(request.alignment, access.alignment);
  }
  request.block_bytes = options_.block_bytes;
  const std::uint64_t limit =
      options_.window_bytes.value_or(options_.memory_limit_bytes.value_or(UINT64_MAX));
  const std::uint64_t largest = options_.window_bytes ? kWindowRegionBytes : kRegionBytes;
  request.region_bytes = std::max<std::uint64_t>(std::min(largest, limit / 4), 1);
  request.whole_file_region = access(index).mode == ReadMode::mapped && !options_.window_bytes;
  if (options_.surveys) {
    return make_fill_plan(request, std::vector<char>(shard.extents.size(), 0));
  }
  if (shard.places.empty()) return make_plan(request);
  return make_fill_plan(request, straight_extents(index, request.alignment));
}

// A direct read lands where the address is congruent to the offset; one through the page cache
// anywhere.
std::vector<char> LoadJob::straight_extents(std::size_t index, std::uint64_t alignment) const {
  const ShardRequest& shard = shards_[index];
  const bool anywhere =
      std::all_of(accesses_[index].begin(), accesses_[index].end(),
                  [](const ShardAccess& access) { return access.mode == ReadMode::buffered; });
  std::vector<char> straight;
  for (std::size_t e = 0; e < shard.extents.size(); ++e) {
    if (answers_) {  // a read that hangs there could not be left behind
      straight.push_back(0);
      continue;
    }
    const auto address = reinterpret_cast<std::uintptr_t>(shard.places[e].contiguous());
    const bool congruent = anywhere || (address - shard.extents[e].begin) % alignment == 0;
    const bool here = address != 0 && shard.device_of(e) == kHost;
    straight.push_back(static_cast<char>(here && congruent));
  }
  return straight;
}

void LoadJob::make_plans() {
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    plans_.push_back(plan_shard(i));
    const bool mapped = access(i).mode == ReadMode::mapped;
    std::vector<RegionState>& states = states_.emplace_back(plans_.back().regions.size());
    for (const PlannedBlock& block : plans_.back().blocks) {
      // A mapping has the bytes already: only what is to be verified is gone through.
      if (mapped && !shards_[i].table) break;
      if (block.region != kStaged) {
        RegionState& state = states[block.region];
        if (state.blocks_left++ == 0) state.first_block = blocks_.size();
        state.last_block = blocks_.size() + 1;
      } else {
        staging_bytes_ = std::max(staging_bytes_, staging_bytes(block.end - block.begin));
      }
      blocks_.push_back({i, block});
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

void LoadJob::make_dispatch() {
  std::vector<std::vector<std::uint64_t>> devices;
  for (const ShardRequest& shard : shards_) {
    devices.push_back(disks_of(shard));
    failed_reads_.emplace_back(shard.replicas.size(), 0);
  }
  std::vector<Dispatch::Block> blocks;
  blocks.reserve(blocks_.size());
  unqueued_ = blocks_.size();
  for (const Block& block : blocks_) {
    blocks.push_back({block.shard, block.range.end - block.range.begin});
  }
  dispatch_.emplace(devices, std::move(blocks));
  if (!options_.window_bytes) dispatch_->open_until(blocks_.size());
}

// A small job whose bytes are in memory needs no lanes: it is done here, on the caller's thread.
bool LoadJob::finish_inline() {
  if (bytes_total_ > kInlineBytes || options_.window_bytes || options_.persistent || fills())
    return false;
  for (const Block& block : blocks_) {
    const Region& region = *regions_[block.shard][block.range.region];
    if (region.mapped()) continue;
    const auto& replicas = shards_[block.shard].replicas;
    if (access(block.shard).mode == ReadMode::direct || replicas.size() > 1) return false;
    const std::span out(region.at(block.range.begin), block.range.end - block.range.begin);
    if (!replicas.front()->read_cached(block.range.begin, out)) return false;
  }
  for (const Block& block : blocks_) {
    const auto& region = regions_[block.shard][block.range.region];
    if (!region->mapped()) counters_.bytes_buffered += block.range.end - block.range.begin;
    const Assignment work{0, block, 0, region, 0};
    const bool there = !region->mapped() || bring_in(work);
    leave(work, there && verify(work, region->at(block.range.begin)));
  }
  engine_name_ = bytes_to_read_ == 0 ? "mmap" : "inline";
  engine_reason_ = "small and in memory: done on the caller's thread";
  return true;
}

void LoadJob::start_lanes() {
  lane_count_ = std::min<std::size_t>(options_.lanes, blocks_.size());
  EngineSet set;
  if (bytes_to_read_ != 0) {
    try {
      set = make_engines(options_.engine, lane_count_, options_.queue_depth);
    } catch (const IoError& error) {
      throw concerning(no_memory_.path, Failure::Kind::read, error);
    }
    engine_name_ = name_of(set.kind);
    engine_reason_ = std::move(set.reason);
  } else {
    set.engines.resize(lane_count_);
  }
  std::vector<std::unique_ptr<Lane>> lanes;
  lanes.reserve(set.engines.size());
  for (auto& engine : set.engines) {
    lanes.push_back(
        std::make_unique<Lane>(shared_from_this(), std::move(engine), options_.queue_depth));
  }
  slots_ = lanes.size() * options_.queue_depth;
  failures_.reserve(2 * lanes.size());  // a lane can tell that it has no memory without any
  lane_times_.reserve(lanes.size());    // nor does a lane that ends need any
  try {
    lane_count_ = fastio::start_lanes(shared_from_this(), std::move(lanes));
  } catch (const std::bad_alloc&) {  // a refused caller has his memory back at once
    while (!wait_until_left(std::chrono::seconds(1))) {
    }
    throw;
  }
}

void LoadJob::run_alone(std::unique_ptr<Lane> lane) {
  try {
    note_fallback(options_.window_bytes
                      ? "no thread could be started: read on the caller's, and nothing ahead"
                      : "no thread could be started: read on the caller's, where Ctrl-C has to "
                        "wait");
  } catch (const std::bad_alloc& error) {
    fail_without_memory(error);
  }
  if (options_.window_bytes) return keep_lane(std::move(lane));
  run_lane(std::move(lane), &leave_behind);
}

void LoadJob::run_lane(std::unique_ptr<Lane> lane, void (*keep)(std::unique_ptr<Lane>)) {
  try {
    lane->run();
  } catch (const std::bad_alloc& error) {
    fail_without_memory(error);
  }
  record(lane->times());
  const bool hangs = lane->lost() != 0 && lane->only_lost();
  if (hangs) {
    lane->keep_lost();
    succeed(*lane);
    lane_finished();  // nobody waits for what it waits for
    if (keep != nullptr) return keep(std::move(lane));
  }
  lane.reset();  // waits for reads that are still out
  if (!hangs) lane_finished();
}

void LoadJob::note_fallback(const std::string& what) {
  const std::lock_guard lock(mutex_);
  if (std::find(fallbacks_.begin(), fallbacks_.end(), what) == fallbacks_.end())
    fallbacks_.push_back(what);
}

void LoadJob::lane_joins() {
  const std::lock_guard lock(mutex_);
  ++lanes_running_;
}

void LoadJob::lane_finished() {
  const std::lock_guard lock(mutex_);
  --lanes_running_;
  changed_.notify_all();
}

void LoadJob::record(const LaneTimes& times) {
  const std::lock_guard lock(mutex_);
  lane_times_.push_back(times);
}

bool LoadJob::wait_for(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [this] { return lanes_running_ == 0; });
}

bool LoadJob::wait_until_queued(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [this] { return unqueued_ == 0 || lanes_running_ == 0; });
}

std::optional<Failure> LoadJob::hold_back(const DeviceTarget& later) {
  const std::lock_guard lock(mutex_);
  for (const auto& [stream, end] : ends_) {
    if (auto refused = later.device->hold_back(later.stream, *end)) return refused;
  }
  return std::nullopt;
}

bool LoadJob::wait_until_left(std::chrono::milliseconds timeout) {
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
    // A lane that only waits for its copies ends by itself.
    if (unqueued_ != 0 && lanes_running_ != 0) given_up_ = true;
    stop();
    for (auto& of_shard : regions_) {
      for (auto& region : of_shard) seen.push_back(region);
    }
    regions_.clear();  // lanes keep those that they read into
    mappings_.clear();
  }
  for (const auto& region : seen) {
    // A mapping takes no memory, and memory without a read in it was freed.
    if (const auto held = region.lock(); held && !held->mapped()) held->park();
  }
  end_alone();
}

std::optional<Failure> LoadJob::failure() const {
  const std::lock_guard lock(mutex_);
  const auto first =
      std::min_element(failures_.begin(), failures_.end(), [](const auto& a, const auto& b) {
        return std::pair(a.first, a.second.offset) < std::pair(b.first, b.second.offset);
      });
  return first == failures_.end() ? std::nullopt : std::optional(first->second);
}

bool LoadJob::given_up() const {
  const std::lock_guard lock(mutex_);
  return given_up_;
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

std::vector<LaneTimes> LoadJob::lane_times() const {
  const std::lock_guard lock(mutex_);
  return lane_times_;
}

std::string LoadJob::engine() const { return engine_name_; }

}  // namespace fastio
