// A write job: bytes in memory out to one file, with checksums of them taken on the way.
//
// The file's data is cut into blocks, which lanes (saver_lane.cc) take: they gather a block's bytes
// out of the tensors it is made of, or leave them where they lie if they can be written from there,
// take the checksums of its chunks, and write it. This is done in legs, one after another: some
// blocks through the page cache and some past it, to see which is faster, then the rest; or all of
// them into memory first. It knows no tensor names, dtypes or formats, and gives the file neither
// its name nor its header. Whoever waits may cancel and leave at once: lanes hold the job, and a
// write that is still out then has nothing but its own file to write to.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "device.h"
#include "engine.h"
#include "error.h"
#include "file_target.h"
#include "memory.h"
#include "plan.h"
#include "sources.h"

namespace fastio {

// Blocks begin at multiples of it behind the first byte of data.
constexpr std::uint64_t kBlockUnit = std::uint64_t{64} << 10;

struct SaveOptions {
  EnginePreference engine = EnginePreference::automatic;
  HugePages huge_pages = HugePages::automatic;
  std::uint64_t block_bytes = std::uint64_t{4} << 20;
  unsigned queue_depth = 8;
  unsigned lanes = 2;
  std::optional<std::uint64_t> memory_limit_bytes;
  std::uint64_t chunk_bytes = 0;           // of a checksum; 0: none are taken
  std::vector<DeviceTarget> devices = {};  // that sources may be on
  std::uint64_t pinned_limit_bytes = std::uint64_t{512} << 20;
};

enum class Leg {
  direct,    // past the page cache; through it where that is refused, noted as a fallback
  buffered,  // through it
  in_order,  // through it, one block after another, for files that take no byte out of its turn
  copied,    // into memory of the job's own, and nothing is written
  summed,    // the checksums are taken, and nothing is written
};

struct SaveCounters {
  std::atomic<std::uint64_t> bytes_direct{0}, bytes_buffered{0}, bytes_gathered{0};
  std::atomic<std::uint64_t> bytes_rewritten{0};  // since the caller's memory changed meanwhile
  std::atomic<std::uint64_t> bytes_done{0};
};

class DeviceReads;
class SaveLane;

class SaveJob : public std::enable_shared_from_this<SaveJob> {
 public:
  // Plans. Throws std::invalid_argument, MemoryLimitExceeded where the limit is below one block.
  static std::shared_ptr<SaveJob> make(std::shared_ptr<TargetFile> file, Sources sources,
                                       const SaveOptions& options);

  // Starts on the blocks [first, last). One leg at a time; none after a failure or a cancel. Throws
  // IoError, MemoryLimitExceeded, std::bad_alloc.
  void start(Leg leg, std::size_t first, std::size_t last);

  // Has the legs to come write to another file: the first one is begun anew. Not during a leg.
  void write_to(std::shared_ptr<TargetFile> file);

  // True when no lane is at work any more.
  [[nodiscard]] bool wait_for(std::chrono::milliseconds timeout);

  // Stops within milliseconds. Memory of the job that a write still reads is parked.
  void cancel();

  // True when the caller's memory is left alone: no lane looks at it any more. (A device may; what
  // it finds there then goes to a file that is thrown away.)
  [[nodiscard]] bool wait_until_left(std::chrono::milliseconds timeout);

  // The first failure by offset, if any.
  [[nodiscard]] std::optional<Failure> failure() const;
  [[nodiscard]] bool has_failed() const { return failure().has_value(); }

  // XXH3-64 of each chunk of the data, once all blocks were written.
  [[nodiscard]] const std::vector<std::uint64_t>& digests() const { return digests_; }

  [[nodiscard]] std::size_t block_count() const;
  [[nodiscard]] std::uint64_t block_bytes() const { return block_bytes_; }
  [[nodiscard]] const std::shared_ptr<TargetFile>& file() const { return file_; }
  [[nodiscard]] const SaveCounters& counters() const { return counters_; }
  [[nodiscard]] std::uint64_t bytes_done() const { return counters_.bytes_done; }
  [[nodiscard]] std::uint64_t bytes_total() const { return data_.end - data_.begin; }
  [[nodiscard]] const std::string& engine() const {
    return engine_name_;
  }  // "uring", "pread", "none"
  [[nodiscard]] const std::string& engine_reason() const { return engine_reason_; }
  [[nodiscard]] std::size_t lanes() const { return lane_count_; }
  [[nodiscard]] std::vector<std::string> fallbacks() const;

 private:
  friend class SaveLane;

  SaveJob(std::shared_ptr<TargetFile> file, Sources sources, SaveOptions options);
  void bound_memory();
  void mark_streams();
  [[nodiscard]] std::shared_ptr<Region> make_snapshot() const;

  // For start_lanes.
  template <typename Job, typename OfJob>
  friend std::size_t start_lanes(const std::shared_ptr<Job>&, std::vector<std::unique_ptr<OfJob>>);
  void lane_joins();
  void run_lane(std::unique_ptr<SaveLane> lane);
  void run_alone(std::unique_ptr<SaveLane> lane);
  void lane_finished();

  // For lanes (saver_blocks.cc).
  struct Work {
    Extent block;
    bool again = false;  // it was written before, from memory that changes
  };
  [[nodiscard]] std::optional<Work> next_block();
  [[nodiscard]] bool writes() const { return leg_ != Leg::copied && leg_ != Leg::summed; }
  [[nodiscard]] bool stopping() const { return stopping_.load(std::memory_order_acquire); }
  [[nodiscard]] std::byte* memory_of(const Extent& block, std::uint64_t alignment) const;
  [[nodiscard]] bool gather(const Extent& block, std::byte* to, DeviceReads* reads);
  // Held while the caller's memory is looked at; not allowed once the job stops.
  class Look {
   public:
    explicit Look(SaveJob& job);
    Look(const Look&) = delete;
    Look& operator=(const Look&) = delete;
    ~Look();
    [[nodiscard]] bool allowed() const { return allowed_; }

   private:
    SaveJob& job_;
    bool allowed_ = false;
  };

  [[nodiscard]] bool take_checksums(const Extent& block, const std::byte* data);
  // Of a block that was written from the caller's memory: finds out whether that is what it was.
  void compare(const Extent& block, const std::byte* data);
  [[nodiscard]] std::shared_ptr<Region> take_staging();
  [[nodiscard]] std::shared_ptr<Region> take_pinned(std::uint64_t nbytes) const;
  void give_staging(std::shared_ptr<Region> staging);
  void written(const Extent& block, bool direct, bool again);
  void fail(Failure failure);
  void fail_without_memory(const std::bad_alloc& error);
  void note_fallback(const std::string& what);
  void stop();

  std::shared_ptr<TargetFile> file_;
  Sources sources_;
  SaveOptions options_;
  Extent data_;
  std::uint64_t block_bytes_ = 0;
  std::vector<std::unique_ptr<Event>> ready_;  // of each device
  std::vector<std::uint64_t> digests_;
  std::shared_ptr<Region> snapshot_;  // of all data; the sources are not looked at any more then
  Leg leg_ = Leg::direct;
  std::uint64_t alignment_ = 1;  // of the leg's writes
  std::string engine_name_ = "none";
  std::string engine_reason_;
  std::size_t lane_count_ = 0;

  std::atomic<bool> stopping_{false};
  std::atomic<std::size_t> next_block_{0};
  std::size_t last_block_ = 0;
  SaveCounters counters_;
  // The caller's memory was seen to change: nothing more is written from there.
  std::atomic<bool> memory_changes_{false};

  mutable std::mutex mutex_;  // guards what is below
  std::condition_variable changed_;
  std::size_t lanes_running_ = 0;
  std::size_t looking_ = 0;          // lanes that look at the caller's memory
  std::vector<Extent> from_memory_;  // blocks that were written from the caller's memory
  std::vector<Failure> failures_;
  Failure no_memory_;  // made ahead
  std::vector<std::string> fallbacks_;
  std::vector<std::shared_ptr<Region>> staging_;  // that no lane has
};

}  // namespace fastio
