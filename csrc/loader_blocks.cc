#include "loader_blocks.h"

#include <cstring>
#include <utility>

#include "assertions.h"

namespace fastio {

Handout BlockDesk::next() {
  const MutexLock lock(state_.crew.mutex);
  if (state_.crew.stopping()) return {Handout::Kind::none_left};
  Dispatch& dispatch = state_.replicas.dispatch();
  while (dispatch.wants_more() && open_region()) {
  }
  const auto pick = dispatch.pick(Dispatch::Clock::now());
  if (!pick) return {dispatch.over() ? Handout::Kind::none_left : Handout::Kind::none_yet};
  const ShardBlock& block = state_.layout.blocks[pick->block];
  Handout handout{Handout::Kind::block, {pick->block, block, pick->replica, nullptr, 0}};
  if (!block.range.staged()) {
    if (state_.ledger.has_places()) state_.ledger.begin_placing();  // a read goes straight there
    const RegionId id{block.shard, block.range.region};
    handout.assignment.region = state_.regions.at(id);
    handout.assignment.version = state_.ledger.version(id);
    FASTIO_ASSERT(handout.assignment.region != nullptr);
  }
  return handout;
}

Assignment BlockDesk::assignment_of(std::size_t index) const {
  const ShardBlock& block = state_.layout.blocks[index];
  const RegionId id{block.shard, block.range.region};
  const MutexLock lock(state_.crew.mutex);
  return {index, block, 0, state_.regions.at(id), state_.ledger.version(id)};
}

bool BlockDesk::all_handed_out() {
  const MutexLock lock(state_.crew.mutex);
  return state_.replicas.dispatch().over() && !state_.crew.stopping();
}

// Opens the blocks of the next region, in the order of the files: a later one never takes the room
// that an earlier one needs. False where there is no room, or no next one.
bool BlockDesk::open_region() {
  Dispatch& dispatch = state_.replicas.dispatch();
  const std::size_t next = dispatch.opened();
  if (next == state_.layout.blocks.size()) return false;
  const auto& [shard, range] = state_.layout.blocks[next];
  if (range.staged()) {
    dispatch.open_until(next + 1);
    return true;
  }
  const RegionId id{shard, range.region};
  if (state_.window.stage(id) != Window::Stage::released) {
    if (!state_.window.admits(id)) return false;
    state_.regions.make(id);
    state_.window.open(id);
  }
  dispatch.open_until(state_.ledger.blocks_of(id).last);
  return true;
}

void BlockDesk::wait_for_room(std::chrono::milliseconds timeout) {
  MutexLock lock(state_.crew.mutex);
  static_cast<void>(
      state_.crew.changed.wait_until(lock, std::chrono::steady_clock::now() + timeout));
}

bool BlockDesk::begin_placing() {
  const MutexLock lock(state_.crew.mutex);
  if (state_.crew.stopping()) return false;
  state_.ledger.begin_placing();
  return true;
}

void BlockDesk::end_placing(const ShardBlock& block, Soundness soundness) {
  const MutexLock lock(state_.crew.mutex);
  if (soundness == Soundness::sound) state_.ledger.place(block);
  state_.ledger.end_placing();
  if (!state_.ledger.is_placing()) state_.crew.changed.notify_all();
}

void BlockDesk::queue(const StreamEnds& ends) {
  const MutexLock lock(state_.crew.mutex);
  state_.ends.record(ends);
  state_.ledger.queue();
  if (state_.ledger.all_queued()) state_.crew.changed.notify_all();
}

void BlockDesk::end(const Assignment& assignment, Soundness soundness, Queued queued) {
  const auto& [shard, range] = assignment.block;
  if (range.staged()) {
    if (queued == Queued::no) queue({});
    return;
  }
  FASTIO_ASSERT(queued == Queued::no);  // no read goes straight to a device
  const bool sound = soundness == Soundness::sound;
  if (state_.layout.fills && !sound && state_.layout.shards[shard].table) {
    // The caller's memory keeps no byte that was not verified.
    std::memset(assignment.region->at(range.begin), 0, range.nbytes());
  }
  const RegionId id{shard, range.region};
  const MutexLock lock(state_.crew.mutex);
  Ledger& ledger = state_.ledger;
  if (assignment.version != ledger.version(id)) return;  // it is read anew, to other memory
  ledger.end_block(assignment.block, soundness);
  if (sound) state_.counters.bytes_done += range.nbytes();
  if (ledger.is_whole(id) || ledger.all_queued() || ledger.has_places())
    state_.crew.changed.notify_all();
}

// With one disk there is nothing to choose, and so nothing to be told of its reads.
void BlockDesk::read_started(std::size_t shard, std::size_t replica, std::uint64_t nbytes) {
  if (!state_.several_disks) return;
  const MutexLock lock(state_.crew.mutex);
  state_.replicas.started(shard, replica, nbytes, Dispatch::Clock::now());
}

void BlockDesk::read_finished(std::size_t shard, std::size_t replica, std::uint64_t nbytes,
                              ReadEnd end) {
  if (end == ReadEnd::complete && !state_.several_disks) return;
  const MutexLock lock(state_.crew.mutex);
  state_.replicas.finished(shard, replica, nbytes, end, Dispatch::Clock::now());
}

std::optional<std::size_t> BlockDesk::next_replica(std::size_t shard, ReplicaSet tried) const {
  if (!state_.options.persistent) return std::nullopt;
  const MutexLock lock(state_.crew.mutex);
  return state_.replicas.next(shard, tried, state_.answers.get());
}

std::optional<std::size_t> BlockDesk::hedge_replica(std::size_t shard, std::size_t asked,
                                                    ReplicaSet tried) const {
  FASTIO_ASSERT(state_.answers != nullptr);
  const MutexLock lock(state_.crew.mutex);
  return state_.replicas.beside(shard, asked, tried, *state_.answers);
}

void BlockDesk::avoid_hung() {
  FASTIO_ASSERT(state_.answers != nullptr);
  const MutexLock lock(state_.crew.mutex);
  state_.replicas.avoid_hung(*state_.answers);
}

void BlockDesk::read_anew(const Assignment& work) {
  const MutexLock lock(state_.crew.mutex);
  if (state_.crew.stopping()) return;
  const auto& [shard, range] = work.block;
  Dispatch& dispatch = state_.replicas.dispatch();
  const RegionId id{shard, range.region};
  const bool released = !range.staged() && state_.window.stage(id) == Window::Stage::released;
  if (state_.layout.stages(range)) {
    if (!released) dispatch.put_back(work.index, work.index + 1);
    return state_.crew.changed.notify_all();
  }
  if (work.version != state_.ledger.version(id) || released) return;
  if (exceeds_limit()) return state_.crew.stop();
  state_.regions.make(id);
  LoadCounters& counters = state_.counters;
  counters.bytes_told = counters.progress();
  counters.bytes_done -= state_.ledger.restart(id);
  const Ledger::BlockRange blocks = state_.ledger.blocks_of(id);
  dispatch.put_back(blocks.first, blocks.last);
  state_.crew.changed.notify_all();
}

// Whether the limit leaves no memory for what has to be read anew. The outcome is told then.
bool BlockDesk::exceeds_limit() {
  const auto& limit = state_.options.memory_limit_bytes;
  if (!limit || state_.options.window_bytes) return false;
  const std::uint64_t asked = state_.layout.memory_bytes;
  const std::uint64_t held = abandoned_bytes();
  if (asked <= *limit && held <= *limit - asked) return false;
  state_.outcome.fail(MemoryLimitExceeded(asked, *limit, held));
  return true;
}

}  // namespace fastio
