#include "saver_lane.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

namespace fastio {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kWait{20};        // how often a waiting lane looks whether it shall stop
constexpr unsigned kStallsAllowed = 64;  // EAGAIN and writes of nothing, in a row

}  // namespace

SaveLane::SaveLane(std::shared_ptr<SaveJob> job, std::unique_ptr<Engine> engine,
                   unsigned queue_depth)
    : job_(std::move(job)),
      engine_(std::move(engine)),
      slots_(queue_depth),
      completions_(queue_depth) {
  for (std::uint32_t tag = queue_depth; tag > 0; --tag) free_.push_back(tag - 1);
  to_submit_.reserve(queue_depth);
  written_.reserve(2 * std::size_t{queue_depth});  // one wait may bring as many as are out
  const auto& devices = job_->options_.devices;
  if (!devices.empty()) reads_ = std::make_unique<DeviceReads>(devices, job_->ready_);
}

SaveLane::~SaveLane() {
  drain();
  for (Slot& slot : slots_) {
    if (slot.staging) job_->give_staging(std::move(slot.staging));
  }
}

void SaveLane::run() {
  if (job_->leg_ == Leg::copied) return copy_blocks();
  if (job_->leg_ == Leg::summed) return sum_blocks();
  for (;;) {
    top_up();
    if (in_flight_ == 0 && written_.empty()) return;
    // The device comes first; in between, what it has written is compared.
    const std::size_t taken =
        in_flight_ == 0 ? 0
                        : engine_->wait(completions_, written_.empty() ? kWait : milliseconds{});
    if (taken == 0 && job_->stopping()) park();
    in_flight_ -= taken;  // all at once, as none is waited for again
    for (std::size_t i = 0; i < taken; ++i) settle(completions_[i].tag, completions_[i].result);
    if (taken == 0 || written_.size() >= slots_.size()) compare_one();
  }
}

void SaveLane::copy_blocks() {
  while (const auto work = job_->next_block()) {
    const Extent& block = work->block;
    std::byte* const to = job_->snapshot_->at(block.begin);
    if (!reads_) {
      if (!job_->gather(block, to, nullptr)) return;
      continue;
    }
    // A copy has no pinned memory of the size of a model: each block passes through what has.
    std::byte* const staged = staging_of(slots_.front());
    if (staged == nullptr || !job_->gather(block, staged, reads_.get())) return;
    std::memcpy(to, staged, block.end - block.begin);
  }
}

void SaveLane::sum_blocks() {
  Slot& slot = slots_.front();
  while (const auto work = job_->next_block()) {
    slot.block = work->block;
    if (!prepare(slot)) return;
  }
}

void SaveLane::top_up() {
  submit();
  while (!free_.empty() && compared_in_flight_ < compared_most()) {
    const auto work = job_->next_block();
    if (!work) return;
    const std::uint32_t tag = free_.back();
    Slot& slot = slots_[tag];
    slot.block = work->block;
    slot.again = work->again;
    slot.direct = job_->leg_ == Leg::direct;
    if (!prepare(slot)) return;
    free_.pop_back();
    slot.busy = true;
    if (slot.from_memory) ++compared_in_flight_;
    issue(tag);
    submit();  // the device works while this thread gathers the next one
  }
}

// How many writes may be out whose memory is compared afterwards. Through the page cache of a local
// mount they are few: the kernel copies into a file with one thread at a time (the inode's lock).
// Memory that it copied a moment ago is also still in a processor's cache.
std::size_t SaveLane::compared_most() const {
  if (job_->leg_ != Leg::buffered || !job_->file()->mount().local) return slots_.size();
  return job_->options_.lanes > 1 ? 1 : 2;
}

// False where the job stops.
bool SaveLane::prepare(Slot& slot) {
  slot.at = slot.block.begin;
  slot.stalls = 0;
  slot.data = job_->memory_of(slot.block, unit(slot));
  slot.from_memory = slot.data != nullptr && !job_->snapshot_ && job_->options_.chunk_bytes != 0;
  if (slot.data != nullptr) return job_->take_checksums(slot.block, slot.data);
  slot.data = staging_of(slot);
  if (slot.data == nullptr || !job_->gather(slot.block, slot.data, reads_.get())) return false;
  // The last write goes past the end of the data, to a whole unit; the file is cut to its length
  // afterwards.
  const std::uint64_t nbytes = slot.block.end - slot.block.begin;
  const std::uint64_t behind = (unit(slot) - nbytes % unit(slot)) % unit(slot);
  std::memset(slot.data + nbytes, 0, behind);
  return true;
}

// A slot's own memory, null where the job stops before it comes, used again and again: fresh memory
// is slow.
std::byte* SaveLane::staging_of(Slot& slot) {
  if (!slot.staging) slot.staging = job_->take_staging();
  return slot.staging ? slot.staging->at(0) : nullptr;
}

std::uint64_t SaveLane::unit(const Slot& slot) const { return slot.direct ? job_->alignment_ : 1; }

void SaveLane::issue(std::uint32_t tag) {
  const Slot& slot = slots_[tag];
  const std::uint64_t nbytes = slot.block.end - slot.at;
  const std::uint64_t whole = (nbytes + unit(slot) - 1) / unit(slot) * unit(slot);
  const TargetFile& file = *job_->file();
  to_submit_.push_back({slot.direct ? file.direct_fd() : file.buffered_fd(), slot.at,
                        slot.data + (slot.at - slot.block.begin), static_cast<std::uint32_t>(whole),
                        tag, Operation::write});
  ++in_flight_;
}

void SaveLane::submit() {
  if (to_submit_.empty()) return;
  engine_->submit(to_submit_);
  to_submit_.clear();
}

void SaveLane::settle(std::uint32_t tag, std::int32_t result) {
  Slot& slot = slots_[tag];
  const TargetFile& file = *job_->file();
  if (job_->stopping()) return leave(tag);
  if (result < 0) {
    const int error = -result;
    if (error == EINTR || error == EAGAIN) return retry(tag, error);
    if (error == EINVAL && slot.direct) {
      file.forbid_direct("a direct write was refused with EINVAL");
      job_->note_fallback(
          file.path() + ": a direct write was refused with EINVAL, written through the page cache");
      slot.direct = false;
      return issue(tag);
    }
    job_->fail(file.failed("write", error, slot.at));
    return leave(tag);
  }
  const std::uint64_t reached = slot.at + static_cast<std::uint32_t>(result);
  if (reached >= slot.block.end) return finish(tag);
  const std::uint64_t resume = reached / unit(slot) * unit(slot);
  if (resume <= slot.at) return retry(tag, EIO);
  slot.at = resume;
  slot.stalls = 0;
  issue(tag);
}

void SaveLane::retry(std::uint32_t tag, int error) {
  Slot& slot = slots_[tag];
  if (++slot.stalls > kStallsAllowed) {
    job_->fail(job_->file()->failed("write", error, slot.at,
                                    "no progress in " + std::to_string(kStallsAllowed) + " tries"));
    return leave(tag);
  }
  if (slot.stalls > 4) std::this_thread::sleep_for(std::chrono::microseconds(100));
  issue(tag);
}

// The whole block is written. Its slot is free for the next one before it is compared, unless that
// is done at once.
void SaveLane::finish(std::uint32_t tag) {
  const Slot& slot = slots_[tag];
  job_->written(slot.block, slot.direct, slot.again);
  if (slot.from_memory) {
    --compared_in_flight_;
    written_.push_back({slot.block, slot.data});
    if (!slot.direct) compare_one();
  }
  leave(tag);
}

void SaveLane::compare_one() {
  if (written_.empty()) return;
  const Written next = written_.back();
  written_.pop_back();
  job_->compare(next.block, next.data);
}

void SaveLane::leave(std::uint32_t tag) {
  slots_[tag].busy = false;
  free_.push_back(tag);
}

// Memory that a device still reads though nobody waits for it; the rest is freed.
void SaveLane::park() {
  for (Slot& slot : slots_) {
    if (!slot.busy) slot.staging.reset();
    if (slot.staging) slot.staging->park();
  }
}

void SaveLane::drain() {
  in_flight_ -= to_submit_.size();  // counted when they were queued, but no engine has seen them
  to_submit_.clear();
  while (in_flight_ > 0) in_flight_ -= engine_->wait(completions_, kWait);
}

}  // namespace fastio
