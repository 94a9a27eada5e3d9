// Reads the blocks of one lane. A short read is resumed; in a job that persists, a failed or
// damaged one is repeated, and then sent to another replica.
//
// Used by the lane's thread alone; the state and the requests outlive it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "loader_blocks.h"
#include "loader_reads.h"
#include "loader_slot.h"
#include "loader_state.h"
#include "loader_times.h"
#include "requests.h"

namespace fastio {

class SlotReader {
 public:
  // The next need of a slot.
  enum class Next : std::uint8_t {
    completion,    // a read of it is out
    verification,  // all of the read came
    sound,         // nothing but its place: the block is verified
    unsound,       // nothing: the job fails or stops
  };

  // `vigil` is that of the lane, where it looks at disks.
  SlotReader(LoadState& state, Requests& requests, LaneReads& reads, LaneTimes& times,
             const std::optional<Vigil>& vigil)
      : state_(state),
        desk_(state),
        requests_(requests),
        reads_(reads),
        times_(times),
        vigil_(vigil) {}

  // The slot has got its block, and a read with memory for it.
  void start(Slot& slot);
  // Its read is late: `second`, which has memory, asks another replica for the same bytes.
  void hedge(Slot& slot, LaneRead& second, std::size_t replica);
  // A request of one of its reads came back with this result.
  [[nodiscard]] Next settle(Slot& slot, LaneRead& read, std::int32_t result);
  // Compares what one of its reads brought with its checksums.
  [[nodiscard]] Next verify(Slot& slot, LaneRead& read);

  // Notes all incidents of a slot that were not remedied. Without memory they are not told.
  void close_incidents(Slot& slot) noexcept;

  [[nodiscard]] const Replica& replica_of(const LaneRead& read) const;

 private:
  // Of a replica that is one.
  [[nodiscard]] File& file_of(const LaneRead& read) const;
  [[nodiscard]] ReadAccess access_for(const LaneRead& read) const;
  [[nodiscard]] bool past_cache(const LaneRead& read) const;
  [[nodiscard]] int descriptor_of(const LaneRead& read) const;
  void drop_cached(const LaneRead& read) const;
  void read(Slot& slot);
  void begin(Slot& slot, LaneRead& read);
  void issue(Slot& slot, LaneRead& read);
  [[nodiscard]] Next retry(Slot& slot, LaneRead& read, int error);
  [[nodiscard]] Next fail(Slot& slot, LaneRead& read, Failure failure);
  [[nodiscard]] Next go_without(Slot& slot);
  [[nodiscard]] bool read_again(Slot& slot, std::span<const DamagedChunk> damaged);
  [[nodiscard]] Next next_try(Slot& slot);
  void note(std::vector<Incident> incidents);

  LoadState& state_;
  BlockDesk desk_;
  Requests& requests_;
  LaneReads& reads_;
  LaneTimes& times_;
  const std::optional<Vigil>& vigil_;
};

}  // namespace fastio
