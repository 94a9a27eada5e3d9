// A lane: one thread with its own engine that takes blocks all the way, read and verified; and, in
// a job that persists, read again where they are not sound (loader_retry.cc). One whose disk hangs
// gives its blocks back and ends, but for the reads that are out (loader_hang.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "loader.h"
#include "loader_device.h"
#include "loader_times.h"
#include "pinned.h"

namespace fastio {

// The size of a slot's own memory for a block of so many bytes: whole units of direct I/O.
[[nodiscard]] std::uint64_t staging_bytes(std::uint64_t block_bytes);

class Lane {
 public:
  // `engine` may be null for a job whose blocks are all mapped.
  Lane(std::shared_ptr<LoadJob> job, std::unique_ptr<Engine> engine, unsigned queue_depth);
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Waits for every read that is out: memory under a read must not be freed.
  ~Lane();

  void run();

  // One turn of run(): some milliseconds, unless a device keeps it. False when all is
  // done.
  [[nodiscard]] bool step();

  // After run().
  [[nodiscard]] const LaneTimes& times() const { return times_; }

  // Reads that are out and not waited for. If other reads of this lane are left, it was
  // interrupted.
  [[nodiscard]] std::size_t lost() const { return lost_; }
  [[nodiscard]] bool only_lost() const { return in_flight_ == lost_ && copied_.empty(); }
  [[nodiscard]] std::size_t slots() const { return slots_.size(); }

  // Frees the memory that no lost read is in.
  void keep_lost();

 private:
  // A read of a block, or of what of it is not sound yet. Sets of replicas have a bit for each.
  struct Try {
    Extent span;
    std::size_t replica = 0;
    bool again = false;            // the second read of this replica, past the page cache
    std::uint64_t damaged = 0;     // replicas of no use for this span
    std::uint64_t unreadable = 0;  // the same
  };

  // How bytes are read.
  struct Way {
    std::uint64_t unit = 1;  // of direct I/O, bytes; 1: through the page cache
    bool resident = false;   // they are in memory: reading them is a copy, done by this thread
  };

  // A block on its way; its index is the tag of its request.
  struct Slot {
    LoadJob::Assignment work;
    Try now;
    std::vector<Try> later;           // other unsound parts of the block
    std::vector<Incident> incidents;  // not remedied yet
    std::shared_ptr<Region> staging;
    std::optional<PinnedLease> pinned;  // its place, in a job with devices
    DeviceCopies::Flight flight;
    std::byte* data = nullptr;  // place of the block's first byte: in its region, or staging
    std::uint64_t at = 0;       // the next byte to read, file offset
    Way way;
    unsigned stalls = 0;      // answers in a row that brought nothing
    Vigil::Duration asked{};  // of the read that is out
    bool busy = false;
    bool out = false;      // a read of it is
    bool lost = false;     // and it is not waited for: the slot is of no use until it returns
    bool placing = false;  // counted by the job; copies of it may be out
    bool queued = false;   // all of them are
  };

  LoadJob::Turn top_up();
  [[nodiscard]] bool holds_copy() const;
  [[nodiscard]] bool take_mapped(const LoadJob::Assignment& work);
  [[nodiscard]] bool has_staging(Slot& slot);
  [[nodiscard]] std::byte* staging_of(Slot& slot);
  [[nodiscard]] File& file_of(const Slot& slot) const;
  [[nodiscard]] Way way_for(const Slot& slot) const;
  void submit();
  void start(std::uint32_t tag);
  void issue(std::uint32_t tag);
  void settle(std::uint32_t tag, std::int32_t result);
  void retry(std::uint32_t tag, int error);
  void finish(std::uint32_t tag);
  void give_up(std::uint32_t tag, Failure failure);
  void place(std::uint32_t tag);
  void settle_copies(bool wait);
  void leave(std::uint32_t tag, bool sound);

  // For jobs that persist.
  [[nodiscard]] bool examine(Slot& slot);
  [[nodiscard]] bool try_later(Slot& slot, const std::vector<DamagedChunk>& damaged);
  void start_later(std::uint32_t tag);
  [[nodiscard]] bool takes_direct(const Slot& slot, std::uint64_t unit) const;
  void go_without(std::uint32_t tag);
  void close_remedied(Slot& slot);
  void close_lost(Slot& slot, const Extent& extent);
  void close_all(Slot& slot) noexcept;

  // For disks that hang.
  void look_for_hangs();
  void lose(std::uint32_t tag);
  void take_back(Slot& slot) noexcept;
  [[nodiscard]] std::size_t disk_of(const Slot& slot) const {
    return job_->answers_->disk_of(slot.work.block.shard, slot.now.replica);
  }

  void park_staging();
  void drain();

  std::shared_ptr<LoadJob> job_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<DeviceCopies> copies_;  // none where no device is filled
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
  std::vector<std::uint32_t> arrived_;  // read, not yet verified
  std::vector<std::uint32_t> copied_;   // on their way to devices, the first ones first
  std::vector<IoRequest> to_submit_;
  std::vector<Completion> completions_;
  std::optional<Vigil> vigil_;
  std::vector<Vigil::Read> reads_;  // that are out, when it is looked
  std::size_t in_flight_ = 0;
  std::size_t lost_ = 0;  // of these
  bool retired_ = false;  // has lost reads, and takes no more blocks
  bool starved_ = false;  // of pinned memory
  LaneTimes times_;
};

// A lane that no thread waits for keeps its reads, and so their memory, for as long as the process
// lives.
void leave_behind(std::unique_ptr<Lane> lane);

}  // namespace fastio
