#include "loader_lane.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <span>
#include <utility>

#include "assertions.h"
#include "loader_hang.h"
#include "loader_verify.h"

namespace fastio {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kWait{20};     // how often a waiting lane looks whether it shall stop
constexpr milliseconds kCopyWait{1};  // the same, for one whose staging comes back soon

// Whether a block that was in memory was copied, and is not verified yet. No other is taken before:
// two of them gain nothing, and what was copied is to be verified while this core's caches have it.
bool hold_copy(std::span<const Slot> slots) {
  return std::ranges::any_of(slots, [](const Slot& slot) {
    return slot.is_busy() && slot.read->access.resident && slot.stage != Stage::copying;
  });
}

// Brings a mapped block in, and verifies it.
Soundness take_mapped(LoadState& state, const Assignment& work, LaneTimes& times) {
  const PlannedBlock& range = work.block.range;
  if (timed(times.read_wait, [&] { return bring_in(state, work); }) == Soundness::unsound)
    return Soundness::unsound;
  times.nbytes += range.nbytes();
  const std::byte* const data = work.region->at(range.begin);
  const Soundness soundness = timed(times.verify, [&] { return verify(state, work, data); });
  if (soundness == Soundness::sound) ++times.blocks;
  return soundness;
}

// The disk that a read asks.
std::size_t disk_of(const LoadState& state, const LaneRead& read) {
  return state.answers->disk_of(read.shard, read.replica);
}

}  // namespace

Lane::Lane(std::shared_ptr<LoadState> state, std::unique_ptr<Engine> engine, unsigned queue_depth)
    : state_(std::move(state)),
      desk_(*state_),
      requests_(std::move(engine), queue_depth),
      reader_(*state_, requests_, times_, vigil_),
      reads_(queue_depth),
      slots_(queue_depth) {
  free_.reserve(slots_.size());
  for (auto slot = slots_.rbegin(); slot != slots_.rend(); ++slot) free_.push_back(&*slot);
  arrived_.reserve(slots_.size());
  copied_.reserve(slots_.size());
  const LoadOptions& options = state_->options;
  if (!options.devices.empty()) copies_ = std::make_unique<DeviceCopies>(options, state_->ready);
  if (state_->answers) {
    vigil_.emplace(*state_->answers, *options.root_timeout);
    looked_.reserve(reads_.size());
  }
}

Lane::~Lane() {
  requests_.drain([this](const Completion& completion) {
    LaneRead& read = reads_[completion.tag];
    if (read.state == LaneRead::State::left) return take_back(read);
    read.state = LaneRead::State::held;
  });
  // Only if copies are out: the streams may be waiting for the caller's.
  const bool placing = std::ranges::any_of(slots_, [](const Slot& slot) {
    return slot.stage == Stage::placing || slot.stage == Stage::copying;
  });
  if (copies_ && placing) copies_->drain();
  for (LaneRead& read : reads_) {  // whose requests were never submitted
    if (read.state == LaneRead::State::left) take_back(read);
    if (read.state == LaneRead::State::out) read.state = LaneRead::State::held;
  }
  for (Slot& slot : slots_) {
    if (slot.is_busy()) end(slot, Soundness::unsound);
  }
}

void Lane::run() {
  while (step()) {
  }
}

bool Lane::step() {
  const StopWatch whole(times_.total);
  const Handout::Kind handed = top_up();
  if (awaits_none()) {
    if (!copied_.empty()) {
      settle_copies(Patience::until_one_lands);
    } else if (handed == Handout::Kind::none_left) {
      return false;
    } else if (starved_) {
      timed(times_.room_wait, [] { PinnedLease::wait_for_room(kWait); });
    } else {
      timed(times_.room_wait, [&] { desk_.wait_for_room(kWait); });
    }
    return true;
  }
  collect(copied_.empty() ? kWait : kCopyWait);
  settle_copies(Patience::none);
  if (vigil_ && vigil_->pass(Vigil::Clock::now())) judge_reads();
  return true;
}

// Waits for completions, and goes on with their blocks.
void Lane::collect(std::chrono::milliseconds timeout) {
  const auto completions = timed(times_.read_wait, [&] { return requests_.wait(timeout); });
  if (completions.empty() && state_->crew.stopping()) abandon_staging();
  for (const Completion& completion : completions) settle(completion);
  while (!arrived_.empty()) {
    top_up();  // the disk works while this thread hashes
    Slot& slot = *arrived_.back();
    arrived_.pop_back();
    go_on(slot, reader_.verify(slot));
  }
}

// Gives blocks to the slots that are free, and submits all requests that were made.
Handout::Kind Lane::top_up() {
  Handout::Kind handed = Handout::Kind::block;
  starved_ = false;
  if (retired_) {
    submit();
    return Handout::Kind::none_left;
  }
  while (!free_.empty() && !hold_copy(slots_)) {
    if (!has_staging()) {
      starved_ = true;
      const bool over = state_->crew.stopping() || desk_.all_handed_out();
      handed = over ? Handout::Kind::none_left : Handout::Kind::none_yet;
      break;
    }
    Handout handout = desk_.next();
    handed = handout.kind;
    if (handed != Handout::Kind::block) {
      reads_.next().staging.release_lease();
      break;
    }
    take(std::move(handout.assignment));
  }
  submit();
  return handed;
}

// Before a block is taken: another job may hold all that may be pinned.
bool Lane::has_staging() {
  const std::uint64_t nbytes = state_->layout.staging_bytes;
  if (!copies_ || nbytes == 0) return true;
  const StopWatch watch(times_.room_wait);
  return reads_.next().staging.lease(state_->options, nbytes);
}

void Lane::submit() {
  if (requests_.has_added()) timed(times_.submit, [&] { requests_.submit(); });
}

void Lane::take(Assignment work) {
  if (work.region && work.region->mapped()) {
    submit();  // the disk works while this thread hashes
    return desk_.end(work, take_mapped(*state_, work, times_));
  }
  Slot& slot = *free_.back();
  free_.pop_back();
  slot.work = std::move(work);
  slot.stage.move_to(Stage::taken);
  const PlannedBlock& range = slot.work.block.range;
  LaneRead& read = reads_.take(slot);
  slot.read = &read;
  read.block_begin = range.begin;
  read.region = slot.work.region;
  read.data = read.region ? read.region->at(range.begin)
                          : read.staging.make(staging_bytes_for(range.nbytes()),
                                              state_->options.huge_pages);
  reader_.start(slot);
}

void Lane::settle(const Completion& completion) {
  LaneRead& read = reads_[completion.tag];
  if (vigil_) state_->answers->came(disk_of(*state_, read));
  if (read.state == LaneRead::State::left) return take_back(read);
  go_on(*read.slot, reader_.settle(*read.slot, completion.result));
}

void Lane::go_on(Slot& slot, SlotReader::Next next) {
  switch (next) {
    case SlotReader::Next::completion:
      return;
    case SlotReader::Next::verification:
      return arrived_.push_back(&slot);
    case SlotReader::Next::sound:
      if (!slot.work.region && !state_->options.surveys) return place(slot);
      return end(slot, Soundness::sound);
    case SlotReader::Next::unsound:
      return end(slot, Soundness::unsound);
  }
}

// Puts a block that was staged where it belongs. A copy to a device runs while the lane goes on;
// the slot is free when it ends.
void Lane::place(Slot& slot) {
  const ShardBlock& block = slot.work.block;
  if (!desk_.begin_placing()) return end(slot, Soundness::unsound);
  slot.stage.move_to(Stage::placing);
  timed(times_.place, [&] { put(state_->layout, block, slot.read->data); });
  if (!copies_) return end(slot, Soundness::sound);
  auto refused = timed(times_.copy_queue, [&] {
    return copies_->start(state_->layout.shards[block.shard], block.range.extent(), slot.read->data,
                          slot.flight);
  });
  if (refused) {
    state_->fail(block.shard, std::move(*refused));
    return end(slot, Soundness::unsound);
  }
  if (slot.flight.devices.empty()) return end(slot, Soundness::sound);
  desk_.queue(copies_->ends(slot.flight));
  slot.stage.move_to(Stage::copying);
  copied_.push_back(&slot);
}

// Frees the slots whose copies are done.
void Lane::settle_copies(Patience patience) {
  while (!copied_.empty()) {
    Slot& slot = *copied_.front();
    DeviceCopies::Landing landing = timed(times_.copy_wait, [&] {
      if (std::exchange(patience, Patience::none) == Patience::none)
        return copies_->ask(slot.flight);
      return DeviceCopies::Landing{true, copies_->wait(slot.flight)};
    });
    if (!landing.landed) return;
    copied_.erase(copied_.begin());
    const bool refused = landing.refused.has_value();
    // Once told is enough: a lost device refuses whatever else is on its way as well.
    if (refused && !state_->crew.stopping())
      state_->fail(slot.shard(), std::move(*landing.refused));
    end(slot, refused ? Soundness::unsound : Soundness::sound);
  }
}

void Lane::end(Slot& slot, Soundness soundness) {
  reader_.close_incidents(slot);
  if (soundness == Soundness::sound) ++times_.blocks;
  const Stage stage = slot.stage;
  if (stage == Stage::placing || stage == Stage::copying)
    desk_.end_placing(slot.work.block, soundness);
  desk_.end(slot.work, soundness, stage == Stage::copying ? Queued::yes : Queued::no);
  reads_.release(*slot.read);
  vacate(slot);
}

// The slot is free for another block.
void Lane::vacate(Slot& slot) {
  slot.work = {};
  slot.read = nullptr;
  slot.tries.clear();
  slot.stage.move_to(Stage::idle);
  free_.push_back(&slot);
}

// Regions are abandoned by who cancels; what is staged only this lane knows.
void Lane::abandon_staging() {
  for (const LaneRead& read : reads_) {
    if (read.slot != nullptr) read.staging.abandon();
  }
}

// ---- reads that are waited for no longer ----

Vigil::Read Lane::judged(const LaneRead& read) const {
  const std::size_t disk = disk_of(*state_, read);
  const bool elsewhere =
      state_->options.persistent && state_->answers->has_answering_beside(read.shard, disk);
  return {disk, read.asked, elsewhere};
}

void Lane::judge_reads() {
  looked_.clear();
  for (const LaneRead& read : reads_) {
    if (read.state == LaneRead::State::out) looked_.push_back(judged(read));
  }
  if (!vigil_->look(looked_)) return;
  desk_.avoid_hung();
  for (LaneRead& read : reads_) {
    if (read.state != LaneRead::State::out) continue;
    if (vigil_->judge(judged(read)) == Vigil::Verdict::lost) lose(*read.slot);
  }
}

// The read of a slot is lost: its disk hangs.
void Lane::lose(Slot& slot) {
  LaneRead& read = *slot.read;
  retired_ = true;
  reads_.leave(read);
  FASTIO_ASSERT(reads_.left() <= requests_.in_flight());
  read.lost = true;
  note_debt(state_->answers->id_of(disk_of(*state_, read)));
  for (Incident& incident : slot.tries.take_all()) {
    incident.remedy = Incident::Remedy::read_again;  // with all of the block
    state_->incidents.note(std::move(incident));
  }
  lose_read(*state_, slot.work, read.replica, read.span,
            {ETIMEDOUT, "read", reader_.replica_of(read).path(), read.at,
             no_answer_for(*state_->options.root_timeout)});
  vacate(slot);
}

// It has returned, too late.
void Lane::take_back(LaneRead& read) noexcept {
  if (read.lost) note_answer(state_->answers->id_of(disk_of(*state_, read)));
  reads_.take_back(read);
}

}  // namespace fastio
