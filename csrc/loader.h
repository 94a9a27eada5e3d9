// A read job: extents of files in, verified bytes out, to regions of its own or to places that are
// given.
//
// The job plans, chooses for each replica of a file where its bytes are taken from, and starts
// lanes (loader_lane.cc) that share nothing but the list of blocks to take (loader_blocks.cc).
// Where it is asked to persist, what fails is tried once more and from other replicas
// (loader_retry.cc), and so is what a disk that hangs does not bring (loader_hang.cc). It knows no
// tensor names, dtypes or formats. Whoever started it waits for all of it, or takes region after
// region, or cancels and leaves at once: lanes hold the job, so memory with a read still in it
// lives until that read returns, and is counted as parked. Places are the caller's, who cannot
// leave before nothing is written to them any more.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "answers.h"
#include "device.h"
#include "dispatch.h"
#include "engine.h"
#include "error.h"
#include "file.h"
#include "loader_times.h"
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
  std::vector<std::shared_ptr<File>> replicas;  // of the same bytes, the preferred one first
  std::vector<Extent> extents;                  // ascending, disjoint
  std::optional<ChunkTable> table;              // none: not verified
  std::vector<Placement> places = {};           // of each extent; empty: regions are made for them
  // Of each place: which of the job's devices it is on, or kHost; empty: the host's, all of them.
  std::vector<int> devices = {};
  // The files lie on roots of a store, perhaps only one of them: a root that hangs is not waited
  // for. Of other files there is nothing else to read.
  bool on_roots = false;

  [[nodiscard]] int device_of(std::size_t extent) const {
    return devices.empty() ? kHost : devices[extent];
  }
  [[nodiscard]] std::uint64_t nbytes() const { return replicas.front()->nbytes(); }
};

// The disks of a shard's replicas, by st_dev.
[[nodiscard]] std::vector<std::uint64_t> disks_of(const ShardRequest& shard);

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
  std::vector<DeviceTarget> devices = {};  // that places may be on: what goes there is staged in
                                           // pinned memory, at most this much in the process
  std::uint64_t pinned_limit_bytes = std::uint64_t{512} << 20;
  bool joins_places = false;  // places that touch are of one allocation: one copy may fill several
  // With it, regions are made as lanes come to them, and no more of them than this many bytes (or
  // one) that were not let go.
  std::optional<std::uint64_t> window_bytes;
  // What is damaged is read once more, past the page cache, and then from the other replicas; what
  // cannot be read comes from the others. Otherwise the first failure ends the job.
  bool persistent = false;
  // Nothing is kept: each block is read into staging, compared and dropped. A chunk that no replica
  // has sound is an incident, and the job goes on. Goes with `persistent`.
  bool surveys = false;
  // With it, a disk that has reads and answers none of them for so long hangs, where all files lie
  // on roots: what it was asked for comes from other replicas.
  std::optional<std::chrono::nanoseconds> root_timeout;
};

// The source of the bytes of one replica. Only what has a single replica is mapped.
enum class ReadMode { mapped, buffered, direct, by_block };

struct ShardAccess {
  ReadMode mode = ReadMode::direct;
  std::string cache_state;  // "cold", "warm", "mixed"
  std::string reason;
  std::uint64_t alignment = 4096;  // bytes
  bool resident = false;           // all of it was in memory: a read copies, and waits for nothing
};

// The way in which a load with these options reads one replica.
[[nodiscard]] ShardAccess choose_access(const ShardRequest& shard, std::size_t replica,
                                        const LoadOptions& options);

// Whether O_DIRECT can serve a replica: blocks must begin at multiples of its alignment.
[[nodiscard]] DirectAccess direct_for(const ShardRequest& shard, std::size_t replica);

// Brings the bytes [begin, end) of a mapping in at once, and finds out in a way that can be
// reported whether they are there: touching a page behind the end of a file that shrank would be a
// SIGBUS.
[[nodiscard]] std::optional<Failure> populate(const File& file, const Region& region,
                                              std::uint64_t begin, std::uint64_t end);

struct DamagedChunk {
  std::size_t shard = 0, replica = 0;
  std::uint64_t chunk = 0;
  Extent extent;
  std::uint64_t expected = 0, found = 0;
};

// A try that failed, and what helped.
struct Incident {
  enum class Remedy { none, read_again, other_replica };

  std::size_t shard = 0, replica = 0;
  Extent extent;                          // the chunk that is damaged, or what was to be read
  std::optional<Failure> failure;         // of the read; none: the checksum is another one
  std::uint64_t expected = 0, found = 0;  // digests
  Remedy remedy = Remedy::none;
  std::size_t remedied_by = 0;  // the replica
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

  // The same in two steps, each of them once. Servers are asked in the first one, which writes to
  // no place: whoever waits for it may leave. The second comes behind the callers' streams.
  static std::shared_ptr<LoadJob> prepare(std::vector<ShardRequest> shards,
                                          const LoadOptions& options);
  void launch();

  // True when no lane is at work any more.
  [[nodiscard]] bool wait_for(std::chrono::milliseconds timeout);

  // Stops within milliseconds. Regions that a read is still writing to are parked, all others are
  // freed.
  void cancel();

  // True when the caller's memory is left alone: nothing is written to given places any more. They
  // hold no byte then that was not verified, where there is a table.
  [[nodiscard]] bool wait_until_left(std::chrono::milliseconds timeout);

  // True when every byte that goes to a device is verified and its copy is in a stream, or none
  // will be any more. If nothing has failed then, work behind the copies may be queued.
  [[nodiscard]] bool wait_until_queued(std::chrono::milliseconds timeout);

  // Later work in that stream waits for these copies, also for those to other devices.
  [[nodiscard]] std::optional<Failure> hold_back(const DeviceTarget& later);

  // Whether all bytes of an extent are at their place.
  [[nodiscard]] bool placed(std::size_t shard, std::size_t extent) const;

  // After wait_for said true: the first failure by shard and offset, if any.
  [[nodiscard]] std::optional<Failure> failure() const;
  [[nodiscard]] std::optional<DamagedChunk> damage() const;
  // Whether it was cancelled before it was done: what is missing then is no failure.
  [[nodiscard]] bool given_up() const;
  // Memory for what has to be read anew, which the limit does not leave.
  [[nodiscard]] std::optional<MemoryLimitExceeded> exceeded() const;
  [[nodiscard]] bool has_failed() const {
    return failure().has_value() || damage().has_value() || exceeded().has_value();
  }

  // Tries that failed, since the last call, also where another one was sound. Of many, those that
  // touch each other are one, with the digests of the first; of very many the first ones.
  [[nodiscard]] std::vector<Incident> take_incidents();
  [[nodiscard]] std::uint64_t incidents_dropped() const;

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
  [[nodiscard]] const ShardAccess& access(std::size_t shard, std::size_t replica = 0) const {
    return accesses_[shard][replica];
  }
  [[nodiscard]] std::size_t shard_count() const { return shards_.size(); }
  [[nodiscard]] const LoadCounters& counters() const { return counters_; }
  // Never less than before, where something is read anew as well.
  [[nodiscard]] std::uint64_t bytes_done() const {
    return std::max(counters_.bytes_done.load(), bytes_told_.load());
  }
  [[nodiscard]] std::uint64_t bytes_total() const { return bytes_total_; }
  [[nodiscard]] std::string engine() const;  // "uring", "pread", "mmap", "none"
  [[nodiscard]] const std::string& engine_reason() const { return engine_reason_; }
  [[nodiscard]] std::size_t lanes() const { return lane_count_; }
  [[nodiscard]] HugePages huge_pages() const { return options_.huge_pages; }
  [[nodiscard]] std::vector<std::string> fallbacks() const;
  // Of the lanes that have ended, the first one first.
  [[nodiscard]] std::vector<LaneTimes> lane_times() const;

 private:
  friend class Lane;

  struct Block {
    std::size_t shard = 0;
    PlannedBlock range;
  };

  struct RegionState {
    std::size_t first_block = 0, last_block = 0;
    std::size_t blocks_left = 0;
    std::uint64_t bytes_done = 0;
    unsigned version = 0;  // another one where its memory was lost, and it is read anew
    bool counted = false;  // against the window
    bool taken = false;
    bool let_go = false;
  };

  LoadJob(std::vector<ShardRequest> shards, LoadOptions options);
  void choose_sources();
  void map_shard(std::size_t index);
  void make_plans();
  [[nodiscard]] Plan plan_shard(std::size_t index) const;
  [[nodiscard]] std::vector<char> straight_extents(std::size_t index,
                                                   std::uint64_t alignment) const;
  void make_dispatch();
  void check_memory();
  void make_regions();
  [[nodiscard]] std::shared_ptr<Region> make_region(std::size_t shard, std::size_t region) const;
  void finish_region(std::size_t shard, std::size_t region) const;
  [[nodiscard]] bool fills() const { return !places_left_.empty(); }
  [[nodiscard]] bool finish_inline();
  void start_lanes();

  // For start_lanes.
  template <typename Job, typename OfJob>
  friend std::size_t start_lanes(const std::shared_ptr<Job>&, std::vector<std::unique_ptr<OfJob>>);
  void lane_joins();
  // With `keep` nobody may wait for lost reads: it gets the lane that has some.
  void run_lane(std::unique_ptr<Lane> lane, void (*keep)(std::unique_ptr<Lane>) = nullptr);
  void run_alone(std::unique_ptr<Lane> lane);
  void lane_finished();
  void record(const LaneTimes& times);

  // For a windowed job that got no thread (loader_alone.cc).
  void keep_lane(std::unique_ptr<Lane> lane);
  [[nodiscard]] bool step_alone();
  void work_alone(std::size_t shard, std::size_t region,
                  std::chrono::steady_clock::time_point until);
  void end_alone();
  [[nodiscard]] bool is_settled(std::size_t shard, std::size_t region) const;

  // For lanes (loader_blocks.cc). A block comes with the replica it is read from first, and the
  // region it goes to, if it is not staged.
  struct Assignment {
    std::size_t index = 0;  // of the block
    Block block;
    std::size_t replica = 0;
    std::shared_ptr<Region> region;
    unsigned version = 0;  // of the region
  };
  enum class Turn { work, later, over };  // later: there is no room for the next region yet
  [[nodiscard]] Turn next_block(Assignment& assignment);
  [[nodiscard]] bool all_handed_out();  // and none has failed
  [[nodiscard]] bool open_region();
  void wait_for_room(std::chrono::milliseconds timeout);
  [[nodiscard]] bool stopping() const { return stopping_.load(std::memory_order_acquire); }
  [[nodiscard]] bool verify(const Assignment& work, const std::byte* data);
  // Brings the bytes of a mapped block in. False where they cannot be read, which ends the job.
  [[nodiscard]] bool bring_in(const Assignment& work);
  [[nodiscard]] std::optional<DamagedChunk> damage_at(const Block& block, std::size_t replica,
                                                      std::uint64_t begin,
                                                      const std::byte* data) const;
  void count_sound(const Block& block);
  // A staged block is put to its places between these two. False where the job stops before.
  [[nodiscard]] bool begin_placing();
  void end_placing(const Block& block, bool placed);
  void put(const Block& block, const std::byte* data) const;
  // The copies of a block are in a lane's streams, each up to its event.
  void queued(const std::vector<std::pair<const Stream*, std::shared_ptr<Event>>>& ends);
  // The block is where it belongs, or not.
  void leave(const Assignment& assignment, bool sound, bool was_queued = false);
  void count_placed(const Block& block);
  void fail(std::size_t shard, Failure failure);
  void fail(const DamagedChunk& damage);
  void fail_without_memory(const std::bad_alloc& error);
  void note_fallback(const std::string& what);
  void stop();

  // The same for reads of a part of a block, and tries that failed.
  void read_started(std::size_t shard, std::size_t replica, std::uint64_t nbytes);
  void read_finished(std::size_t shard, std::size_t replica, std::uint64_t nbytes, bool failed);
  // The replica to ask next, where those of the set `tried` are of no use.
  [[nodiscard]] std::optional<std::size_t> next_replica(std::size_t shard,
                                                        std::uint64_t tried) const;
  void note(Incident incident);

  // For disks that hang (loader_hang.cc).
  void watch_disks();
  void avoid_indebted();
  void avoid_hung();
  [[nodiscard]] bool has_other_replica(std::size_t shard) const;
  [[nodiscard]] bool has_other_disk(std::size_t shard, std::size_t disk) const;
  void blame_hung(std::size_t shard, const Extent& span);
  // A read is waited for no longer. Its block is read anew, or the job fails.
  void lose(const Assignment& work, std::size_t replica, const Extent& span, Failure failure);
  void read_anew(const Assignment& work);
  // After a lane has lost reads: another one takes what is left, if there is something.
  void succeed(const Lane& lane);
  void succeed_alone(const Lane& lane);
  [[nodiscard]] std::unique_ptr<Lane> successor_of(const Lane& lane);
  [[nodiscard]] unsigned take_slots(const Lane& lane);

  std::vector<ShardRequest> shards_;
  LoadOptions options_;
  std::vector<std::vector<ShardAccess>> accesses_;  // of each replica of each shard
  std::vector<std::shared_ptr<Region>> mappings_;   // of each shard that is mapped
  std::vector<Plan> plans_;
  std::vector<Block> blocks_;
  std::uint64_t bytes_total_ = 0;
  std::uint64_t bytes_to_read_ = 0;            // not mapped
  std::uint64_t staging_bytes_ = 0;            // of the largest block that is staged
  std::vector<std::unique_ptr<Event>> ready_;  // of each device
  std::string engine_name_ = "none";
  std::string engine_reason_;
  std::size_t lane_count_ = 0;
  bool needs_lanes_ = false;
  std::optional<Answers> answers_;  // if disks are given up that hang
  std::uint64_t asked_bytes_ = 0;   // that count against the memory limit

  std::atomic<bool> stopping_{false};
  LoadCounters counters_;
  std::atomic<std::uint64_t> bytes_told_{0};  // done, before something was to be read anew

  std::atomic<bool> works_alone_{false};
  std::mutex alone_mutex_;       // taken before mutex_; guards the next one
  std::unique_ptr<Lane> alone_;  // of a windowed job that got no thread

  mutable std::mutex mutex_;         // guards what is below
  std::condition_variable changed_;  // a region or a lane is finished, there is room, it stops
  std::optional<Dispatch> dispatch_;
  std::vector<std::vector<std::shared_ptr<Region>>> regions_;
  std::vector<std::vector<RegionState>> states_;
  std::uint64_t window_used_ = 0;
  std::vector<std::vector<std::uint64_t>> places_left_;  // bytes of each extent; none: no places
  bool given_up_ = false;
  std::size_t placing_ = 0;  // lanes that write to places, and reads that do
  std::size_t lanes_running_ = 0;
  std::size_t unqueued_ = 0;  // blocks that are not at their places, nor on their way there
  std::map<const Stream*, std::shared_ptr<Event>> ends_;   // of the last copy in each stream
  std::vector<std::pair<std::size_t, Failure>> failures_;  // by shard
  Failure no_memory_;                                      // made ahead
  std::vector<DamagedChunk> damages_;
  std::optional<MemoryLimitExceeded> exceeded_;
  std::size_t slots_ = 0;  // of all lanes, with those that wait for lost reads
  std::vector<std::vector<unsigned>> failed_reads_;  // of each replica of each shard
  std::vector<Incident> incidents_;
  std::size_t incidents_joined_at_ = 0;  // how many make those that touch each other one
  std::uint64_t incidents_dropped_ = 0;
  std::vector<std::string> fallbacks_;
  std::vector<LaneTimes> lane_times_;
};

}  // namespace fastio
