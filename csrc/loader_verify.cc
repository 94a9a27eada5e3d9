#include "loader_verify.h"

#include <algorithm>
#include <utility>

#include "assertions.h"

namespace fastio {
namespace {

// Compares the chunk that begins at `begin`; `data` is its bytes.
std::optional<DamagedChunk> damage_at(LoadState& state, std::size_t shard, std::size_t replica,
                                      const Extent& extent, const std::byte* data) {
  const ChunkTable& table = *state.layout.shards[shard].table;
  FASTIO_ASSERT((extent.begin - table.grid.start) % table.grid.chunk_bytes == 0);
  const std::uint64_t chunk = (extent.begin - table.grid.start) / table.grid.chunk_bytes;
  const auto [is, expected, found] = table.compare(chunk, {data, extent.nbytes()});
  if (is == ComparedChunk::Is::damaged)
    return DamagedChunk{shard, replica, chunk, extent, expected, found};
  if (is == ComparedChunk::Is::trusted) ++state.counters.chunks_trusted;
  return std::nullopt;
}

enum class Compared : std::uint8_t { all, until_damage };

std::optional<std::vector<DamagedChunk>> compare(LoadState& state, std::size_t shard,
                                                 std::size_t replica, const Extent& span,
                                                 const std::byte* data, Compared compared) {
  std::vector<DamagedChunk> damaged;
  const ShardRequest& request = state.layout.shards[shard];
  if (!request.table) return damaged;
  const std::uint64_t chunk_bytes = request.table->grid.chunk_bytes;
  for (std::uint64_t begin = span.begin; begin < span.end; begin += chunk_bytes) {
    if (state.crew.stopping()) return std::nullopt;
    const Extent extent{begin, std::min(begin + chunk_bytes, span.end)};
    const auto damage = damage_at(state, shard, replica, extent, data + (begin - span.begin));
    if (!damage) continue;
    damaged.push_back(*damage);
    if (compared == Compared::until_damage) break;
  }
  return damaged;
}

}  // namespace

std::optional<std::vector<DamagedChunk>> damaged_chunks(LoadState& state, std::size_t shard,
                                                        std::size_t replica, const Extent& span,
                                                        const std::byte* data) {
  return compare(state, shard, replica, span, data, Compared::all);
}

Soundness verify(LoadState& state, const Assignment& work, const std::byte* data) {
  const auto& [shard, range] = work.block;
  const auto damaged =
      compare(state, shard, work.replica, range.extent(), data, Compared::until_damage);
  if (!damaged) return Soundness::unsound;
  if (!damaged->empty()) return fail_damaged(state, damaged->front());
  count_sound(state, work.block);
  return Soundness::sound;
}

Soundness fail_damaged(LoadState& state, const DamagedChunk& damage) {
  state.incidents.note(
      {damage.shard, damage.replica, damage.extent, {}, damage.expected, damage.found});
  state.fail(damage);
  return Soundness::unsound;
}

void count_sound(LoadState& state, const ShardBlock& block) {
  const auto& [shard, range] = block;
  if (const auto& table = state.layout.shards[shard].table) {
    // Chunks that the region before has read, too, were counted there.
    const std::uint64_t fresh_from =
        range.staged() ? 0 : state.layout.region({shard, range.region}).fresh_from;
    const std::uint64_t from = std::max(range.begin, std::min(fresh_from, range.end));
    const std::uint64_t chunk_bytes = table->grid.chunk_bytes;
    state.counters.chunks_sound += (range.end - from + chunk_bytes - 1) / chunk_bytes;
  }
  if (range.staged()) state.counters.bytes_done += range.nbytes();
}

void put(const LoadLayout& layout, const ShardBlock& block, const std::byte* data) {
  const ShardRequest& shard = layout.shards[block.shard];
  const Extent range = block.range.extent();
  each_part(shard.extents, range, [&](std::size_t index, std::uint64_t begin, std::uint64_t end) {
    if (shard.device_of(index) != kHost) return;
    shard.places[index].put(begin - shard.extents[index].begin,
                            {data + (begin - range.begin), end - begin});
  });
}

}  // namespace fastio
