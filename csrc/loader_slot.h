// A slot of a lane: a block on its way, and the reads that bring it.
//
// Slots belong to their lane and are used by its thread alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "loader_blocks.h"
#include "loader_device.h"
#include "loader_reads.h"
#include "loader_tries.h"
#include "slot_stage.h"

namespace fastio {

struct Slot {
  Assignment work;
  Tries tries;
  LaneRead* read = nullptr;   // that is waited for, or that brought the block
  LaneRead* hedge = nullptr;  // of the same bytes from another replica, as `read` is late
  ReplicaSet hedged = 0;      // that were asked for these bytes because another one was late
  DeviceCopies::Flight flight;
  SlotStage stage;

  // The other read of the same bytes, if there are two.
  [[nodiscard]] LaneRead* beside(const LaneRead& one) const { return &one == read ? hedge : read; }
  [[nodiscard]] std::size_t shard() const { return work.block.shard; }
  // Whether it has a block.
  [[nodiscard]] bool is_busy() const { return stage != Stage::idle; }
};

}  // namespace fastio
