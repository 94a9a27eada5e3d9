// What a job does with its blocks: hands them to lanes within the window, verifies them, puts them
// to their places, and keeps the account of what is whole.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "checksum.h"
#include "loader.h"

namespace fastio {

LoadJob::Turn LoadJob::next_block(Assignment& assignment) {
  const std::lock_guard lock(mutex_);
  if (stopping()) return Turn::over;
  while (dispatch_->wants_more() && open_region()) {
  }
  const auto pick = dispatch_->pick(Dispatch::Clock::now());
  if (!pick) return dispatch_->over() ? Turn::over : Turn::later;
  const Block& block = blocks_[pick->block];
  const bool staged = block.range.region == kStaged;
  if (fills() && !staged) ++placing_;  // a read that goes straight there
  assignment = {pick->block, block, pick->replica, nullptr, 0};
  if (!staged) {
    assignment.region = regions_[block.shard][block.range.region];
    assignment.version = states_[block.shard][block.range.region].version;
  }
  return Turn::work;
}

bool LoadJob::all_handed_out() {
  const std::lock_guard lock(mutex_);
  return dispatch_->over() && !stopping();
}

// Opens the blocks of the next region, in the order of the files: a later one never takes the room
// that an earlier one needs. False where there is no room, or no next one.
bool LoadJob::open_region() {
  const std::size_t next = dispatch_->opened();
  if (next == blocks_.size()) return false;
  const auto& [shard, range] = blocks_[next];
  if (range.region == kStaged) {
    dispatch_->open_until(next + 1);
    return true;
  }
  RegionState& state = states_[shard][range.region];
  if (!state.let_go) {
    const PlannedRegion& planned = plans_[shard].regions[range.region];
    const std::uint64_t nbytes = planned.end - planned.begin;
    if (window_used_ != 0 && window_used_ + nbytes > *options_.window_bytes) return false;
    regions_[shard][range.region] = make_region(shard, range.region);
    state.counted = true;
    window_used_ += nbytes;
  }
  dispatch_->open_until(state.last_block);
  return true;
}

void LoadJob::wait_for_room(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout);
}

bool LoadJob::bring_in(const Assignment& work) {
  const auto& [shard, range] = work.block;
  const std::uint64_t nbytes = range.end - range.begin;
  auto failure = populate(*shards_[shard].replicas.front(), *work.region, range.begin, range.end);
  read_finished(shard, work.replica, nbytes, failure.has_value());
  if (failure) {
    note({shard, work.replica, {range.begin, range.end}, failure});
    fail(shard, std::move(*failure));
    return false;
  }
  counters_.bytes_mapped += nbytes;
  return true;
}

// False where a chunk is damaged, which ends the job, or the job stops before all are compared.
bool LoadJob::verify(const Assignment& work, const std::byte* data) {
  const auto& [shard, range] = work.block;
  if (const auto& table = shards_[shard].table) {
    for (std::uint64_t begin = range.begin; begin < range.end; begin += table->grid.chunk_bytes) {
      if (stopping()) return false;
      const auto damage = damage_at(work.block, work.replica, begin, data + (begin - range.begin));
      if (!damage) continue;
      note({shard, work.replica, damage->extent, {}, damage->expected, damage->found});
      fail(*damage);
      return false;
    }
  }
  count_sound(work.block);
  return true;
}

// Compares the chunk of a block that begins at `begin`; `data` is its bytes.
std::optional<DamagedChunk> LoadJob::damage_at(const Block& block, std::size_t replica,
                                               std::uint64_t begin, const std::byte* data) const {
  const ChunkTable& table = *shards_[block.shard].table;
  const std::uint64_t end = std::min(begin + table.grid.chunk_bytes, block.range.end);
  const std::uint64_t chunk = (begin - table.grid.start) / table.grid.chunk_bytes;
  const std::uint64_t found = xxh3_64({data, end - begin});
  if (found == table.digests[chunk]) return std::nullopt;
  return DamagedChunk{block.shard, replica, chunk, {begin, end}, table.digests[chunk], found};
}

void LoadJob::count_sound(const Block& block) {
  const PlannedBlock& range = block.range;
  if (const auto& table = shards_[block.shard].table) {
    const bool staged = range.region == kStaged;
    const std::uint64_t fresh_from =
        staged ? 0 : plans_[block.shard].regions[range.region].fresh_from;
    const std::uint64_t from = std::max(range.begin, std::min(fresh_from, range.end));
    const std::uint64_t chunk_bytes = table->grid.chunk_bytes;
    counters_.chunks_verified += (range.end - from + chunk_bytes - 1) / chunk_bytes;
  }
  if (range.region == kStaged) counters_.bytes_done += range.end - range.begin;
}

bool LoadJob::begin_placing() {
  const std::lock_guard lock(mutex_);
  if (stopping()) return false;
  ++placing_;
  return true;
}

void LoadJob::end_placing(const Block& block, bool placed) {
  const std::lock_guard lock(mutex_);
  if (placed) count_placed(block);
  if (--placing_ == 0) changed_.notify_all();
}

// Puts a staged block's bytes to the places on the host that they belong to.
void LoadJob::put(const Block& block, const std::byte* data) const {
  const ShardRequest& shard = shards_[block.shard];
  each_part(shard.extents, {block.range.begin, block.range.end},
            [&](std::size_t index, std::uint64_t begin, std::uint64_t end) {
              if (shard.device_of(index) != kHost) return;
              shard.places[index].put(begin - shard.extents[index].begin,
                                      {data + (begin - block.range.begin), end - begin});
            });
}

void LoadJob::queued(const std::vector<std::pair<const Stream*, std::shared_ptr<Event>>>& ends) {
  const std::lock_guard lock(mutex_);
  for (const auto& [stream, end] : ends) ends_[stream] = end;
  if (--unqueued_ == 0) changed_.notify_all();
}

void LoadJob::leave(const Assignment& assignment, bool sound, bool was_queued) {
  const Block& block = assignment.block;
  if (block.range.region == kStaged) {
    if (!was_queued) queued({});
    return;
  }
  if (fills() && !sound && shards_[block.shard].table) {
    // The caller's memory keeps no byte that was not verified.
    std::memset(assignment.region->at(block.range.begin), 0, block.range.end - block.range.begin);
  }
  const std::lock_guard lock(mutex_);
  RegionState& state = states_[block.shard][block.range.region];
  if (assignment.version != state.version) return;  // it is read anew, to other memory
  --unqueued_;
  if (fills()) {
    if (sound) count_placed(block);
    --placing_;
  }
  if (sound) {
    const std::uint64_t nbytes = block.range.end - block.range.begin;
    --state.blocks_left;
    state.bytes_done += nbytes;
    counters_.bytes_done += nbytes;
  }
  if (state.blocks_left == 0 || unqueued_ == 0 || fills()) changed_.notify_all();
}

void LoadJob::count_placed(const Block& block) {
  each_part(shards_[block.shard].extents, {block.range.begin, block.range.end},
            [&](std::size_t index, std::uint64_t begin, std::uint64_t end) {
              places_left_[block.shard][index] -= end - begin;
            });
}

// ---- region by region ----

bool LoadJob::wait_for_region(std::size_t shard, std::size_t region,
                              std::chrono::milliseconds timeout) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  if (works_alone_.load(std::memory_order_acquire)) work_alone(shard, region, until);
  std::unique_lock lock(mutex_);
  const RegionState& state = states_.at(shard).at(region);
  return changed_.wait_until(lock, until,
                             [&] { return state.blocks_left == 0 || state.let_go || stopping(); });
}

std::shared_ptr<Region> LoadJob::take_region(std::size_t shard, std::size_t region) {
  const std::lock_guard lock(mutex_);
  RegionState& state = states_.at(shard).at(region);
  if (state.blocks_left != 0 || state.taken || state.let_go || regions_.empty()) return nullptr;
  state.taken = true;
  if (access(shard).mode == ReadMode::mapped) {
    // Mapped once more for its consumer: what he writes is not seen by those who verify the chunks
    // that two regions share.
    const PlannedRegion& planned = plans_[shard].regions[region];
    regions_[shard][region].reset();
    return Region::map(*shards_[shard].replicas.front(), planned.begin,
                       std::min(planned.end, shards_[shard].nbytes()));
  }
  finish_region(shard, region);
  return std::move(regions_[shard][region]);
}

void LoadJob::let_go(std::size_t shard, std::size_t region) {
  const std::lock_guard lock(mutex_);
  RegionState& state = states_.at(shard).at(region);
  if (std::exchange(state.let_go, true)) return;
  if (!regions_.empty()) regions_[shard][region].reset();
  dispatch_->skip(state.first_block, state.last_block);
  if (!state.counted) return;
  const PlannedRegion& planned = plans_[shard].regions[region];
  window_used_ -= planned.end - planned.begin;
  changed_.notify_all();
}

// ---- when it ends ----

void LoadJob::fail(std::size_t shard, Failure failure) {
  const std::lock_guard lock(mutex_);
  failures_.emplace_back(shard, std::move(failure));
  stop();
}

void LoadJob::fail(const DamagedChunk& damage) {
  const std::lock_guard lock(mutex_);
  damages_.push_back(damage);
  stop();
}

// Needs none itself. Names the first file: which one has to do without is not known.
void LoadJob::fail_without_memory(const std::bad_alloc& error) {
  const std::lock_guard lock(mutex_);
  no_memory_.asked_bytes = asked_of(error);
  failures_.emplace_back(0, std::exchange(no_memory_, {ENOMEM, "allocate", {}, {}, {}}));
  stop();
}

void LoadJob::stop() {
  stopping_.store(true, std::memory_order_release);
  changed_.notify_all();
}

}  // namespace fastio
