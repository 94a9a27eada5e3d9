#include "loader_lane.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>

namespace fastio {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kWait{20};     // how often a waiting lane looks whether it shall stop
constexpr milliseconds kCopyWait{1};  // the same, for one whose staging comes back soon
// EAGAIN and reads that bring nothing, in a row, before it is an error.
constexpr unsigned kStallsAllowed = 64;

std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

std::uint64_t staging_bytes(std::uint64_t block_bytes) {
  constexpr std::uint64_t kUnit = std::uint64_t{64} << 10;
  return round_up(block_bytes, kUnit);
}

Lane::Lane(std::shared_ptr<LoadJob> job, std::unique_ptr<Engine> engine, unsigned queue_depth)
    : job_(std::move(job)),
      engine_(std::move(engine)),
      slots_(queue_depth),
      completions_(queue_depth) {
  for (std::uint32_t tag = queue_depth; tag > 0; --tag) free_.push_back(tag - 1);
  arrived_.reserve(queue_depth);
  copied_.reserve(queue_depth);
  to_submit_.reserve(queue_depth);
  const LoadOptions& options = job_->options_;
  if (!options.devices.empty()) copies_ = std::make_unique<DeviceCopies>(options, job_->ready_);
  if (job_->answers_) {
    vigil_.emplace(*job_->answers_, *options.root_timeout);
    reads_.reserve(queue_depth);
  }
}

Lane::~Lane() {
  drain();
  // Only if copies are out: the streams may be waiting for the caller's.
  const bool placing = std::any_of(slots_.begin(), slots_.end(), [](auto& s) { return s.placing; });
  if (copies_ && placing) copies_->drain();
  for (std::uint32_t tag = 0; tag < slots_.size(); ++tag) {
    if (slots_[tag].lost) take_back(slots_[tag]);
    if (slots_[tag].busy) leave(tag, false);
  }
}

void Lane::run() {
  while (step()) {
  }
}

bool Lane::step() {
  const StopWatch whole(times_.total);
  const LoadJob::Turn turn = top_up();
  if (in_flight_ == lost_) {
    if (!copied_.empty()) {
      settle_copies(true);
    } else if (turn == LoadJob::Turn::over) {
      return false;
    } else if (starved_) {
      timed(times_.room_wait, [] { PinnedLease::wait_for_room(kWait); });
    } else {
      timed(times_.room_wait, [&] { job_->wait_for_room(kWait); });
    }
    return true;
  }
  const std::size_t taken = timed(times_.read_wait, [&] {
    return engine_->wait(completions_, copied_.empty() ? kWait : kCopyWait);
  });
  if (taken == 0 && job_->stopping()) park_staging();
  // All at once: none is waited for again, should settling one of them throw.
  in_flight_ -= taken;
  for (std::size_t i = 0; i < taken; ++i) settle(completions_[i].tag, completions_[i].result);
  while (!arrived_.empty()) {
    top_up();  // the device works while this thread hashes
    const std::uint32_t tag = arrived_.back();
    arrived_.pop_back();
    finish(tag);
  }
  settle_copies(false);
  if (vigil_ && vigil_->pass(Vigil::Clock::now())) look_for_hangs();
  return true;
}

LoadJob::Turn Lane::top_up() {
  LoadJob::Turn turn = LoadJob::Turn::work;
  starved_ = false;
  if (retired_) {
    submit();
    return LoadJob::Turn::over;
  }
  while (!free_.empty() && !holds_copy()) {
    if (!has_staging(slots_[free_.back()])) {
      starved_ = true;
      const bool over = job_->stopping() || job_->all_handed_out();
      turn = over ? LoadJob::Turn::over : LoadJob::Turn::later;
      break;
    }
    LoadJob::Assignment work;
    turn = job_->next_block(work);
    if (turn != LoadJob::Turn::work) {
      slots_[free_.back()].pinned.reset();
      break;
    }
    if (work.region && work.region->mapped()) {
      submit();  // the device works while this thread hashes
      job_->leave(work, take_mapped(work));
      continue;
    }
    const std::uint32_t tag = free_.back();
    free_.pop_back();
    Slot& slot = slots_[tag];
    slot.work = std::move(work);
    slot.busy = true;
    const PlannedBlock& range = slot.work.block.range;
    slot.now = {{range.begin, range.end}, slot.work.replica};
    slot.data = slot.work.region ? slot.work.region->at(range.begin) : staging_of(slot);
    start(tag);
  }
  submit();
  return turn;
}

// Whether a block that was in memory was copied, and is not verified yet. No other is taken before:
// two of them gain nothing, and what was copied is to be verified while this core's caches have it.
bool Lane::holds_copy() const {
  return std::ranges::any_of(slots_, [](const Slot& slot) {
    return slot.busy && slot.way.resident && !slot.queued && !slot.lost;
  });
}

bool Lane::take_mapped(const LoadJob::Assignment& work) {
  if (!timed(times_.read_wait, [&] { return job_->bring_in(work); })) return false;
  const PlannedBlock& range = work.block.range;
  times_.nbytes += range.end - range.begin;
  const StopWatch watch(times_.verify);
  if (!job_->verify(work, work.region->at(range.begin))) return false;
  ++times_.blocks;
  return true;
}

// Before a block is taken: another job may hold all that may be pinned.
bool Lane::has_staging(Slot& slot) {
  if (!copies_ || slot.pinned || job_->staging_bytes_ == 0) return true;
  const LoadOptions& options = job_->options_;
  const StopWatch watch(times_.room_wait);
  slot.pinned = PinnedLease::take(*options.devices.front().device, job_->staging_bytes_,
                                  options.pinned_limit_bytes);
  return slot.pinned.has_value();
}

// A slot's own memory for a block that is staged, used again and again: fresh memory is slow.
std::byte* Lane::staging_of(Slot& slot) {
  if (slot.pinned) {
    slot.staging = Region::borrow(slot.pinned->data(), 0, slot.pinned->nbytes());
    return slot.staging->at(0);
  }
  const auto& range = slot.work.block.range;
  const std::size_t nbytes = staging_bytes(range.end - range.begin);
  if (!slot.staging || slot.staging->nbytes() < nbytes) {
    slot.staging.reset();
    slot.staging = Region::allocate(0, nbytes, job_->huge_pages());
    slot.staging->keep_from_children(true);
  }
  return slot.staging->at(0);
}

// Regions are parked by who cancels; what is staged only this lane knows.
void Lane::park_staging() {
  for (const Slot& slot : slots_) {
    if (slot.busy && slot.staging) slot.staging->park();
  }
}

void Lane::submit() {
  if (to_submit_.empty()) return;
  timed(times_.submit, [&] { engine_->submit(to_submit_); });
  to_submit_.clear();
}

File& Lane::file_of(const Slot& slot) const {
  return *job_->request(slot.work.block.shard).replicas[slot.now.replica];
}

// How a slot's next read is done.
Lane::Way Lane::way_for(const Slot& slot) const {
  const std::size_t shard = slot.work.block.shard;
  const std::size_t replica = slot.now.replica;
  if (slot.now.again) {
    const DirectAccess direct = direct_for(job_->request(shard), replica);
    return {direct.possible && takes_direct(slot, direct.alignment) ? direct.alignment : 1};
  }
  const ShardAccess& access = job_->access(shard, replica);
  switch (access.mode) {
    case ReadMode::direct:
      return {access.alignment};
    case ReadMode::by_block: {
      const std::uint64_t begin = slot.now.span.begin;
      const std::uint64_t nbytes = slot.now.span.end - begin;
      const std::uint64_t resident = file_of(slot).resident_bytes(begin, nbytes).value_or(0);
      return resident < nbytes ? Way{access.alignment} : Way{1, true};
    }
    case ReadMode::mapped:
    case ReadMode::buffered:
      break;
  }
  return {1, access.resident && !job_->options_.surveys};
}

void Lane::start(std::uint32_t tag) {
  Slot& slot = slots_[tag];
  slot.at = slot.now.span.begin;
  slot.stalls = 0;
  slot.way = way_for(slot);
  const bool past_cache = slot.now.again || job_->options_.surveys;
  if (past_cache && slot.way.unit == 1) file_of(slot).drop_cached(slot.at, slot.now.span.end);
  issue(tag);
}

void Lane::issue(std::uint32_t tag) {
  Slot& slot = slots_[tag];
  const File& file = file_of(slot);
  // The file may end inside its last unit of direct I/O; regions and staging have room for the
  // whole of it, and what goes straight to a place is whole units.
  const std::uint64_t nbytes = round_up(slot.now.span.end - slot.at, slot.way.unit);
  to_submit_.push_back({slot.way.unit != 1 ? file.direct_fd() : file.buffered_fd(), slot.at,
                        slot.data + (slot.at - slot.work.block.range.begin),
                        static_cast<std::uint32_t>(nbytes), tag});
  ++in_flight_;
  slot.out = true;
  if (vigil_) slot.asked = vigil_->time();
}

void Lane::settle(std::uint32_t tag, std::int32_t result) {
  Slot& slot = slots_[tag];
  slot.out = false;
  if (vigil_) job_->answers_->came(disk_of(slot));
  if (slot.lost) return take_back(slot);
  const auto& [begin, end] = slot.now.span;
  File& file = file_of(slot);
  if (job_->stopping()) return leave(tag, false);
  if (result < 0) {
    const int error = -result;
    if (error == EINTR || error == EAGAIN) return retry(tag, error);
    if (error == EINVAL && slot.way.unit != 1) {
      file.forbid_direct("a direct read was refused with EINVAL");
      job_->note_fallback(file.path() +
                          ": a direct read was refused with EINVAL, read through the page cache");
      slot.way.unit = 1;
      if (slot.now.again || job_->options_.surveys) file.drop_cached(slot.at, end);
      return issue(tag);
    }
    return give_up(tag, Failure{error, "read", file.path(), slot.at, {}});
  }
  const std::uint64_t reached = slot.at + static_cast<std::uint32_t>(result);
  if (reached >= end) {
    job_->read_finished(slot.work.block.shard, slot.now.replica, end - begin, false);
    arrived_.push_back(tag);
    return;
  }
  // Asked, because direct I/O never gets to the end of a file that shrank inside an alignment.
  if (result == 0 || file.current_nbytes() <= reached) {
    return give_up(tag, ended_early(file, reached, end));
  }
  // Direct I/O goes on at the aligned offset below.
  const std::uint64_t resume = reached / slot.way.unit * slot.way.unit;
  if (resume <= slot.at) return retry(tag, EIO);
  slot.at = resume;
  slot.stalls = 0;
  issue(tag);
}

void Lane::retry(std::uint32_t tag, int error) {
  Slot& slot = slots_[tag];
  if (++slot.stalls > kStallsAllowed) {
    return give_up(tag, Failure{error, "read", file_of(slot).path(), slot.at,
                                "no progress in " + std::to_string(kStallsAllowed) + " tries"});
  }
  if (slot.stalls > 4) std::this_thread::sleep_for(std::chrono::microseconds(100));
  issue(tag);
}

void Lane::finish(std::uint32_t tag) {
  Slot& slot = slots_[tag];
  LoadCounters& counters = job_->counters_;
  const std::uint64_t nbytes = slot.now.span.end - slot.now.span.begin;
  (slot.way.unit != 1 ? counters.bytes_direct : counters.bytes_buffered).fetch_add(nbytes);
  times_.nbytes += nbytes;
  const bool persistent = job_->options_.persistent;
  const bool sound = timed(times_.verify, [&] {
    return persistent ? examine(slot) : job_->verify(slot.work, slot.data);
  });
  if (sound && !slot.later.empty()) return start_later(tag);
  if (sound && persistent) job_->count_sound(slot.work.block);
  if (sound && !slot.work.region && !job_->options_.surveys) return place(tag);
  leave(tag, sound);
}

// Puts a block that was staged where it belongs. A copy to a device runs while the lane goes on;
// the slot is free when it ends.
void Lane::place(std::uint32_t tag) {
  Slot& slot = slots_[tag];
  const LoadJob::Block& block = slot.work.block;
  if (!job_->begin_placing()) return leave(tag, false);
  slot.placing = true;
  timed(times_.place, [&] { job_->put(block, slot.data); });
  if (copies_) {
    auto refused = timed(times_.copy_queue, [&] {
      return copies_->start(job_->request(block.shard), {block.range.begin, block.range.end},
                            slot.data, slot.flight);
    });
    if (refused) {
      job_->fail(block.shard, std::move(*refused));
      return leave(tag, false);
    }
    if (!slot.flight.devices.empty()) {
      job_->queued(copies_->ends(slot.flight));
      slot.queued = true;
      return copied_.push_back(tag);
    }
  }
  leave(tag, true);
}

// Frees the slots whose copies are done. With `wait`, those of at least one.
void Lane::settle_copies(bool wait) {
  while (!copied_.empty()) {
    const std::uint32_t tag = copied_.front();
    Slot& slot = slots_[tag];
    bool landed = false;
    auto refused = timed(times_.copy_wait, [&] {
      return copies_->ask(slot.flight, std::exchange(wait, false), landed);
    });
    if (!landed) return;
    copied_.erase(copied_.begin());
    // Once told is enough: a lost device refuses whatever else is on its way as well.
    if (refused && !job_->stopping()) job_->fail(slot.work.block.shard, std::move(*refused));
    leave(tag, !refused);
  }
}

void Lane::leave(std::uint32_t tag, bool sound) {
  Slot& slot = slots_[tag];
  close_all(slot);
  if (sound) ++times_.blocks;
  if (std::exchange(slot.placing, false)) job_->end_placing(slot.work.block, sound);
  job_->leave(slot.work, sound, std::exchange(slot.queued, false));
  slot.work = {};
  slot.pinned.reset();
  slot.later.clear();
  slot.busy = false;
  free_.push_back(tag);
}

void Lane::drain() {
  // They were counted when they were queued here, but no engine has seen them.
  in_flight_ -= to_submit_.size();
  to_submit_.clear();
  while (in_flight_ > 0) {
    const std::size_t taken = engine_->wait(completions_, kWait);
    in_flight_ -= taken;
    for (std::size_t i = 0; i < taken; ++i) {
      if (Slot& slot = slots_[completions_[i].tag]; slot.lost) take_back(slot);
    }
  }
}

}  // namespace fastio
