// A window: the bound on the regions of a load that are open, that is made and not yet released.
//
// Pure: no memory is made here, and no lock is taken. Whoever owns a window guards it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "plan.h"

namespace fastio {

class Window {
 public:
  // Where a region is on its way to its consumer:
  //
  //   closed ──open──► open ──take──► taken ──release──► released
  //      │               └──────────release──────────────►
  //      ├──take──► taken       a region of no blocks is never opened
  //      └──release──► released  nobody wants it
  enum class Stage : std::uint8_t { closed, open, taken, released };

  // Without a limit no region is opened or released, and none is bounded.
  Window(std::optional<std::uint64_t> limit_bytes,
         const std::vector<std::vector<PlannedRegion>>& regions);

  [[nodiscard]] Stage stage(RegionId id) const { return at(id).stage; }

  // Whether there is room for one more region. One region alone always fits.
  [[nodiscard]] bool admits(RegionId id) const;

  void open(RegionId id);
  void take(RegionId id);
  // True when this made room.
  bool release(RegionId id);

  [[nodiscard]] std::uint64_t open_bytes() const { return open_bytes_; }

 private:
  struct Entry {
    std::uint64_t nbytes = 0;
    Stage stage = Stage::closed;
    bool counted = false;  // in open_bytes_
  };

  [[nodiscard]] const Entry& at(RegionId id) const { return entries_.at(id.shard).at(id.region); }
  [[nodiscard]] Entry& at(RegionId id) { return entries_.at(id.shard).at(id.region); }

  std::optional<std::uint64_t> limit_bytes_;
  std::vector<std::vector<Entry>> entries_;  // by shard
  std::uint64_t open_bytes_ = 0;
};

}  // namespace fastio
