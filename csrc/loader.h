// A read job: extents of files in, regions of verified bytes out.
//
// The job plans, chooses for each file where its bytes are taken from, and starts lanes
// (loader_lane.cc) that share nothing but a counter of blocks to take. It knows no tensor names,
// dtypes or formats. Whoever started it waits, or cancels and leaves at once: lanes hold the job,
// so memory with a read still in it lives until that read returns, and is counted as parked.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine.h"
#include "error.h"
#include "file.h"
#include "memory.h"
#include "plan.h"

namespace fastio {

enum class CacheMode { automatic, bypass, keep };
enum class MappingMode { automatic, never };

struct ChunkTable {
  ChunkGrid grid;
  std::vector<std::uint64_t> digests;  // XXH3-64 of each chunk
};

struct ShardRequest {
  std::shared_ptr<File> file;
  std::vector<Extent> extents;      // ascending, disjoint
  std::optional<ChunkTable> table;  // none: not verified
};

struct LoadOptions {
  EnginePreference engine = EnginePreference::automatic;
  CacheMode cache = CacheMode::automatic;
  MappingMode mapping = MappingMode::automatic;
  HugePages huge_pages = HugePages::automatic;
  bool keep_cold = false;  // with `automatic`: cold files go through the page cache, others are
                           // about to read them
  std::uint64_t block_bytes = std::uint64_t{8} << 20;
  unsigned queue_depth = 8;
  unsigned lanes = 2;
  std::optional<std::uint64_t> memory_limit_bytes;
};

// Where the bytes of one file come from.
enum class Source { mapped, buffered, direct, by_block };

struct ShardAccess {
  Source source = Source::direct;
  std::string cache_state;  // "cold", "warm", "mixed"
  std::string reason;
  std::uint64_t alignment = 4096;  // bytes
};

struct DamagedChunk {
  std::size_t shard = 0;
  std::uint64_t chunk = 0;
  Extent extent;
  std::uint64_t expected = 0, found = 0;
};

struct LoadCounters {
  std::atomic<std::uint64_t> bytes_direct{0}, bytes_buffered{0}, bytes_mapped{0};
  std::atomic<std::uint64_t> chunks_verified{0}, bytes_done{0};
};

class Lane;

class LoadJob : public std::enable_shared_from_this<LoadJob> {
 public:
  // Plans and starts. Throws IoError, MemoryLimitExceeded, std::invalid_argument, std::bad_alloc;
  // then nothing is left behind.
  static std::shared_ptr<LoadJob> start(std::vector<ShardRequest> shards,
                                        const LoadOptions& options);

  // True when no lane is at work any more.
  [[nodiscard]] bool wait_for(std::chrono::milliseconds timeout);

  // Stops within milliseconds. Regions that a read is still writing to are parked, all others are
  // freed.
  void cancel();

  // After wait_for said true: the first failure by shard and offset, if any.
  [[nodiscard]] std::optional<Failure> failure() const;
  [[nodiscard]] std::optional<DamagedChunk> damage() const;

  // After success: takes the memory over. regions[shard][i] belongs to plan(shard).regions[i].
  [[nodiscard]] std::vector<std::vector<std::shared_ptr<Region>>> take_regions();

  [[nodiscard]] const Plan& plan(std::size_t shard) const { return plans_[shard]; }
  [[nodiscard]] const ShardRequest& request(std::size_t shard) const { return shards_[shard]; }
  [[nodiscard]] const ShardAccess& access(std::size_t shard) const { return accesses_[shard]; }
  [[nodiscard]] std::size_t shard_count() const { return shards_.size(); }
  [[nodiscard]] const LoadCounters& counters() const { return counters_; }
  [[nodiscard]] std::uint64_t bytes_total() const { return bytes_total_; }
  [[nodiscard]] std::string engine() const;  // "uring", "pread", "mmap", "none"
  [[nodiscard]] const std::string& engine_reason() const { return engine_reason_; }
  [[nodiscard]] std::size_t lanes() const { return lane_count_; }
  [[nodiscard]] std::vector<std::string> fallbacks() const;

 private:
  friend class Lane;

  struct Block {
    std::size_t shard = 0;
    PlannedBlock range;
  };

  LoadJob(std::vector<ShardRequest> shards, const LoadOptions& options);
  void choose_sources();
  void make_plans();
  void check_memory() const;
  void make_regions();
  void protect_from_fork(bool protect) const;
  [[nodiscard]] bool finish_inline();
  void start_lanes();
  void run_lane(std::unique_ptr<Lane> lane);

  // For lanes. A block comes with the region it goes to; none when all are taken, on failure or
  // after cancel().
  struct Assignment {
    Block block;
    std::shared_ptr<Region> region;
  };
  [[nodiscard]] std::optional<Assignment> next_block();
  [[nodiscard]] bool stopping() const { return stopping_.load(std::memory_order_acquire); }
  void verify(const Block& block, const Region& region);
  [[nodiscard]] bool populate(const Block& block, const Region& region);
  void fail(std::size_t shard, Failure failure);
  void note_fallback(const std::string& what);
  void lane_finished();

  std::vector<ShardRequest> shards_;
  LoadOptions options_;
  std::vector<ShardAccess> accesses_;
  std::vector<std::shared_ptr<Region>> mappings_;  // of each shard, until its region has it
  std::vector<Plan> plans_;
  std::vector<Block> blocks_;
  std::uint64_t bytes_total_ = 0;
  std::uint64_t bytes_to_read_ = 0;  // not mapped
  std::string engine_name_ = "none";
  std::string engine_reason_;
  std::size_t lane_count_ = 0;

  std::atomic<std::size_t> next_block_{0};
  std::atomic<bool> stopping_{false};
  LoadCounters counters_;

  mutable std::mutex mutex_;  // guards what is below
  std::condition_variable finished_;
  std::vector<std::vector<std::shared_ptr<Region>>> regions_;
  std::size_t lanes_running_ = 0;
  std::vector<std::pair<std::size_t, Failure>> failures_;  // by shard
  std::vector<DamagedChunk> damages_;
  std::vector<std::string> fallbacks_;
};

}  // namespace fastio
