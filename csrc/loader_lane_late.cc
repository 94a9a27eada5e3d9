// Late reads of a lane: judged, hedged, lost with their disk, taken back when they return.
#include <cerrno>
#include <new>
#include <utility>

#include "assertions.h"
#include "loader_hang.h"
#include "loader_hedge.h"
#include "loader_lane.h"

namespace fastio {

Vigil::Read Lane::judged(const LaneRead& read) const {
  const std::size_t disk = disk_of(read);
  const bool elsewhere =
      state_->options.persistent && state_->answers->has_answering_beside(read.shard, disk);
  return {disk, read.asked, elsewhere, read.since};
}

void Lane::judge_reads() {
  using State = LaneRead::State;
  const auto is_judged = [](const LaneRead& read) {
    return read.state == State::out || (read.state == State::left && !read.lost);
  };
  looked_.clear();
  for (const LaneRead& read : reads_) {
    if (is_judged(read)) looked_.push_back(judged(read));
  }
  if (vigil_->look(looked_)) {
    desk_.avoid_hung();
    for (LaneRead& read : reads_) {
      if (is_judged(read) && vigil_->judge(judged(read)) == Vigil::Verdict::lost) lose(read);
    }
  }
  if (!hedges_) return;
  for (LaneRead& read : reads_) {
    if (!is_judged(read) || vigil_->judge(judged(read)) != Vigil::Verdict::late) continue;
    if (!std::exchange(read.late, true)) state_->answers->begin_late(disk_of(read));
    if (read.state == State::out) hedge(*read.slot);
  }
  submit();
}

// Asks another replica as well, if there are a read and memory for that now.
void Lane::hedge(Slot& slot) {
  if (slot.hedge != nullptr || reads_.unused() == 0 || state_->crew.stopping()) return;
  const ReplicaSet tried = slot.tries.now().useless() | slot.hedged;
  const auto replica = desk_.hedge_replica(slot.shard(), slot.read->replica, tried);
  if (!replica || !has_staging()) return;
  LaneRead& second = reads_.take(slot);
  try {
    make_memory(second);
  } catch (const std::bad_alloc&) {  // the first one is waited for
    return reads_.release(second);
  }
  reader_.hedge(slot, second, *replica);
}

// The disk of a read hangs.
void Lane::lose(LaneRead& read) {
  const bool awaited = read.state == LaneRead::State::out;
  const Failure failure{ETIMEDOUT, "read", reader_.replica_of(read).path(), read.at,
                        no_answer_for(*state_->options.root_timeout)};
  retired_ = true;
  read.lost = true;
  note_debt(state_->answers->id_of(disk_of(read)));
  if (!awaited || read.slot->hedge != nullptr) {
    desk_.read_finished(read.shard, read.replica, read.span.nbytes(), ReadEnd::failed);
    if (awaited) {
      read.slot->tries.fail(failure, read.replica);
      return go_on_without(*read.slot, reads_, read);
    }
    Incident lost{read.shard, read.replica, read.span, failure};
    lost.remedy = Incident::Remedy::other_replica;
    return state_->incidents.note(std::move(lost));
  }
  Slot& slot = *read.slot;
  reads_.leave(read);
  FASTIO_ASSERT(reads_.left() <= requests_.in_flight());
  for (Incident& incident : slot.tries.take_all()) {
    incident.remedy = Incident::Remedy::read_again;  // with all of the block
    state_->incidents.note(std::move(incident));
  }
  lose_read(*state_, slot.work, read.replica, read.span, failure);
  vacate(slot);
}

// It has returned, too late.
void Lane::take_back(LaneRead& read, std::int32_t result) noexcept {
  if (read.late) state_->answers->end_late(disk_of(read));
  if (read.lost) {
    note_answer(state_->answers->id_of(disk_of(read)));
  } else {
    desk_.read_finished(read.shard, read.replica, read.span.nbytes(),
                        result > 0 ? ReadEnd::complete : ReadEnd::failed);
  }
  reads_.take_back(read);
}

}  // namespace fastio
