#include "saver_lane.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <span>
#include <thread>
#include <utility>

namespace fastio {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kWait{20};        // how often a waiting lane looks whether it shall stop
constexpr unsigned kStallsAllowed = 64;  // EAGAIN and writes of nothing, in a row

}  // namespace

SaveLane::SaveLane(std::shared_ptr<SaveState> state, std::unique_ptr<Engine> engine,
                   unsigned queue_depth)
    : state_(std::move(state)),
      desk_(*state_),
      requests_(std::move(engine), queue_depth),
      slots_(queue_depth) {
  for (std::uint32_t tag = queue_depth; tag > 0; --tag) free_.push_back(tag - 1);
  written_.reserve(2 * std::size_t{queue_depth});  // one wait may bring as many as are out
  const auto& devices = state_->options.devices;
  if (!devices.empty()) reads_ = std::make_unique<DeviceReads>(devices, state_->ready);
}

SaveLane::~SaveLane() {
  requests_.drain([](const Completion&) {});
  for (Slot& slot : slots_) {
    if (slot.staging) desk_.give_staging(std::move(slot.staging));
  }
}

void SaveLane::run() {
  if (state_->leg == Leg::copied) return copy_blocks();
  if (state_->leg == Leg::summed) return sum_blocks();
  for (;;) {
    top_up();
    if (requests_.in_flight() == 0 && written_.empty()) return;
    // The disk comes first; in between, what it has written is compared.
    std::span<const Completion> completions;
    if (requests_.in_flight() != 0)
      completions = requests_.wait(written_.empty() ? kWait : milliseconds{});
    if (completions.empty() && state_->crew.stopping()) abandon_staging();
    for (const Completion& completion : completions) settle(completion.tag, completion.result);
    if (completions.empty() || written_.size() >= slots_.size()) compare_one();
  }
}

void SaveLane::copy_blocks() {
  while (const auto work = desk_.next()) {
    const Extent& block = work->block;
    std::byte* const to = state_->snapshot->at(block.begin);
    if (!reads_) {
      if (!desk_.gather(block, to, nullptr)) return;
      continue;
    }
    // A copy has no pinned memory of the size of a model: each block passes through what has.
    std::byte* const staged = staging_of(slots_.front());
    if (staged == nullptr || !desk_.gather(block, staged, reads_.get())) return;
    std::memcpy(to, staged, block.end - block.begin);
  }
}

void SaveLane::sum_blocks() {
  Slot& slot = slots_.front();
  while (const auto work = desk_.next()) {
    slot.work = *work;
    if (!prepare(slot)) return;
  }
}

void SaveLane::top_up() {
  requests_.submit();
  while (!free_.empty() && compared_in_flight_ < compared_most()) {
    const auto work = desk_.next();
    if (!work) return;
    const std::uint32_t tag = free_.back();
    Slot& slot = slots_[tag];
    slot.work = *work;
    slot.direct = state_->leg == Leg::direct;
    if (!prepare(slot)) return;
    free_.pop_back();
    slot.busy = true;
    if (slot.from_memory) ++compared_in_flight_;
    issue(tag);
    requests_.submit();  // the disk works while this thread gathers the next one
  }
}

// How many writes may be out whose memory is compared afterwards. Through the page cache of a local
// mount they are few: the kernel copies into a file with one thread at a time (the inode's lock).
// Memory that it copied a moment ago is also still in a processor's cache.
std::size_t SaveLane::compared_most() const {
  if (state_->leg != Leg::buffered || !state_->file->mount().local) return slots_.size();
  return state_->options.lanes > 1 ? 1 : 2;
}

// False where the job stops.
bool SaveLane::prepare(Slot& slot) {
  slot.at = slot.work.block.begin;
  slot.stalls = 0;
  slot.data = desk_.memory_of(slot.work.block, unit(slot));
  slot.from_memory = slot.data != nullptr && !state_->snapshot && state_->options.chunk_bytes != 0;
  if (slot.data != nullptr) return desk_.take_checksums(slot.work.block, slot.data);
  slot.data = staging_of(slot);
  if (slot.data == nullptr || !desk_.gather(slot.work.block, slot.data, reads_.get())) return false;
  // The last write goes past the end of the data, to a whole unit; the file is cut to its length
  // afterwards.
  const std::uint64_t nbytes = slot.work.block.end - slot.work.block.begin;
  const std::uint64_t behind = (unit(slot) - nbytes % unit(slot)) % unit(slot);
  std::memset(slot.data + nbytes, 0, behind);
  return true;
}

// A slot's own memory, null where the job stops before it comes, used again and again: fresh memory
// is slow.
std::byte* SaveLane::staging_of(Slot& slot) {
  if (!slot.staging) slot.staging = desk_.take_staging();
  return slot.staging ? slot.staging->at(0) : nullptr;
}

std::uint64_t SaveLane::unit(const Slot& slot) const { return slot.direct ? state_->alignment : 1; }

void SaveLane::issue(std::uint32_t tag) {
  const Slot& slot = slots_[tag];
  const std::uint64_t nbytes = slot.work.block.end - slot.at;
  const std::uint64_t whole = (nbytes + unit(slot) - 1) / unit(slot) * unit(slot);
  const TargetFile& file = *state_->file;
  requests_.add({slot.direct ? file.direct_fd() : file.buffered_fd(), slot.at,
                 slot.data + (slot.at - slot.work.block.begin), static_cast<std::uint32_t>(whole),
                 tag, Operation::write});
}

void SaveLane::settle(std::uint32_t tag, std::int32_t result) {
  Slot& slot = slots_[tag];
  const TargetFile& file = *state_->file;
  if (state_->crew.stopping()) return end(tag);
  if (result < 0) {
    const int error = -result;
    if (error == EINTR || error == EAGAIN) return retry(tag, error);
    if (error == EINVAL && slot.direct) {
      file.forbid_direct("a direct write was refused with EINVAL");
      state_->outcome.note_fallback(
          file.path() + ": a direct write was refused with EINVAL, written through the page cache");
      slot.direct = false;
      return issue(tag);
    }
    state_->fail(file.failed("write", error, slot.at));
    return end(tag);
  }
  const std::uint64_t reached = slot.at + static_cast<std::uint32_t>(result);
  if (reached >= slot.work.block.end) return finish(tag);
  const std::uint64_t resume = reached / unit(slot) * unit(slot);
  if (resume <= slot.at) return retry(tag, EIO);
  slot.at = resume;
  slot.stalls = 0;
  issue(tag);
}

void SaveLane::retry(std::uint32_t tag, int error) {
  Slot& slot = slots_[tag];
  if (++slot.stalls > kStallsAllowed) {
    state_->fail(state_->file->failed(
        "write", error, slot.at, "no progress in " + std::to_string(kStallsAllowed) + " tries"));
    return end(tag);
  }
  if (slot.stalls > 4) std::this_thread::sleep_for(std::chrono::microseconds(100));
  issue(tag);
}

// The whole block is written. Its slot is free for the next one before it is compared, unless that
// is done at once.
void SaveLane::finish(std::uint32_t tag) {
  const Slot& slot = slots_[tag];
  desk_.written(slot.work, slot.direct ? SaveDesk::Way::direct : SaveDesk::Way::buffered);
  if (slot.from_memory) {
    --compared_in_flight_;
    written_.push_back({slot.work.block, slot.data});
    if (!slot.direct) compare_one();
  }
  end(tag);
}

void SaveLane::compare_one() {
  if (written_.empty()) return;
  const Written next = written_.back();
  written_.pop_back();
  desk_.compare(next.block, next.data);
}

void SaveLane::end(std::uint32_t tag) {
  slots_[tag].busy = false;
  free_.push_back(tag);
}

// Memory that a disk still reads though nobody waits for it; all else is freed.
void SaveLane::abandon_staging() {
  for (Slot& slot : slots_) {
    if (!slot.busy) slot.staging.reset();
    if (slot.staging) slot.staging->abandon();
  }
}

}  // namespace fastio
