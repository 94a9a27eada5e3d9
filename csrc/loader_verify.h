// Bytes of a block that have come: compared with their checksums, and put to places.
//
// The functions may be called from any thread, without the crew's mutex.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "loader_blocks.h"
#include "loader_state.h"

namespace fastio {

// The chunks of `span`, a part of a block of whole chunks, that differ from their checksums. `data`
// is its first byte. Nothing if the job stops before all are compared.
[[nodiscard]] std::optional<std::vector<DamagedChunk>> damaged_chunks(LoadState& state,
                                                                      std::size_t shard,
                                                                      std::size_t replica,
                                                                      const Extent& span,
                                                                      const std::byte* data);

// Compares a block, up to the first chunk that is damaged, which ends the job.
[[nodiscard]] Soundness verify(LoadState& state, const Assignment& work, const std::byte* data);

// A damaged chunk ends the job.
Soundness fail_damaged(LoadState& state, const DamagedChunk& damage);

// A block is verified; one that is staged counts as done.
void count_sound(LoadState& state, const ShardBlock& block);

// Puts a staged block's bytes to the places on the host that they belong to.
void put(const LoadLayout& layout, const ShardBlock& block, const std::byte* data);

}  // namespace fastio
