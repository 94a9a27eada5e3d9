#include "loader_lane.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <span>
#include <utility>

#include "assertions.h"
#include "loader_hang.h"
#include "loader_hedge.h"
#include "loader_lanes.h"
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

}  // namespace

Lane::Lane(std::shared_ptr<LoadState> state, std::unique_ptr<Engine> engine, unsigned queue_depth)
    : state_(std::move(state)),
      desk_(*state_),
      requests_(std::move(engine), queue_depth * state_->layout.reads_per_slot()),
      wait_(kWait),
      reader_(*state_, requests_, reads_, times_, vigil_),
      reads_(std::size_t{queue_depth} * state_->layout.reads_per_slot()),
      slots_(queue_depth),
      hedges_(state_->layout.hedges()) {
  free_.reserve(slots_.size());
  for (std::size_t i = slots_.size(); i > 0; --i) free_.push_back(&slots_[i - 1]);
  arrived_.reserve(reads_.size());
  copied_.reserve(slots_.size());
  const LoadOptions& options = state_->options;
  if (!options.devices.empty()) copies_ = std::make_unique<DeviceCopies>(options, state_->ready);
  if (state_->answers) {
    constexpr auto kNever = Vigil::Duration::max();
    vigil_.emplace(*state_->answers, options.root_timeout.value_or(kNever),
                   options.hedge_after.value_or(kNever));
    wait_ = std::min(kWait, std::chrono::ceil<milliseconds>(vigil_->interval()));
    looked_.reserve(reads_.size());
  }
}

Lane::~Lane() {
  requests_.drain([this](const Completion& completion) {
    LaneRead& read = reads_[completion.tag];
    if (read.state == LaneRead::State::left) return take_back(read, completion.result);
    read.state = LaneRead::State::held;
  });
  // Only if copies are out: the streams may be waiting for the caller's.
  const bool placing = std::ranges::any_of(slots_, [](const Slot& slot) {
    return slot.stage == Stage::placing || slot.stage == Stage::copying;
  });
  if (copies_ && placing) copies_->drain();
  for (LaneRead& read : reads_) {  // some requests were never submitted
    if (read.state == LaneRead::State::left) take_back(read, -ECANCELED);
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
  if (awaits_none() && !full_) {
    if (!copied_.empty()) {
      settle_copies(Patience::until_one_lands);
    } else if (handed == Handout::Kind::none_left) {
      return false;
    } else if (starved_) {
      timed(times_.room_wait, [] { PinnedLease::wait_for_room(kWait); });
    } else {
      timed(times_.room_wait, [&] { desk_.wait_for_room(kWait); });
    }
    if (reads_.left() != 0) collect(milliseconds(0));
  } else {
    collect(copied_.empty() ? wait_ : kCopyWait);
    settle_copies(Patience::none);
  }
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
    LaneRead& read = *arrived_.back();
    arrived_.pop_back();
    read.state = LaneRead::State::held;
    if (read.slot == nullptr) {  // its block came from elsewhere meanwhile
      reads_.release(read);
      continue;
    }
    go_on(read, reader_.verify(*read.slot, read));
  }
}

// Gives blocks to the slots that are free, and submits all requests that were made.
Handout::Kind Lane::top_up() {
  Handout::Kind handed = Handout::Kind::block;
  starved_ = full_ = false;
  if (retired_) {
    submit();
    return Handout::Kind::none_left;
  }
  while (!free_.empty() && !hold_copy(slots_)) {
    if (!has_reads()) {
      full_ = !state_->crew.stopping() && !desk_.all_handed_out();
      handed = full_ ? Handout::Kind::none_yet : Handout::Kind::none_left;
      break;
    }
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

// Each block that is read keeps a read for a hedge of it.
bool Lane::has_reads() const {
  if (!hedges_) return reads_.unused() != 0;
  const auto kept = std::ranges::count_if(
      slots_, [](const Slot& slot) { return slot.is_busy() && slot.hedge == nullptr; });
  return reads_.unused() >= static_cast<std::size_t>(kept) + 2;
}

void Lane::make_memory(LaneRead& read) {
  const ShardBlock& block = read.slot->work.block;
  read.block_begin = block.range.begin;
  if (!state_->layout.stages(block.range)) read.region = read.slot->work.region;
  read.data = read.region ? read.region->at(block.range.begin)
                          : read.staging.make(staging_bytes_for(block.range.nbytes()),
                                              state_->options.huge_pages);
}

void Lane::submit() {
  if (requests_.has_added()) timed(times_.submit, [&] { requests_.submit(); });
}

void Lane::take(Assignment work) {
  if (work.region && work.region->mapped()) {
    submit();  // the disk works while this thread hashes
    const Soundness soundness = mapped_.take(*state_, work, times_);
    desk_.end(work, soundness);
    return grow(state_);
  }
  Slot& slot = *free_.back();
  free_.pop_back();
  slot.work = std::move(work);
  slot.stage.move_to(Stage::taken);
  slot.read = &reads_.take(slot);
  make_memory(*slot.read);
  reader_.start(slot);
}

// The disk that a read asks.
std::size_t Lane::disk_of(const LaneRead& read) const {
  return state_->answers->disk_of(read.shard, read.replica);
}

void Lane::settle(const Completion& completion) {
  LaneRead& read = reads_[completion.tag];
  if (vigil_) state_->answers->came(disk_of(read));
  if (std::exchange(read.late, false)) state_->answers->end_late(disk_of(read));
  if (read.state == LaneRead::State::left) return take_back(read, completion.result);
  go_on(read, reader_.settle(*read.slot, read, completion.result));
}

void Lane::go_on(LaneRead& read, SlotReader::Next next) {
  switch (next) {
    case SlotReader::Next::completion:
      return;
    case SlotReader::Next::verification:
      return arrived_.push_back(&read);
    case SlotReader::Next::sound:
      return place(*read.slot);
    case SlotReader::Next::unsound:
      return end(*read.slot, Soundness::unsound);
  }
}

// Puts a block that was staged where it belongs. A copy to a device runs while the lane goes on;
// the slot is free when it ends.
void Lane::place(Slot& slot) {
  const ShardBlock& block = slot.work.block;
  const LoadLayout& layout = state_->layout;
  if (state_->options.surveys || !layout.stages(block.range)) return end(slot, Soundness::sound);
  if (slot.work.region) {
    timed(times_.place, [&] {
      std::memcpy(slot.work.region->at(block.range.begin), slot.read->data, block.range.nbytes());
    });
    return end(slot, Soundness::sound);
  }
  if (!desk_.begin_placing()) return end(slot, Soundness::unsound);
  slot.stage.move_to(Stage::placing);
  timed(times_.place, [&] { put(layout, block, slot.read->data); });
  if (!copies_) return end(slot, Soundness::sound);
  auto refused = timed(times_.copy_queue, [&] {
    return copies_->start(layout.shards[block.shard], block.range.extent(), slot.read->data,
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
  if (slot.hedge != nullptr) reads_.drop(*slot.hedge);
  reads_.drop(*slot.read);
  vacate(slot);
  if (soundness == Soundness::sound) grow(state_);
}

// The slot is free for another block.
void Lane::vacate(Slot& slot) {
  slot.work = {};
  slot.read = slot.hedge = nullptr;
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

}  // namespace fastio
