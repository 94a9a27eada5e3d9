// A slot of a lane: a block on its way, and the memory that the slot has for blocks that are
// staged.
//
// Slots belong to their lane and are used by its thread alone.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "answers.h"
#include "loader_blocks.h"
#include "loader_device.h"
#include "loader_tries.h"
#include "memory.h"
#include "pinned.h"
#include "slot_stage.h"

namespace fastio {

// A slot's own memory, used again and again: fresh memory is slow. In a job with devices it is
// pinned, and leased for one block.
class SlotStaging {
 public:
  // False where another job holds all that may be pinned.
  [[nodiscard]] bool lease(const LoadOptions& options, std::uint64_t nbytes);
  // Memory for a block. Throws OutOfMemory.
  [[nodiscard]] std::byte* make(std::uint64_t nbytes, HugePages huge_pages);
  [[nodiscard]] const Region& memory() const { return *region_; }

  // A read still writes here, and nobody waits for it.
  void abandon() const;
  void release_lease() { lease_.reset(); }
  void release();

 private:
  std::shared_ptr<Region> region_;
  std::optional<PinnedLease> lease_;
};

struct Slot {
  // How bytes are read.
  struct Access {
    std::uint64_t unit_bytes = 1;  // of direct I/O; 1: through the page cache
    bool resident = false;         // reading them is a copy, done by this thread

    [[nodiscard]] bool is_direct() const { return unit_bytes != 1; }
  };

  Assignment work;
  Tries tries;
  SlotStaging staging;
  DeviceCopies::Flight flight;
  std::byte* data = nullptr;  // place of the block's first byte: in its region, or staging
  std::uint64_t at = 0;       // the next byte to read, file offset
  Access access;
  unsigned stalls = 0;      // answers in a row that brought nothing
  Vigil::Duration asked{};  // of the read that is out
  SlotStage stage;

  [[nodiscard]] std::size_t shard() const { return work.block.shard; }
  [[nodiscard]] std::byte* data_at(std::uint64_t offset) const {
    return data + (offset - work.block.range.begin);
  }
  // Whether it has a block that somebody waits for.
  [[nodiscard]] bool is_busy() const { return stage != Stage::idle && stage != Stage::lost; }
};

}  // namespace fastio
