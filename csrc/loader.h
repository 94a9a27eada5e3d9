// A read job: extents of files in, verified bytes out, to regions of its own or to places that are
// given.
//
// The job plans, chooses for each file where its bytes are taken from, and starts lanes
// (loader_lane.cc) that share nothing but the list of blocks to take (loader_blocks.cc). It knows
// no tensor names, dtypes or formats. Whoever started it waits for all of it, or takes region after
// region, or cancels and leaves at once: lanes hold the job, so memory with a read still in it
// lives until that read returns, and is counted as parked. Places are the caller's, who cannot
// leave before nothing is written to them any more.
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
#include "placement.h"
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
  std::vector<Extent> extents;         // ascending, disjoint
  std::optional<ChunkTable> table;     // none: not verified
  std::vector<Placement> places = {};  // of each extent; empty: regions are made for them
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
  // With it, regions are made as lanes come to them, and no more of them than this many bytes (or
  // one) that were not let go.
  std::optional<std::uint64_t> window_bytes;
};

// Where the bytes of one file come from.
enum class Source { mapped, buffered, direct, by_block };

struct ShardAccess {
  Source source = Source::direct;
  std::string cache_state;  // "cold", "warm", "mixed"
  std::string reason;
  std::uint64_t alignment = 4096;  // bytes
};

// What a load with these options would do for one file.
[[nodiscard]] ShardAccess choose_source(const ShardRequest& shard, const LoadOptions& options);

// Brings the bytes [begin, end) of a mapping in at once, and finds out in a way that can be
// reported whether they are there: touching a page behind the end of a file that shrank would be a
// SIGBUS.
[[nodiscard]] std::optional<Failure> populate(const File& file, const Region& region,
                                              std::uint64_t begin, std::uint64_t end);

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

  // True when nothing is written to given places any more; they hold no byte then that was not
  // verified, where there is a table.
  [[nodiscard]] bool wait_for_places(std::chrono::milliseconds timeout);

  // Whether all bytes of an extent are at their place.
  [[nodiscard]] bool placed(std::size_t shard, std::size_t extent) const;

  // After wait_for said true: the first failure by shard and offset, if any.
  [[nodiscard]] std::optional<Failure> failure() const;
  [[nodiscard]] std::optional<DamagedChunk> damage() const;

  // After success: takes the memory over. regions[shard][i] belongs to plan(shard).regions[i].
  [[nodiscard]] std::vector<std::vector<std::shared_ptr<Region>>> take_regions();

  // With window_bytes: true when the region is whole, or never will be.
  [[nodiscard]] bool wait_for_region(std::size_t shard, std::size_t region,
                                     std::chrono::milliseconds timeout);

  // The region, once; null where it is not whole, or was let go.
  [[nodiscard]] std::shared_ptr<Region> take_region(std::size_t shard, std::size_t region);

  // From now on the region does not count against the window; what was not yet read of it is not
  // read any more, unless it was taken.
  void let_go(std::size_t shard, std::size_t region);

  [[nodiscard]] const Plan& plan(std::size_t shard) const { return plans_[shard]; }
  [[nodiscard]] const ShardRequest& request(std::size_t shard) const { return shards_[shard]; }
  [[nodiscard]] const ShardAccess& access(std::size_t shard) const { return accesses_[shard]; }
  [[nodiscard]] std::size_t shard_count() const { return shards_.size(); }
  [[nodiscard]] const LoadCounters& counters() const { return counters_; }
  [[nodiscard]] std::uint64_t bytes_total() const { return bytes_total_; }
  [[nodiscard]] std::string engine() const;  // "uring", "pread", "mmap", "none"
  [[nodiscard]] const std::string& engine_reason() const { return engine_reason_; }
  [[nodiscard]] std::size_t lanes() const { return lane_count_; }
  [[nodiscard]] HugePages huge_pages() const { return options_.huge_pages; }
  [[nodiscard]] std::vector<std::string> fallbacks() const;

 private:
  friend class Lane;

  struct Block {
    std::size_t shard = 0;
    PlannedBlock range;
  };

  struct RegionState {
    std::size_t blocks_left = 0;
    bool counted = false;  // against the window
    bool taken = false;
    bool let_go = false;
  };

  LoadJob(std::vector<ShardRequest> shards, const LoadOptions& options);
  void choose_sources();
  void make_plans();
  [[nodiscard]] Plan plan_shard(std::size_t index) const;
  void check_memory();
  void make_regions();
  [[nodiscard]] std::shared_ptr<Region> make_region(std::size_t shard, std::size_t region) const;
  void finish_region(std::size_t shard, std::size_t region) const;
  [[nodiscard]] bool fills() const { return !places_left_.empty(); }
  [[nodiscard]] bool finish_inline();
  void start_lanes();
  void run_lane(std::unique_ptr<Lane> lane);

  // For lanes (loader_blocks.cc). A block comes with the region it goes to, if it is not staged.
  struct Assignment {
    Block block;
    std::shared_ptr<Region> region;
  };
  enum class Turn { work, later, over };  // later: there is no room for the next region yet
  [[nodiscard]] Turn next_block(Assignment& assignment);
  void wait_for_room(std::chrono::milliseconds timeout);
  [[nodiscard]] bool stopping() const { return stopping_.load(std::memory_order_acquire); }
  [[nodiscard]] bool verify(const Block& block, const std::byte* data);
  [[nodiscard]] bool take_mapped(const Block& block, const Region& region);
  void place(const Block& block, const std::byte* data);
  // The block is where it belongs, or not.
  void leave(const Assignment& assignment, bool sound);
  void count_placed(const Block& block);
  void fail(std::size_t shard, Failure failure);
  void note_fallback(const std::string& what);
  void stop();
  void lane_finished();

  std::vector<ShardRequest> shards_;
  LoadOptions options_;
  std::vector<ShardAccess> accesses_;
  std::vector<std::shared_ptr<Region>> mappings_;  // of each shard that is mapped
  std::vector<Plan> plans_;
  std::vector<Block> blocks_;
  std::uint64_t bytes_total_ = 0;
  std::uint64_t bytes_to_read_ = 0;  // not mapped
  std::string engine_name_ = "none";
  std::string engine_reason_;
  std::size_t lane_count_ = 0;

  std::atomic<bool> stopping_{false};
  LoadCounters counters_;

  mutable std::mutex mutex_;         // guards what is below
  std::condition_variable changed_;  // a region or a lane is finished, there is room, it stops
  std::size_t next_block_ = 0;
  std::vector<std::vector<std::shared_ptr<Region>>> regions_;
  std::vector<std::vector<RegionState>> states_;
  std::uint64_t window_used_ = 0;
  std::vector<std::vector<std::uint64_t>> places_left_;  // bytes of each extent; none: no places
  std::size_t placing_ = 0;  // lanes that write to places, and reads that do
  std::size_t lanes_running_ = 0;
  std::vector<std::pair<std::size_t, Failure>> failures_;  // by shard
  std::vector<DamagedChunk> damages_;
  std::vector<std::string> fallbacks_;
};

}  // namespace fastio
