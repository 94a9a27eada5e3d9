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
#include "loader_slot.h"
#include "loader_state.h"
#include "loader_times.h"
#include "requests.h"

namespace fastio {

class SlotReader {
 public:
  // What a slot needs next.
  enum class Next : std::uint8_t {
    completion,    // a read of it is out
    verification,  // all of the read came
    sound,         // nothing but its place: the block is verified
    unsound,       // nothing: the job fails or stops
  };

  // `vigil` is that of the lane, where it looks at disks.
  SlotReader(LoadState& state, Requests& requests, LaneTimes& times,
             const std::optional<Vigil>& vigil)
      : state_(state), desk_(state), requests_(requests), times_(times), vigil_(vigil) {}

  // The slot has got its block, and memory for it.
  void start(Slot& slot, std::uint32_t tag);
  // A read came back with this result.
  [[nodiscard]] Next settle(Slot& slot, std::uint32_t tag, std::int32_t result);
  // Compares what came with its checksums.
  [[nodiscard]] Next verify(Slot& slot, std::uint32_t tag);

  // Notes all incidents of a slot that were not remedied. Without memory they are not told.
  void close_incidents(Slot& slot) noexcept;

  [[nodiscard]] const Replica& replica_of(const Slot& slot) const;

 private:
  // Of a replica that is one.
  [[nodiscard]] File& file_of(const Slot& slot) const;
  [[nodiscard]] Slot::Access access_for(const Slot& slot) const;
  [[nodiscard]] bool takes_direct(const Slot& slot, std::uint64_t unit_bytes) const;
  [[nodiscard]] int descriptor_of(const Slot& slot) const;
  void drop_cached(const Slot& slot) const;
  void read(Slot& slot, std::uint32_t tag);
  void issue(Slot& slot, std::uint32_t tag);
  [[nodiscard]] Next retry(Slot& slot, std::uint32_t tag, int error);
  [[nodiscard]] Next fail(Slot& slot, std::uint32_t tag, Failure failure);
  [[nodiscard]] Next go_without(Slot& slot, std::uint32_t tag);
  [[nodiscard]] bool examine(Slot& slot);
  [[nodiscard]] bool read_again(Slot& slot, std::span<const DamagedChunk> damaged);
  [[nodiscard]] Next next_try(Slot& slot, std::uint32_t tag);
  void note(std::vector<Incident> incidents);

  LoadState& state_;
  BlockDesk desk_;
  Requests& requests_;
  LaneTimes& times_;
  const std::optional<Vigil>& vigil_;
};

}  // namespace fastio
