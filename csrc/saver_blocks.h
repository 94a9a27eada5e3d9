// The blocks of a save: handed to lanes, their bytes found or gathered, summed, and compared.
//
// Each lane has a desk of its own; all of them share the state of the save. Members may be called
// from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "plan.h"
#include "saver_device.h"
#include "saver_state.h"

namespace fastio {

// A block that a lane has to write.
struct SaveWork {
  // A block is rewritten that was written before, from memory that changes.
  enum class Kind : std::uint8_t { first, rewrite };

  Extent block;
  Kind kind = Kind::first;
};

// Held while the caller's memory is looked at; not allowed once the job stops.
class MemoryLook {
 public:
  explicit MemoryLook(SaveState& state);
  MemoryLook(const MemoryLook&) = delete;
  MemoryLook& operator=(const MemoryLook&) = delete;
  ~MemoryLook();
  [[nodiscard]] bool allowed() const { return allowed_; }

 private:
  SaveState& state_;
  bool allowed_ = false;
};

class SaveDesk {
 public:
  explicit SaveDesk(SaveState& state) : state_(state) {}

  [[nodiscard]] std::optional<SaveWork> next();

  // Where the bytes of a block lie if they can be written from there, else null.
  [[nodiscard]] std::byte* memory_of(const Extent& block, std::uint64_t alignment) const;
  // Copies a block's bytes together and takes its checksums on the way. `reads` may be null. False
  // where the job stops before all is done.
  [[nodiscard]] bool gather(const Extent& block, std::byte* to, DeviceReads* reads);
  [[nodiscard]] bool take_checksums(const Extent& block, const std::byte* data);
  // Of a block that was written from the caller's memory: finds out whether that is what it was.
  void compare(const Extent& block, const std::byte* data);

  // Memory for a block. Null where the job stops before there is room.
  [[nodiscard]] std::shared_ptr<Region> take_staging();
  // Used again in the next leg.
  void give_staging(std::shared_ptr<Region> staging);

  enum class Way : std::uint8_t { direct, buffered };
  void written(const SaveWork& work, Way way);

 private:
  [[nodiscard]] std::shared_ptr<Region> take_pinned(std::uint64_t nbytes) const;

  SaveState& state_;
};

}  // namespace fastio
