#include "loader_lane.h"

#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>

namespace fastio {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kWait{20};  // how often a waiting lane looks whether it shall stop
constexpr unsigned kStallsAllowed =
    64;  // EAGAIN and reads that bring nothing, in a row, before it is an error

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
  to_submit_.reserve(queue_depth);
}

Lane::~Lane() {
  drain();
  for (std::uint32_t tag = 0; tag < slots_.size(); ++tag) {
    if (slots_[tag].busy) leave(tag, false);
  }
}

void Lane::run() {
  for (;;) {
    const LoadJob::Turn turn = top_up();
    if (in_flight_ == 0) {
      if (turn == LoadJob::Turn::over) return;
      job_->wait_for_room(kWait);
      continue;
    }
    const std::size_t taken = engine_->wait(completions_, kWait);
    if (taken == 0 && job_->stopping()) park_staging();
    in_flight_ -=
        taken;  // all at once: none is waited for again, should settling one of them throw
    for (std::size_t i = 0; i < taken; ++i) settle(completions_[i].tag, completions_[i].result);
    while (!arrived_.empty()) {
      top_up();  // the device works while this thread hashes
      const std::uint32_t tag = arrived_.back();
      arrived_.pop_back();
      finish(tag);
    }
  }
}

LoadJob::Turn Lane::top_up() {
  LoadJob::Turn turn = LoadJob::Turn::work;
  while (!free_.empty()) {
    LoadJob::Assignment work;
    turn = job_->next_block(work);
    if (turn != LoadJob::Turn::work) break;
    if (work.region && work.region->mapped()) {
      submit();  // the device works while this thread hashes
      job_->leave(work, job_->take_mapped(work.block, *work.region));
      continue;
    }
    const std::uint32_t tag = free_.back();
    free_.pop_back();
    Slot& slot = slots_[tag];
    slot.work = std::move(work);
    slot.busy = true;
    slot.at = slot.work.block.range.begin;
    slot.direct = reads_direct(slot.work);
    slot.stalls = 0;
    slot.data = slot.work.region ? slot.work.region->at(slot.at) : staging_of(slot);
    issue(tag);
  }
  submit();
  return turn;
}

// A slot's own memory for a block that is staged, used again and again: fresh memory is slow.
std::byte* Lane::staging_of(Slot& slot) {
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
  engine_->submit(to_submit_);
  to_submit_.clear();
}

bool Lane::reads_direct(const LoadJob::Assignment& work) const {
  const auto& range = work.block.range;
  switch (job_->access(work.block.shard).source) {
    case Source::direct:
      return true;
    case Source::by_block: {
      const std::uint64_t nbytes = range.end - range.begin;
      return job_->request(work.block.shard).file->resident_bytes(range.begin, nbytes).value_or(0) <
             nbytes;
    }
    case Source::mapped:
    case Source::buffered:
      break;
  }
  return false;
}

void Lane::issue(std::uint32_t tag) {
  const Slot& slot = slots_[tag];
  const LoadJob::Block& block = slot.work.block;
  const File& file = *job_->request(block.shard).file;
  std::uint64_t nbytes = block.range.end - slot.at;
  // The file may end inside its last unit of direct I/O; regions and staging have room for the
  // whole of it, and what goes straight to a place is whole units.
  if (slot.direct) nbytes = round_up(nbytes, job_->access(block.shard).alignment);
  to_submit_.push_back({slot.direct ? file.direct_fd() : file.buffered_fd(), slot.at,
                        slot.data + (slot.at - block.range.begin),
                        static_cast<std::uint32_t>(nbytes), tag});
  ++in_flight_;
}

void Lane::settle(std::uint32_t tag, std::int32_t result) {
  Slot& slot = slots_[tag];
  const LoadJob::Block& block = slot.work.block;
  File& file = *job_->request(block.shard).file;
  if (job_->stopping()) return leave(tag, false);
  if (result < 0) {
    const int error = -result;
    if (error == EINTR || error == EAGAIN) return retry(tag, error);
    if (error == EINVAL && slot.direct) {
      file.forbid_direct("a direct read was refused with EINVAL");
      job_->note_fallback(file.path() +
                          ": a direct read was refused with EINVAL, read through the page cache");
      slot.direct = false;
      return issue(tag);
    }
    return give_up(tag, Failure{error, "read", file.path(), slot.at, {}});
  }
  const std::uint64_t reached = slot.at + static_cast<std::uint32_t>(result);
  if (reached >= block.range.end) {
    arrived_.push_back(tag);
    return;
  }
  // Asked, because direct I/O never gets to the end of a file that shrank inside an alignment.
  if (result == 0 || file.current_nbytes() <= reached) {
    return give_up(tag, ended_early(file, reached, block.range.end));
  }
  const std::uint64_t unit = slot.direct ? job_->access(block.shard).alignment : 1;
  const std::uint64_t resume =
      reached / unit * unit;  // direct I/O goes on at the aligned offset below
  if (resume <= slot.at) return retry(tag, EIO);
  slot.at = resume;
  slot.stalls = 0;
  issue(tag);
}

void Lane::retry(std::uint32_t tag, int error) {
  Slot& slot = slots_[tag];
  if (++slot.stalls > kStallsAllowed) {
    return give_up(
        tag, Failure{error, "read", job_->request(slot.work.block.shard).file->path(), slot.at,
                     "no progress in " + std::to_string(kStallsAllowed) + " tries"});
  }
  if (slot.stalls > 4) std::this_thread::sleep_for(std::chrono::microseconds(100));
  issue(tag);
}

void Lane::finish(std::uint32_t tag) {
  Slot& slot = slots_[tag];
  const PlannedBlock& range = slot.work.block.range;
  LoadCounters& counters = job_->counters_;
  (slot.direct ? counters.bytes_direct : counters.bytes_buffered)
      .fetch_add(range.end - range.begin);
  const bool sound = job_->verify(slot.work.block, slot.data);
  if (sound && !slot.work.region) job_->place(slot.work.block, slot.data);
  leave(tag, sound);
}

void Lane::give_up(std::uint32_t tag, Failure failure) {
  job_->fail(slots_[tag].work.block.shard, std::move(failure));
  leave(tag, false);
}

void Lane::leave(std::uint32_t tag, bool sound) {
  Slot& slot = slots_[tag];
  job_->leave(slot.work, sound);
  slot.work = {};
  slot.busy = false;
  free_.push_back(tag);
}

void Lane::drain() {
  in_flight_ -=
      to_submit_.size();  // counted when they were queued here, but no engine has seen them
  to_submit_.clear();
  while (in_flight_ > 0) in_flight_ -= engine_->wait(completions_, kWait);
}

}  // namespace fastio
