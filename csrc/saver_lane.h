// A lane of a save: one thread with its own engine. It gathers blocks, sums them and writes them.
//
// It is made by one thread and then used by the one that runs it. It holds the state of the save.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "requests.h"
#include "saver_blocks.h"
#include "saver_device.h"
#include "saver_state.h"

namespace fastio {

class SaveLane {
 public:
  // `engine` may be null for a leg that writes nothing.
  SaveLane(std::shared_ptr<SaveState> state, std::unique_ptr<Engine> engine, unsigned queue_depth);
  SaveLane(const SaveLane&) = delete;
  SaveLane& operator=(const SaveLane&) = delete;

  // Waits for every write that is out: memory that a disk reads must not be freed.
  ~SaveLane();

  void run();

 private:
  // A block on its way; its index is the tag of its request.
  struct Slot {
    SaveWork work;
    std::shared_ptr<Region> staging;
    std::byte* data = nullptr;  // the block's first byte
    std::uint64_t at = 0;       // the next byte to write, file offset
    bool busy = false;
    bool direct = false;
    bool from_memory = false;  // the caller's
    unsigned stalls = 0;       // answers in a row of nothing written
  };

  // Blocks written from the caller's memory, which is hashed again.
  struct Written {
    Extent block;
    const std::byte* data = nullptr;
  };

  void copy_blocks();
  void sum_blocks();
  void top_up();
  [[nodiscard]] std::size_t compared_most() const;
  bool prepare(Slot& slot);
  [[nodiscard]] std::byte* staging_of(Slot& slot);
  [[nodiscard]] std::uint64_t unit(const Slot& slot) const;
  void issue(std::uint32_t tag);
  void settle(std::uint32_t tag, std::int32_t result);
  void retry(std::uint32_t tag, int error);
  void finish(std::uint32_t tag);
  void compare_one();
  void end(std::uint32_t tag);
  void abandon_staging();

  std::shared_ptr<SaveState> state_;
  SaveDesk desk_;
  Requests requests_;
  std::unique_ptr<DeviceReads> reads_;  // none where nothing lies on a device
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
  std::vector<Written> written_;
  std::size_t compared_in_flight_ = 0;  // of blocks that lie in the caller's memory
};

}  // namespace fastio
