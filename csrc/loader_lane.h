// A lane of a load: one thread with its own engine. It reads blocks, verifies them and places them.
//
// A lane whose disk hangs takes no more blocks, as its engine may be full of lost reads. A lane
// with a fresh engine succeeds it (loader_lanes.h), and the old one waits for its reads. It is made
// by one thread and then used by the one that runs it. It holds the state of the load.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "loader_blocks.h"
#include "loader_device.h"
#include "loader_mapped.h"
#include "loader_reader.h"
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

  // One turn of run(): some milliseconds, unless a disk or a device keeps it. False when all is
  // done.
  [[nodiscard]] bool step();

  // After run().
  [[nodiscard]] const LaneTimes& times() const { return times_; }

  // Reads that are out and not waited for. If other reads of this lane are left, it was
  // interrupted.
  [[nodiscard]] std::size_t lost() const { return lost_; }
  [[nodiscard]] bool only_lost() const { return requests_.in_flight() == lost_ && copied_.empty(); }
  [[nodiscard]] std::size_t slots() const { return slots_.size(); }

  // Frees the memory that no lost read is in.
  void free_unused();

 private:
  enum class Patience : std::uint8_t { none, until_one_lands };

  Handout::Kind top_up();
  void submit();
  [[nodiscard]] bool has_staging(Slot& slot);
  void take(Assignment work);
  void settle(std::uint32_t tag, std::int32_t result);
  void go_on(std::uint32_t tag, SlotReader::Next next);
  void place(std::uint32_t tag);
  void settle_copies(Patience patience);
  void end(std::uint32_t tag, Soundness soundness);
  void abandon_staging() const;

  // For disks that hang.
  void look_for_hangs();
  void lose(Slot& slot);
  void take_back(Slot& slot) noexcept;

  std::shared_ptr<LoadState> state_;
  BlockDesk desk_;
  Requests requests_;
  LaneTimes times_;
  std::optional<Vigil> vigil_;  // none where disks are waited for without end
  SlotReader reader_;
  MappedBlocks mapped_;
  std::unique_ptr<DeviceCopies> copies_;  // none where no device is filled
  std::vector<Slot> slots_;               // a slot's index is the tag of its requests
  std::vector<std::uint32_t> free_;
  std::vector<std::uint32_t> arrived_;  // read, not yet verified
  std::vector<std::uint32_t> copied_;   // on their way to devices, the first ones first
  std::vector<Vigil::Read> reads_;      // that are out, when it is looked
  std::size_t lost_ = 0;                // of the requests in flight
  bool retired_ = false;                // has lost reads, and takes no more blocks
  bool starved_ = false;                // of pinned memory
};

}  // namespace fastio
