#include "loader_mapped.h"

#include <algorithm>
#include <span>
#include <utility>

#include "loader_verify.h"
#include "populate.h"

namespace fastio {
namespace {

File& file_of(const LoadState& state, const Assignment& work) {
  return *state.layout.shards[work.block.shard].local_file();
}

Soundness fail(LoadState& state, const Assignment& work, Failure failure) {
  const auto& [shard, range] = work.block;
  state.incidents.note({shard, work.replica, range.extent(), failure});
  state.fail(shard, std::move(failure));
  return Soundness::unsound;
}

}  // namespace

Soundness bring_in(LoadState& state, const Assignment& work) {
  const auto& [shard, range] = work.block;
  if (state.layout.brings_in(shard)) state.ahead.come_to(state.layout, work.index, *work.region);
  auto failure = populate(file_of(state, work), *work.region, range.begin, range.end);
  BlockDesk(state).read_finished(shard, work.replica, range.nbytes(),
                                 failure ? ReadEnd::failed : ReadEnd::complete);
  if (failure) return fail(state, work, std::move(*failure));
  state.counters.bytes_mapped += range.nbytes();
  return Soundness::sound;
}

Soundness MappedBlocks::take(LoadState& state, const Assignment& work, LaneTimes& times) {
  const std::size_t shard = work.block.shard;
  const PlannedBlock& range = work.block.range;
  if (timed(times.read_wait, [&] { return bring_in(state, work); }) == Soundness::unsound)
    return Soundness::unsound;
  times.nbytes += range.nbytes();
  const Soundness soundness = timed(times.verify, [&] {
    const bool copied = state.layout.brings_in(shard) && state.layout.shards[shard].table;
    return copied ? verify_copied(state, work) : verify(state, work, work.region->at(range.begin));
  });
  if (soundness == Soundness::sound) ++times.blocks;
  return soundness;
}

Soundness MappedBlocks::verify_copied(LoadState& state, const Assignment& work) {
  const auto& [shard, range] = work.block;
  const std::uint64_t chunk_bytes = state.layout.shards[shard].table->grid.chunk_bytes;
  if (chunk_.size() < chunk_bytes) chunk_.resize(chunk_bytes);
  for (std::uint64_t begin = range.begin; begin < range.end; begin += chunk_bytes) {
    const Extent extent{begin, std::min(begin + chunk_bytes, range.end)};
    try {
      file_of(state, work).read(begin, std::span(chunk_).first(extent.nbytes()));
    } catch (const IoError& error) {
      return fail(state, work, error.failure());
    }
    const auto damaged = damaged_chunks(state, shard, work.replica, extent, chunk_.data());
    if (!damaged) return Soundness::unsound;
    if (!damaged->empty()) return fail_damaged(state, damaged->front());
  }
  count_sound(state, work.block);
  return Soundness::sound;
}

}  // namespace fastio
