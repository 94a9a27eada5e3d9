// Hedged reads: a read that is late is asked of another replica as well, and the first sound answer
// counts.
//
// A slot then has two reads out, each with staging of its own. Whichever brings damage or fails is
// that of a bad replica; the other one goes on. The one that is not needed is left: it keeps its
// staging until it returns, and its disk is not blamed. So no read of such a job goes anywhere but
// to staging (Landing in loader_layout.h).
//
// The functions may be called from any thread, without the crew's mutex.
#pragma once

#include <vector>

#include "loader_request.h"
#include "loader_slot.h"

namespace fastio {

// Whether some late read of a job could be asked of another disk.
[[nodiscard]] bool can_hedge(const std::vector<ShardRequest>& shards, const LoadOptions& options);

// Two reads were asked for the same bytes, and `bad` is of no use: the other one is the slot's.
void go_on_without(Slot& slot, LaneReads& reads, LaneRead& bad);

// `first` has brought the bytes: the other one of the slot is not needed. The rest of the block,
// which was read before, is copied to the memory of `first`.
void keep_first(Slot& slot, LaneReads& reads, LaneRead& first);

}  // namespace fastio
