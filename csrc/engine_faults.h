// The seam at the completion queue of engines, where tests put what disks do once in a million
// requests. Builds without FASTIO_TESTING have none of it, wheels among them.
//
// Members may be called from any thread. Faults are of a process: a child made by fork has none.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine.h"

namespace fastio {

enum class FaultKind {
  error,    // the result is -value; what was read is overwritten, what was written is gone
  refuse,   // the same for each direct request from here on, and for no other
  cut,      // the result is at most `value` bytes; what lies behind is overwritten, or gone
  zero,     // the result is 0: the end of the file
  flip,     // a bit of byte `value` is flipped, the result stays; reads only
  change,   // a bit of byte `value` of the memory changes before the disk reads it; writes only
  waver,    // the same, and it changes back before the completion comes
  late,     // comes `value` milliseconds late
  reorder,  // comes after the next completion of its engine
  never,    // is held until release_held_completions()
  kill,     // the process is killed
};

struct Fault {
  // The completion it applies to, counted over all engines since the faults were set.
  std::uint64_t at = 0;
  FaultKind kind = FaultKind::error;
  std::int64_t value = 0;
};

// Applies to engines that are made from now on, in this process. Empty: none. For tests.
void set_completion_faults(std::vector<Fault> faults);
void release_held_completions();
[[nodiscard]] std::uint64_t held_completions();  // how many wait for that
[[nodiscard]] bool completion_faults_set();
[[nodiscard]] std::unique_ptr<Engine> with_completion_faults(std::unique_ptr<Engine> engine,
                                                             unsigned queue_depth);

}  // namespace fastio
