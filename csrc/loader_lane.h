// A lane of a load: one thread with its own engine. It reads blocks, verifies them and places them.
//
// A lane whose disk hangs takes no more blocks, as its engine may be full of lost reads. A lane
// with a fresh engine succeeds it (loader_lanes.h), and the old one waits for its reads. It is made
// by one thread and then used by the one that runs it. It holds the state of the load.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "loader_blocks.h"
#include "loader_device.h"
#include "loader_mapped.h"
#include "loader_reader.h"
#include "loader_reads.h"
#include "loader_slot.h"
#include "loader_state.h"
#include "loader_times.h"
#include "requests.h"

namespace fastio {

class Lane {
 public:
  // `engine` may be null for a job whose blocks are all mapped.
  Lane(std::shared_ptr<LoadState> state, std::unique_ptr<Engine> engine, unsigned queue_depth);
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Waits for every read that is out: memory under a read must not be freed.
  ~Lane();

  void run();

  // On a thread that is the caller's, nobody waits for reads that are left at the end.
  void hedge_nothing() { hedges_ = false; }

  // One turn of run(): some milliseconds, unless a disk or a device keeps it. False when all is
  // done.
  [[nodiscard]] bool step();

  // After run().
  [[nodiscard]] const LaneTimes& times() const { return times_; }

  // Reads that are out and not waited for. If other reads of this lane are left, it was
  // interrupted.
  [[nodiscard]] std::size_t left() const { return reads_.left(); }
  [[nodiscard]] bool only_left() const { return awaits_none() && copied_.empty(); }
  // All that it may have, each with its staging.
  [[nodiscard]] std::size_t reads() const { return reads_.size(); }

  // Frees the memory that no such read is in.
  void free_unused() { reads_.free_unused(); }

 private:
  enum class Patience : std::uint8_t { none, until_one_lands };

  Handout::Kind top_up();
  void submit();
  void collect(std::chrono::milliseconds timeout);
  [[nodiscard]] bool awaits_none() const { return requests_.in_flight() == reads_.left(); }
  [[nodiscard]] bool has_staging();
  [[nodiscard]] bool has_reads() const;
  void make_memory(LaneRead& read);
  void take(Assignment work);
  void settle(const Completion& completion);
  void go_on(LaneRead& read, SlotReader::Next next);
  void place(Slot& slot);
  void settle_copies(Patience patience);
  void end(Slot& slot, Soundness soundness);
  void vacate(Slot& slot);
  void abandon_staging();

  [[nodiscard]] std::size_t disk_of(const LaneRead& read) const;

  // Of late reads (loader_lane_late.cc).
  [[nodiscard]] Vigil::Read judged(const LaneRead& read) const;
  void judge_reads();
  void lose(LaneRead& read);
  void hedge(Slot& slot);
  void take_back(LaneRead& read, std::int32_t result) noexcept;

  std::shared_ptr<LoadState> state_;
  BlockDesk desk_;
  Requests requests_;
  LaneTimes times_;
  std::chrono::milliseconds wait_;  // for completions, at most
  std::optional<Vigil> vigil_;      // none where disks are waited for without end
  SlotReader reader_;
  MappedBlocks mapped_;
  std::unique_ptr<DeviceCopies> copies_;  // none where no device is filled
  LaneReads reads_;
  std::vector<Slot> slots_;
  std::vector<Slot*> free_;
  std::vector<LaneRead*> arrived_;   // not yet verified
  std::vector<Slot*> copied_;        // on their way to devices, the first ones first
  std::vector<Vigil::Read> looked_;  // the reads that are out, when they are judged
  bool retired_ = false;             // has lost reads, and takes no more blocks
  bool starved_ = false;             // of pinned memory
  bool full_ = false;                // of reads: too many are left
  bool hedges_;
};

}  // namespace fastio
