#include "loader_reader.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <new>
#include <string>
#include <thread>
#include <utility>

#include "assertions.h"
#include "loader_hang.h"
#include "loader_hedge.h"
#include "loader_verify.h"
#include "rounding.h"

namespace fastio {
namespace {

// EAGAIN and reads that bring nothing, in a row, before it is an error.
constexpr unsigned kStallsAllowed = 64;
constexpr unsigned kStallsWithoutPause = 4;

// Whether direct I/O can put a span where it belongs, also where its file is not read so otherwise:
// at an aligned address, and with room for whole units.
bool takes_direct(const LaneRead& read, std::uint64_t unit_bytes) {
  const Extent& span = read.span;
  const Region& memory = read.memory();
  const std::byte* data = read.data_at(span.begin);
  const std::byte* end = memory.at(memory.file_offset()) + memory.nbytes();
  return span.begin % unit_bytes == 0 &&
         reinterpret_cast<std::uintptr_t>(data) %
                 std::min<std::uint64_t>(unit_bytes, page_bytes()) ==
             0 &&
         round_up(span.nbytes(), unit_bytes) <= static_cast<std::uint64_t>(end - data);
}

}  // namespace

const Replica& SlotReader::replica_of(const LaneRead& read) const {
  return state_.layout.shards[read.shard].replicas[read.replica];
}

File& SlotReader::file_of(const LaneRead& read) const {
  File* const file = replica_of(read).file();
  FASTIO_ASSERT(file != nullptr);
  return *file;
}

ReadAccess SlotReader::access_for(const LaneRead& read) const {
  if (read.again) {
    const DirectAccess direct = direct_for(state_.layout.shards[read.shard], read.replica);
    return {direct.possible && takes_direct(read, direct.alignment) ? direct.alignment : 1};
  }
  const ShardAccess& access = state_.layout.access(read.shard, read.replica);
  switch (access.mode) {
    case ReadMode::direct:
      return {access.alignment};
    case ReadMode::by_block: {
      const std::uint64_t nbytes = read.span.nbytes();
      const auto resident = file_of(read).resident_bytes(read.span.begin, nbytes).value_or(0);
      return resident < nbytes ? ReadAccess{access.alignment} : ReadAccess{1, true};
    }
    case ReadMode::mapped:
    case ReadMode::buffered:
    case ReadMode::fed:
      break;
  }
  return {1, access.resident && !state_.options.surveys};
}

void SlotReader::start(Slot& slot) {
  slot.tries.begin(slot.shard(), slot.work.block.range.extent(), slot.work.replica);
  read(slot);
}

// Begins the read of the slot's present try.
void SlotReader::read(Slot& slot) {
  FASTIO_ASSERT(slot.hedge == nullptr);
  slot.hedged = 0;
  LaneRead& read = *slot.read;
  read.replica = slot.tries.now().replica;
  read.again = slot.tries.now().again;
  read.hedge = false;
  begin(slot, read);
}

void SlotReader::hedge(Slot& slot, LaneRead& second, std::size_t replica) {
  FASTIO_ASSERT(slot.hedge == nullptr && replica != slot.read->replica);
  slot.hedge = &second;
  slot.hedged |= only(replica);
  second.replica = replica;
  second.hedge = true;
  ++state_.counters.reads_hedged;
  desk_.read_started(slot.shard(), replica, slot.tries.now().span.nbytes());
  begin(slot, second);
}

void SlotReader::begin(Slot& slot, LaneRead& read) {
  read.shard = slot.shard();
  read.span = slot.tries.now().span;
  read.at = read.span.begin;
  read.stalls = 0;
  read.access = access_for(read);
  if (past_cache(read) && !read.access.is_direct()) drop_cached(read);
  issue(slot, read);
  read.since = read.asked;
}

bool SlotReader::past_cache(const LaneRead& read) const {
  return read.again || state_.options.surveys;
}

// Empties the page cache of what is still to be read: that comes from the disk then.
void SlotReader::drop_cached(const LaneRead& read) const {
  if (replica_of(read).file() != nullptr) file_of(read).drop_cached(read.at, read.span.end);
}

int SlotReader::descriptor_of(const LaneRead& read) const {
  if (replica_of(read).feed() != nullptr) return -1;
  return read.access.is_direct() ? file_of(read).direct_fd() : file_of(read).buffered_fd();
}

void SlotReader::issue(Slot& slot, LaneRead& read) {
  FASTIO_ASSERT(read.state == LaneRead::State::held);
  FASTIO_ASSERT(read.at % read.access.unit_bytes == 0 && read.at < read.span.end);
  // The file may end inside its last unit of direct I/O. Regions and staging have room for the
  // whole unit, and places that are read to directly are whole units.
  const std::uint64_t nbytes = round_up(read.span.end - read.at, read.access.unit_bytes);
  // The other one of two reads may have arrived already.
  if (slot.stage != Stage::arrived || slot.beside(read) == nullptr)
    slot.stage.move_to(Stage::reading);
  requests_.add({descriptor_of(read), read.at, read.data_at(read.at),
                 static_cast<std::uint32_t>(nbytes), read.tag, Operation::read,
                 replica_of(read).feed()});
  read.state = LaneRead::State::out;
  if (vigil_) read.asked = vigil_->time();
}

SlotReader::Next SlotReader::settle(Slot& slot, LaneRead& read, std::int32_t result) {
  FASTIO_ASSERT(slot.stage == Stage::reading || slot.beside(read) != nullptr);
  FASTIO_ASSERT(read.state == LaneRead::State::out);
  read.state = LaneRead::State::held;
  const auto& [begin, end] = read.span;
  const Replica& replica = replica_of(read);
  if (state_.crew.stopping()) return Next::unsound;
  if (result < 0) {
    const int error = -result;
    if (error == EINTR || error == EAGAIN) return retry(slot, read, error);
    if (error == EINVAL && read.access.is_direct()) {
      file_of(read).forbid_direct("a direct read was refused with EINVAL");
      state_.outcome.note_fallback(
          replica.path() + ": a direct read was refused with EINVAL, read through the page cache");
      read.access.unit_bytes = 1;
      if (past_cache(read)) drop_cached(read);
      issue(slot, read);
      return Next::completion;
    }
    const std::string why = replica.feed() != nullptr ? replica.feed()->why(read.at) : "";
    return fail(slot, read, Failure{error, "read", replica.path(), read.at, why});
  }
  const std::uint64_t reached = read.at + static_cast<std::uint32_t>(result);
  if (reached >= end) {
    desk_.read_finished(read.shard, read.replica, end - begin, ReadEnd::complete);
    read.state = LaneRead::State::arrived;
    if (slot.stage != Stage::arrived) slot.stage.move_to(Stage::arrived);
    return Next::verification;
  }
  // Asked, because direct I/O never gets to the end of a file that shrank inside an alignment.
  if (result == 0 || replica.current_nbytes() <= reached) {
    return fail(slot, read, replica.ended_early(reached, end));
  }
  // Direct I/O goes on at the aligned offset below.
  const std::uint64_t resume = reached / read.access.unit_bytes * read.access.unit_bytes;
  if (resume <= read.at) return retry(slot, read, EIO);
  read.at = resume;
  read.stalls = 0;
  issue(slot, read);
  return Next::completion;
}

SlotReader::Next SlotReader::retry(Slot& slot, LaneRead& read, int error) {
  if (++read.stalls > kStallsAllowed) {
    return fail(slot, read,
                Failure{error, "read", replica_of(read).path(), read.at,
                        "no progress in " + std::to_string(kStallsAllowed) + " tries"});
  }
  if (read.stalls > kStallsWithoutPause)
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  issue(slot, read);
  return Next::completion;
}

// A read failed: another replica is asked for the same bytes, if none is asked yet, or the job
// fails.
SlotReader::Next SlotReader::fail(Slot& slot, LaneRead& failed, Failure failure) {
  Tries& tries = slot.tries;
  const std::uint64_t nbytes = failed.span.nbytes();
  desk_.read_finished(failed.shard, failed.replica, nbytes, ReadEnd::failed);
  tries.fail(failure, failed.replica);
  if (slot.hedge != nullptr) {
    go_on_without(slot, reads_, failed);
    return Next::completion;
  }
  if (const auto replica = desk_.next_replica(slot.shard(), tries.now().useless())) {
    tries.ask(*replica);
    desk_.read_started(slot.shard(), *replica, nbytes);
    read(slot);
    return Next::completion;
  }
  if (state_.options.surveys) return go_without(slot);
  close_incidents(slot);
  blame_hung(state_, slot.shard(), tries.now().span);
  state_.fail(slot.shard(), std::move(failure));
  return Next::unsound;
}

// Of a survey: no replica of a span could be read. Its chunks are tried one by one, which tells how
// much of it is lost; a single chunk is done without.
SlotReader::Next SlotReader::go_without(Slot& slot) {
  const Extent span = slot.tries.now().span;
  const auto& table = state_.layout.shards[slot.shard()].table;
  const std::uint64_t step = table ? table->grid.chunk_bytes : span.nbytes();
  if (!slot.tries.split(step, slot.work.replica)) note(slot.tries.take_lost(span));
  if (slot.tries.has_later()) return next_try(slot);
  count_sound(state_, slot.work.block);
  return Next::sound;
}

SlotReader::Next SlotReader::verify(Slot& slot, LaneRead& read) {
  const std::uint64_t nbytes = read.span.nbytes();
  LoadCounters& counters = state_.counters;
  const bool fed = replica_of(read).feed() != nullptr;
  (fed                       ? counters.bytes_fed
   : read.access.is_direct() ? counters.bytes_direct
                             : counters.bytes_buffered)
      .fetch_add(nbytes);
  times_.nbytes += nbytes;
  const bool persistent = state_.options.persistent;
  if (persistent) {
    const auto damaged = timed(times_.verify, [&] {
      return damaged_chunks(state_, read.shard, read.replica, read.span,
                            read.data_at(read.span.begin));
    });
    if (!damaged) return Next::unsound;
    slot.tries.note_damage(*damaged);
    if (!damaged->empty() && slot.hedge != nullptr) {  // the other one may be sound
      go_on_without(slot, reads_, read);
      if (slot.read->state == LaneRead::State::out) slot.stage.move_to(Stage::reading);
      return Next::completion;
    }
    keep_first(slot, reads_, read);
    if (read.hedge && damaged->empty()) ++state_.counters.hedges_won;
    if (!damaged->empty() && !read_again(slot, *damaged)) return Next::unsound;
    if (slot.tries.has_incidents()) note(slot.tries.take_remedied());
  } else if (timed(times_.verify, [&] { return fastio::verify(state_, slot.work, read.data); }) ==
             Soundness::unsound) {
    return Next::unsound;
  }
  if (slot.tries.has_later()) return next_try(slot);
  if (persistent) count_sound(state_, slot.work.block);
  return Next::sound;
}

// The damaged chunks of a read are to be read later. False where no replica is left.
bool SlotReader::read_again(Slot& slot, std::span<const DamagedChunk> damaged) {
  Tries& tries = slot.tries;
  std::size_t replica = tries.now().replica;
  if (const auto useless = tries.useless_for(damaged)) {
    const auto other = desk_.next_replica(slot.shard(), *useless);
    if (!other && state_.options.surveys) {
      for (const DamagedChunk& chunk : damaged) note(tries.take_lost(chunk.extent));
      return true;
    }
    if (!other) {
      close_incidents(slot);
      blame_hung(state_, slot.shard(), damaged.front().extent);
      state_.fail(damaged.front());
      return false;
    }
    replica = *other;
  }
  tries.read_later(damaged, replica);
  return true;
}

SlotReader::Next SlotReader::next_try(Slot& slot) {
  slot.tries.next();
  const Try& now = slot.tries.now();
  desk_.read_started(slot.shard(), now.replica, now.span.nbytes());
  read(slot);
  return Next::completion;
}

void SlotReader::note(std::vector<Incident> incidents) {
  for (Incident& incident : incidents) state_.incidents.note(std::move(incident));
}

void SlotReader::close_incidents(Slot& slot) noexcept {
  for (Incident& incident : slot.tries.take_all()) {
    try {
      state_.incidents.note(std::move(incident));
    } catch (const std::bad_alloc&) {  // the job fails for that
    }
  }
}

}  // namespace fastio
