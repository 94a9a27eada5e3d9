// Tries that failed. Where a job is asked to persist, what is damaged is read once
// more from the same replica, past the page cache, and then from the others; what cannot be read
// comes from the others at once. Sound parts of a block are not read again.
#include <algorithm>
#include <cstdint>
#include <new>
#include <tuple>
#include <utility>
#include <vector>

#include "loader.h"
#include "loader_lane.h"

namespace fastio {
namespace {

constexpr unsigned kFailedReadsMost =
    3;  // of a replica; then it is asked when no other one is left
// Kept for who asks for them. Those that touch each other are joined where there are more than the
// first number.
constexpr std::size_t kIncidentsJoined = 1000;
constexpr std::size_t kIncidentsMost = 16'000;

std::uint64_t bit(std::size_t replica) { return std::uint64_t{1} << replica; }

bool overlap(const Extent& a, const Extent& b) { return a.begin < b.end && b.begin < a.end; }

// The common part of incidents that may be told as one.
auto kind_of(const Incident& incident) {
  const int error = incident.failure ? incident.failure->error : 0;
  return std::tuple(incident.shard, incident.replica, incident.remedy, error);
}

// A replica that is damaged from end to end is one incident then.
void join_touching(std::vector<Incident>& incidents) {
  std::stable_sort(incidents.begin(), incidents.end(), [](const Incident& a, const Incident& b) {
    return std::tuple(kind_of(a), a.extent.begin) < std::tuple(kind_of(b), b.extent.begin);
  });
  std::size_t kept = 0;
  for (std::size_t i = 1; i < incidents.size(); ++i) {
    Incident& last = incidents[kept];
    if (kind_of(last) == kind_of(incidents[i]) && incidents[i].extent.begin <= last.extent.end) {
      last.extent.end = std::max(last.extent.end, incidents[i].extent.end);
    } else if (++kept != i) {
      incidents[kept] = std::move(incidents[i]);
    }
  }
  incidents.resize(std::min(kept + 1, incidents.size()));
}

}  // namespace

// ---- the lane ----

// A read failed: another replica is asked for the same bytes, or the job fails.
void Lane::give_up(std::uint32_t tag, Failure failure) {
  Slot& slot = slots_[tag];
  Try& now = slot.now;
  const std::size_t shard = slot.work.block.shard;
  const std::uint64_t nbytes = now.span.end - now.span.begin;
  job_->read_finished(shard, now.replica, nbytes, true);
  slot.incidents.push_back({shard, now.replica, now.span, failure});
  now.unreadable |= bit(now.replica);
  if (const auto replica = job_->next_replica(shard, now.damaged | now.unreadable)) {
    now.replica = *replica;
    now.again = false;
    job_->read_started(shard, now.replica, nbytes);
    return start(tag);
  }
  if (job_->options_.surveys) return go_without(tag);
  close_all(slot);
  job_->blame_hung(shard, now.span);
  job_->fail(shard, std::move(failure));
  leave(tag, false);
}

// Of a survey: no replica of a span could be read. Its chunks are tried one by one, which tells how
// much of it is lost; a single chunk is given up.
void Lane::go_without(std::uint32_t tag) {
  Slot& slot = slots_[tag];
  const Extent span = slot.now.span;
  const auto& table = job_->request(slot.work.block.shard).table;
  const std::uint64_t step = table ? table->grid.chunk_bytes : span.end - span.begin;
  if (span.end - span.begin > step) {
    slot.incidents.pop_back();  // the one of the whole span
    const std::uint64_t count = (span.end - span.begin + step - 1) / step;
    for (std::uint64_t i = count; i > 0; --i) {  // the first one is taken first
      const std::uint64_t begin = span.begin + (i - 1) * step;
      slot.later.push_back({{begin, std::min(begin + step, span.end)}, slot.work.replica});
    }
  } else {
    close_lost(slot, span);
  }
  if (!slot.later.empty()) return start_later(tag);
  job_->count_sound(slot.work.block);
  leave(tag, true);
}

// Compares what came; what is damaged of it is to be read later. False where the job stops, or no
// replica is left.
bool Lane::examine(Slot& slot) {
  const LoadJob::Block& block = slot.work.block;
  const auto& [begin, end] = slot.now.span;
  std::vector<DamagedChunk> damaged;
  if (const auto& table = job_->request(block.shard).table) {
    for (std::uint64_t at = begin; at < end; at += table->grid.chunk_bytes) {
      if (job_->stopping()) return false;
      const auto damage =
          job_->damage_at(block, slot.now.replica, at, slot.data + (at - block.range.begin));
      if (damage) damaged.push_back(*damage);
    }
  }
  for (const DamagedChunk& chunk : damaged) {
    slot.incidents.push_back(
        {chunk.shard, chunk.replica, chunk.extent, {}, chunk.expected, chunk.found});
  }
  if (!damaged.empty() && !try_later(slot, damaged)) return false;
  close_remedied(slot);
  return true;
}

// Damaged chunks that follow each other are read together.
bool Lane::try_later(Slot& slot, const std::vector<DamagedChunk>& damaged) {
  Try next = slot.now;
  next.again = !slot.now.again;
  if (slot.now.again) next.damaged |= bit(next.replica);
  std::vector<Extent> spans;
  for (const DamagedChunk& chunk : damaged) {
    if (!spans.empty() && spans.back().end == chunk.extent.begin) {
      spans.back().end = chunk.extent.end;
    } else {
      spans.push_back(chunk.extent);
    }
  }
  // A replica that could not read all of it may still have these parts.
  if (spans.front() != slot.now.span) next.unreadable = 0;
  if (!next.again) {
    const auto replica = job_->next_replica(slot.work.block.shard, next.damaged | next.unreadable);
    if (!replica && job_->options_.surveys) {
      for (const DamagedChunk& chunk : damaged) close_lost(slot, chunk.extent);
      return true;
    }
    if (!replica) {
      close_all(slot);
      job_->blame_hung(slot.work.block.shard, damaged.front().extent);
      job_->fail(damaged.front());
      return false;
    }
    next.replica = *replica;
  }
  for (std::size_t i = spans.size(); i > 0; --i) {  // the first one is taken first
    next.span = spans[i - 1];
    slot.later.push_back(next);
  }
  return true;
}

void Lane::start_later(std::uint32_t tag) {
  Slot& slot = slots_[tag];
  slot.now = slot.later.back();
  slot.later.pop_back();
  const Extent& span = slot.now.span;
  job_->read_started(slot.work.block.shard, slot.now.replica, span.end - span.begin);
  start(tag);
}

// Whether direct I/O can put a span where it belongs, also where its file is not read so otherwise:
// at an aligned address, and with room for whole units.
bool Lane::takes_direct(const Slot& slot, std::uint64_t unit) const {
  const Extent& span = slot.now.span;
  const Region& memory = slot.work.region ? *slot.work.region : *slot.staging;
  const std::byte* data = slot.data + (span.begin - slot.work.block.range.begin);
  const std::byte* end = memory.at(memory.file_offset()) + memory.nbytes();
  const std::uint64_t nbytes = (span.end - span.begin + unit - 1) / unit * unit;
  return span.begin % unit == 0 &&
         reinterpret_cast<std::uintptr_t>(data) % std::min<std::uint64_t>(unit, page_bytes()) ==
             0 &&
         nbytes <= static_cast<std::uint64_t>(end - data);
}

// This read may have filled the last gap left by an earlier failure.
void Lane::close_remedied(Slot& slot) {
  std::vector<Incident>& open = slot.incidents;
  if (open.empty()) return;
  const auto is_remedied = [&](const Incident& incident) {
    return std::none_of(slot.later.begin(), slot.later.end(),
                        [&](const Try& later) { return overlap(later.span, incident.extent); });
  };
  for (Incident& incident : open) {
    if (!is_remedied(incident)) continue;
    incident.remedied_by = slot.now.replica;
    incident.remedy = incident.replica == slot.now.replica ? Incident::Remedy::read_again
                                                           : Incident::Remedy::other_replica;
    job_->note(incident);
  }
  std::erase_if(open, is_remedied);
}

// Of a survey: nothing helped for these bytes, and the job goes on.
void Lane::close_lost(Slot& slot, const Extent& extent) {
  const auto is_lost = [&](const Incident& incident) { return overlap(incident.extent, extent); };
  for (Incident& incident : slot.incidents) {
    if (is_lost(incident)) job_->note(incident);
  }
  std::erase_if(slot.incidents, is_lost);
}

// Nothing helped.
void Lane::close_all(Slot& slot) noexcept {
  for (Incident& incident : slot.incidents) {
    try {
      job_->note(std::move(incident));
    } catch (const std::bad_alloc&) {  // without memory nobody is told: the job fails for that
    }
  }
  slot.incidents.clear();
}

// ---- the job ----

void LoadJob::read_started(std::size_t shard, std::size_t replica, std::uint64_t nbytes) {
  if (!dispatch_->chooses()) return;
  const std::lock_guard lock(mutex_);
  dispatch_->started(shard, replica, nbytes, Dispatch::Clock::now());
}

void LoadJob::read_finished(std::size_t shard, std::size_t replica, std::uint64_t nbytes,
                            bool failed) {
  if (!failed && !dispatch_->chooses()) return;
  const std::lock_guard lock(mutex_);
  if (dispatch_->chooses()) {
    dispatch_->finished(shard, replica, nbytes, failed ? 0 : nbytes, Dispatch::Clock::now());
  }
  if (failed && ++failed_reads_[shard][replica] == kFailedReadsMost)
    dispatch_->avoid(shard, replica);
}

std::optional<std::size_t> LoadJob::next_replica(std::size_t shard, std::uint64_t tried) const {
  if (!options_.persistent) return std::nullopt;
  const std::lock_guard lock(mutex_);
  std::optional<std::size_t> last;
  for (std::size_t replica = shards_[shard].replicas.size(); replica-- > 0;) {
    if ((tried & bit(replica)) != 0 || (answers_ && answers_->hangs(shard, replica))) continue;
    const auto failed = [&](std::size_t c) { return failed_reads_[shard][c] >= kFailedReadsMost; };
    if (!last || !failed(replica) || failed(*last)) last = replica;
  }
  return last;
}

void LoadJob::note(Incident incident) {
  const std::lock_guard lock(mutex_);
  if (incidents_.size() >= incidents_joined_at_) {
    join_touching(incidents_);
    // Scattered ones are not gone through again and again.
    incidents_joined_at_ = std::max(kIncidentsJoined, 2 * incidents_.size());
  }
  if (incidents_.size() < kIncidentsMost) {
    incidents_.push_back(std::move(incident));
  } else {
    ++incidents_dropped_;
  }
}

std::vector<Incident> LoadJob::take_incidents() {
  const std::lock_guard lock(mutex_);
  return std::exchange(incidents_, {});
}

std::uint64_t LoadJob::incidents_dropped() const {
  const std::lock_guard lock(mutex_);
  return incidents_dropped_;
}

}  // namespace fastio
