// Disks that do not answer, and the reads that they do not bring back.
//
// A disk that answers nothing for a given time hangs: its reads are lost, and their blocks come
// from other replicas. A lost read may still write to its memory, at any time. So that memory is
// abandoned: a region gets other memory in its place and is read anew, staging stays with its read.
// Reads into the memory of callers cannot be abandoned: a job that may lose reads makes none
// (Landing in loader_layout.h).
//
// The functions may be called from any thread, without the crew's mutex.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "loader_blocks.h"
#include "loader_state.h"

namespace fastio {

// Null where disks are waited for without end.
[[nodiscard]] std::unique_ptr<Answers> watched_disks(const std::vector<ShardRequest>& shards,
                                                     const LoadOptions& options);

// A disk with lost reads of an earlier job is asked only for bytes that no other disk has.
void avoid_indebted(LoadState& state);

// Notes that the failed bytes could have come from these replicas, too.
void blame_hung(LoadState& state, std::size_t shard, const Extent& span);

// A read of `span` is waited for no longer. Its block is read anew, or the job fails.
void lose_read(LoadState& state, const Assignment& work, std::size_t replica, const Extent& span,
               Failure failure);

}  // namespace fastio
