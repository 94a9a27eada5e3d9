// Reads that do not return. A disk that answers nothing for a given time hangs: its
// reads are lost, and their blocks come from other replicas.
//
// A lost read may still write to its memory, at any time. So that memory is parked: a region gets
// other memory in its place and is read anew, staging stays with its slot. The lane takes no more
// blocks, as its engine may be full of lost reads; another one with a fresh engine succeeds it, and
// what is left of the lane waits for its reads. Reads into the memory of callers cannot be left
// behind: a job that may lose reads makes none (LoadJob::straight_extents).
#include <algorithm>
#include <cerrno>
#include <utility>

#include "lanes.h"
#include "loader.h"
#include "loader_lane.h"

namespace fastio {

// ---- the lane ----

void Lane::look_for_hangs() {
  reads_.clear();
  for (const Slot& slot : slots_) {
    if (!slot.out || slot.lost) continue;
    const std::size_t disk = disk_of(slot);
    reads_.push_back({disk, slot.asked, job_->has_other_disk(slot.work.block.shard, disk)});
  }
  if (!vigil_->look(reads_)) return;
  job_->avoid_hung();
  for (std::uint32_t tag = 0; tag < slots_.size(); ++tag) {
    const Slot& slot = slots_[tag];
    if (slot.out && !slot.lost && vigil_->found(disk_of(slot))) lose(tag);
  }
}

void Lane::lose(std::uint32_t tag) {
  Slot& slot = slots_[tag];
  retired_ = true;
  slot.lost = true;
  slot.busy = false;
  ++lost_;
  note_debt(job_->answers_->id_of(disk_of(slot)));
  if (slot.staging) slot.staging->park();
  slot.later.clear();
  for (Incident& incident : std::exchange(slot.incidents, {})) {
    incident.remedy = Incident::Remedy::read_again;  // with all of the block
    job_->note(std::move(incident));
  }
  job_->lose(slot.work, slot.now.replica, slot.now.span,
             {ETIMEDOUT, "read", file_of(slot).path(), slot.at,
              no_answer_for(*job_->options_.root_timeout)});
}

// Its read has returned, too late.
void Lane::take_back(Slot& slot) noexcept {
  note_answer(job_->answers_->id_of(disk_of(slot)));
  slot.lost = false;
  --lost_;
  slot.work = {};
  slot.staging.reset();
  slot.pinned.reset();
}

void Lane::keep_lost() {
  for (Slot& slot : slots_) {
    if (slot.lost) continue;
    slot.staging.reset();
    slot.pinned.reset();
  }
}

// ---- the job ----

std::vector<std::uint64_t> disks_of(const ShardRequest& shard) {
  std::vector<std::uint64_t> disks;
  for (const auto& replica : shard.replicas) disks.push_back(replica->mount().disk);
  return disks;
}

void LoadJob::watch_disks() {
  const auto on_roots = [](const ShardRequest& shard) { return shard.on_roots; };
  if (!options_.root_timeout || !std::ranges::all_of(shards_, on_roots)) return;
  std::vector<std::vector<std::uint64_t>> disks;
  for (const ShardRequest& shard : shards_) disks.push_back(disks_of(shard));
  answers_.emplace(disks);
}

// A disk with lost reads of an earlier job is asked only for bytes that no other disk has.
void LoadJob::avoid_indebted() {
  if (!answers_ || !options_.persistent) return;
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    const std::vector<Extent>& extents = shards_[i].extents;
    for (std::size_t replica = 0; replica < shards_[i].replicas.size() && !extents.empty();
         ++replica) {
      const File& file = *shards_[i].replicas[replica];
      if (!owes_answer(file.mount().disk)) continue;
      dispatch_->avoid(i, replica);
      if (!dispatch_->avoided(i, replica)) continue;
      const Extent all{extents.front().begin, extents.back().end};
      Incident met{i, replica, all, {}, 0, 0, Incident::Remedy::other_replica};
      met.failure = {ETIMEDOUT, "read", file.path(), all.begin, kOwesAnswer};
      note(std::move(met));
    }
  }
}

void LoadJob::avoid_hung() {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    const std::size_t replicas = shards_[i].replicas.size();
    bool left = false;  // a replica that is asked, and does not hang
    for (std::size_t replica = 0; replica < replicas; ++replica) {
      left = left || (!answers_->hangs(i, replica) && !dispatch_->avoided(i, replica));
    }
    for (std::size_t replica = 0; replica < replicas && !left; ++replica) {
      if (!answers_->hangs(i, replica)) dispatch_->admit(i, replica);  // better than one that hangs
    }
    for (std::size_t replica = 0; replica < replicas; ++replica) {
      if (answers_->hangs(i, replica)) dispatch_->avoid(i, replica);
    }
  }
}

// The failed bytes could have come from these replicas, too.
void LoadJob::blame_hung(std::size_t shard, const Extent& span) {
  if (!answers_ || !options_.persistent) return;
  for (std::size_t replica = 0; replica < shards_[shard].replicas.size(); ++replica) {
    if (!answers_->hangs(shard, replica)) continue;
    const std::string& path = shards_[shard].replicas[replica]->path();
    const Failure failure{ETIMEDOUT, "read", path, span.begin,
                          no_answer_for(*options_.root_timeout)};
    note({shard, replica, span, failure});
  }
}

bool LoadJob::has_other_disk(std::size_t shard, std::size_t disk) const {
  if (!options_.persistent) return false;
  for (std::size_t replica = 0; replica < shards_[shard].replicas.size(); ++replica) {
    if (answers_->disk_of(shard, replica) != disk && !answers_->hangs(shard, replica)) return true;
  }
  return false;
}

bool LoadJob::has_other_replica(std::size_t shard) const {
  if (!options_.persistent) return false;
  for (std::size_t replica = 0; replica < shards_[shard].replicas.size(); ++replica) {
    if (!answers_->hangs(shard, replica)) return true;
  }
  return false;
}

void LoadJob::lose(const Assignment& work, std::size_t replica, const Extent& span,
                   Failure failure) {
  const std::size_t shard = work.block.shard;
  if (work.region) work.region->park();
  read_finished(shard, replica, span.end - span.begin, true);
  if (stopping()) return;  // nobody wants the block
  const bool other = has_other_replica(shard);
  Incident met{shard, replica, span, failure};
  if (other) met.remedy = Incident::Remedy::other_replica;
  note(std::move(met));
  if (!other) {
    blame_hung(shard, span);
    return fail(shard, std::move(failure));
  }
  const std::lock_guard lock(mutex_);
  if (stopping()) return;
  read_anew(work);
  changed_.notify_all();
}

// Under the lock. All blocks of a region: those that are there already lie in its old memory.
void LoadJob::read_anew(const Assignment& work) {
  const auto& [shard, range] = work.block;
  if (range.region == kStaged) return dispatch_->put_back(work.index, work.index + 1);
  RegionState& state = states_[shard][range.region];
  if (work.version != state.version || state.let_go) return;
  const std::uint64_t held = parked_bytes();
  const auto& limit = options_.memory_limit_bytes;
  if (limit && !options_.window_bytes && (asked_bytes_ > *limit || held > *limit - asked_bytes_)) {
    exceeded_.emplace(asked_bytes_, *limit, held);
    return stop();
  }
  regions_[shard][range.region] = make_region(shard, range.region);
  ++state.version;
  const std::size_t blocks = state.last_block - state.first_block;
  unqueued_ += blocks - std::exchange(state.blocks_left, blocks);
  bytes_told_ = bytes_done();
  counters_.bytes_done -= std::exchange(state.bytes_done, 0);
  dispatch_->put_back(state.first_block, state.last_block);
}

std::optional<MemoryLimitExceeded> LoadJob::exceeded() const {
  const std::lock_guard lock(mutex_);
  return exceeded_;
}

// How many slots a lane may have that succeeds another one. Those that wait for lost reads keep
// their staging, which counts against the limit.
unsigned LoadJob::take_slots(const Lane& lane) {
  const std::lock_guard lock(mutex_);
  if (stopping() || dispatch_->over()) return 0;
  slots_ -= lane.slots() - lane.lost();
  std::size_t slots = options_.queue_depth;
  const bool pinned = !options_.devices.empty();
  const std::uint64_t limit =
      pinned ? options_.pinned_limit_bytes : options_.memory_limit_bytes.value_or(UINT64_MAX);
  if (fills() && staging_bytes_ != 0) {
    const std::uint64_t most = limit / staging_bytes_;
    slots = std::min<std::uint64_t>(slots, most > slots_ ? most - slots_ : 0);
  }
  if (slots == 0) {
    exceeded_.emplace(staging_bytes_, limit, lane.lost() * staging_bytes_);
    stop();
  }
  slots_ += slots;
  // As in start_lanes: what a lane tells at its end needs no memory.
  failures_.reserve(failures_.capacity() + 2);
  lane_times_.reserve(lane_times_.capacity() + 1);
  return static_cast<unsigned>(slots);
}

std::unique_ptr<Lane> LoadJob::successor_of(const Lane& lane) {
  try {
    const unsigned slots = take_slots(lane);
    if (slots == 0) return nullptr;
    EngineSet set = make_engines(options_.engine, 1, slots);
    return std::make_unique<Lane>(shared_from_this(), std::move(set.engines.front()), slots);
  } catch (const IoError& error) {
    fail(0, concerning(no_memory_.path, Failure::Kind::read, error).failure());
  } catch (const std::bad_alloc& error) {
    fail_without_memory(error);
  }
  return nullptr;
}

void LoadJob::succeed(const Lane& lane) {
  auto next = successor_of(lane);
  if (!next) return;
  try {
    std::vector<std::unique_ptr<Lane>> lanes;
    lanes.push_back(std::move(next));
    fastio::start_lanes(shared_from_this(), std::move(lanes));
  } catch (const std::bad_alloc& error) {
    fail_without_memory(error);
  }
}

}  // namespace fastio
