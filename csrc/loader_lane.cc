#include "loader_lane.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <span>
#include <utility>

#include "assertions.h"
#include "loader_hang.h"
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
    return slot.access.resident && slot.is_busy() && slot.stage != Stage::copying;
  });
}

// The disk that a slot's read is out on.
std::size_t disk_of(const LoadState& state, const Slot& slot) {
  return state.answers->disk_of(slot.shard(), slot.tries.now().replica);
}

}  // namespace

Lane::Lane(std::shared_ptr<LoadState> state, std::unique_ptr<Engine> engine, unsigned queue_depth)
    : state_(std::move(state)),
      desk_(*state_),
      requests_(std::move(engine), queue_depth),
      reader_(*state_, requests_, times_, vigil_),
      slots_(queue_depth) {
  for (std::uint32_t tag = queue_depth; tag > 0; --tag) free_.push_back(tag - 1);
  arrived_.reserve(queue_depth);
  copied_.reserve(queue_depth);
  const LoadOptions& options = state_->options;
  if (!options.devices.empty()) copies_ = std::make_unique<DeviceCopies>(options, state_->ready);
  if (state_->answers) {
    vigil_.emplace(*state_->answers, *options.root_timeout);
    reads_.reserve(queue_depth);
  }
}

Lane::~Lane() {
  requests_.drain([this](const Completion& completion) {
    if (Slot& slot = slots_[completion.tag]; slot.stage == Stage::lost) take_back(slot);
  });
  // Only if copies are out: the streams may be waiting for the caller's.
  const bool placing = std::ranges::any_of(slots_, [](const Slot& slot) {
    return slot.stage == Stage::placing || slot.stage == Stage::copying;
  });
  if (copies_ && placing) copies_->drain();
  for (std::uint32_t tag = 0; tag < slots_.size(); ++tag) {
    if (slots_[tag].stage == Stage::lost) take_back(slots_[tag]);
    if (slots_[tag].is_busy()) end(tag, Soundness::unsound);
  }
}

void Lane::run() {
  while (step()) {
  }
}

bool Lane::step() {
  const StopWatch whole(times_.total);
  const Handout::Kind handed = top_up();
  if (requests_.in_flight() == lost_) {
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
  const auto completions =
      timed(times_.read_wait, [&] { return requests_.wait(copied_.empty() ? kWait : kCopyWait); });
  if (completions.empty() && state_->crew.stopping()) abandon_staging();
  for (const Completion& completion : completions) settle(completion.tag, completion.result);
  while (!arrived_.empty()) {
    top_up();  // the disk works while this thread hashes
    const std::uint32_t tag = arrived_.back();
    arrived_.pop_back();
    go_on(tag, reader_.verify(slots_[tag], tag));
  }
  settle_copies(Patience::none);
  if (vigil_ && vigil_->pass(Vigil::Clock::now())) look_for_hangs();
  return true;
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
    Slot& slot = slots_[free_.back()];
    if (!has_staging(slot)) {
      starved_ = true;
      const bool over = state_->crew.stopping() || desk_.all_handed_out();
      handed = over ? Handout::Kind::none_left : Handout::Kind::none_yet;
      break;
    }
    Handout handout = desk_.next();
    handed = handout.kind;
    if (handed != Handout::Kind::block) {
      slot.staging.release_lease();
      break;
    }
    take(std::move(handout.assignment));
  }
  submit();
  return handed;
}

// Before a block is taken: another job may hold all that may be pinned.
bool Lane::has_staging(Slot& slot) {
  const std::uint64_t nbytes = state_->layout.staging_bytes;
  if (!copies_ || nbytes == 0) return true;
  const StopWatch watch(times_.room_wait);
  return slot.staging.lease(state_->options, nbytes);
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
  const std::uint32_t tag = free_.back();
  free_.pop_back();
  Slot& slot = slots_[tag];
  slot.work = std::move(work);
  slot.stage.move_to(Stage::taken);
  const PlannedBlock& range = slot.work.block.range;
  slot.data = slot.work.region ? slot.work.region->at(range.begin)
                               : slot.staging.make(staging_bytes_for(range.nbytes()),
                                                   state_->options.huge_pages);
  reader_.start(slot, tag);
}

void Lane::settle(std::uint32_t tag, std::int32_t result) {
  Slot& slot = slots_[tag];
  if (vigil_) state_->answers->came(disk_of(*state_, slot));
  if (slot.stage == Stage::lost) return take_back(slot);
  go_on(tag, reader_.settle(slot, tag, result));
}

void Lane::go_on(std::uint32_t tag, SlotReader::Next next) {
  switch (next) {
    case SlotReader::Next::completion:
      return;
    case SlotReader::Next::verification:
      return arrived_.push_back(tag);
    case SlotReader::Next::sound:
      if (!slots_[tag].work.region && !state_->options.surveys) return place(tag);
      return end(tag, Soundness::sound);
    case SlotReader::Next::unsound:
      return end(tag, Soundness::unsound);
  }
}

// Puts a block that was staged where it belongs. A copy to a device runs while the lane goes on;
// the slot is free when it ends.
void Lane::place(std::uint32_t tag) {
  Slot& slot = slots_[tag];
  const ShardBlock& block = slot.work.block;
  if (!desk_.begin_placing()) return end(tag, Soundness::unsound);
  slot.stage.move_to(Stage::placing);
  timed(times_.place, [&] { put(state_->layout, block, slot.data); });
  if (!copies_) return end(tag, Soundness::sound);
  auto refused = timed(times_.copy_queue, [&] {
    return copies_->start(state_->layout.shards[block.shard], block.range.extent(), slot.data,
                          slot.flight);
  });
  if (refused) {
    state_->fail(block.shard, std::move(*refused));
    return end(tag, Soundness::unsound);
  }
  if (slot.flight.devices.empty()) return end(tag, Soundness::sound);
  desk_.queue(copies_->ends(slot.flight));
  slot.stage.move_to(Stage::copying);
  copied_.push_back(tag);
}

// Frees the slots whose copies are done.
void Lane::settle_copies(Patience patience) {
  while (!copied_.empty()) {
    const std::uint32_t tag = copied_.front();
    Slot& slot = slots_[tag];
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
    end(tag, refused ? Soundness::unsound : Soundness::sound);
  }
}

void Lane::end(std::uint32_t tag, Soundness soundness) {
  Slot& slot = slots_[tag];
  reader_.close_incidents(slot);
  if (soundness == Soundness::sound) ++times_.blocks;
  const Stage stage = slot.stage;
  if (stage == Stage::placing || stage == Stage::copying)
    desk_.end_placing(slot.work.block, soundness);
  desk_.end(slot.work, soundness, stage == Stage::copying ? Queued::yes : Queued::no);
  slot.work = {};
  slot.staging.release_lease();
  slot.tries.clear();
  slot.stage.move_to(Stage::idle);
  free_.push_back(tag);
  if (soundness == Soundness::sound) grow(state_);
}

// Regions are abandoned by who cancels; what is staged only this lane knows.
void Lane::abandon_staging() const {
  for (const Slot& slot : slots_) {
    if (slot.is_busy()) slot.staging.abandon();
  }
}

// ---- disks that hang ----

void Lane::look_for_hangs() {
  reads_.clear();
  for (const Slot& slot : slots_) {
    if (slot.stage != Stage::reading) continue;
    const std::size_t disk = disk_of(*state_, slot);
    const bool elsewhere =
        state_->options.persistent && state_->answers->has_answering_beside(slot.shard(), disk);
    reads_.push_back({disk, slot.asked, elsewhere});
  }
  if (!vigil_->look(reads_)) return;
  desk_.avoid_hung();
  for (Slot& slot : slots_) {
    if (slot.stage == Stage::reading && vigil_->found(disk_of(*state_, slot))) lose(slot);
  }
}

void Lane::lose(Slot& slot) {
  retired_ = true;
  slot.stage.move_to(Stage::lost);
  ++lost_;
  FASTIO_ASSERT(lost_ <= requests_.in_flight());
  note_debt(state_->answers->id_of(disk_of(*state_, slot)));
  slot.staging.abandon();
  for (Incident& incident : slot.tries.take_all()) {
    incident.remedy = Incident::Remedy::read_again;  // with all of the block
    state_->incidents.note(std::move(incident));
  }
  const Try& now = slot.tries.now();
  lose_read(*state_, slot.work, now.replica, now.span,
            {ETIMEDOUT, "read", reader_.replica_of(slot).path(), slot.at,
             no_answer_for(*state_->options.root_timeout)});
}

// Its read has returned, too late.
void Lane::take_back(Slot& slot) noexcept {
  note_answer(state_->answers->id_of(disk_of(*state_, slot)));
  slot.stage.move_to(Stage::idle);
  FASTIO_ASSERT(lost_ != 0);
  --lost_;
  slot.work = {};
  slot.tries.clear();
  slot.staging.release();
}

void Lane::free_unused() {
  for (Slot& slot : slots_) {
    if (slot.stage != Stage::lost) slot.staging.release();
  }
}

}  // namespace fastio
