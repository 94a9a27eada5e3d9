// Blocks of mapped files: brought in, and verified.
//
// A block that was in the page cache is verified where it lies. A block that was brought in is
// verified in a copy of each chunk, in memory that stays in the caches of the core. If the file is
// truncated meanwhile, the read of the chunk is short. A look at the mapping would be a SIGBUS.
#pragma once

#include <cstddef>
#include <vector>

#include "loader_blocks.h"
#include "loader_state.h"
#include "loader_times.h"

namespace fastio {

// Brings the bytes of a mapped block in, unsound where they cannot be read, which ends the job.
// They are not yet verified. May be called from any thread.
[[nodiscard]] Soundness bring_in(LoadState& state, const Assignment& work);

// Of one lane, for its thread alone.
class MappedBlocks {
 public:
  // Brings a block in, and verifies it; unsound ends the job.
  [[nodiscard]] Soundness take(LoadState& state, const Assignment& work, LaneTimes& times);

 private:
  [[nodiscard]] Soundness verify_copied(LoadState& state, const Assignment& work);

  std::vector<std::byte> chunk_;
};

}  // namespace fastio
