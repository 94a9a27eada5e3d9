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
#include "loader_verify.h"
#include "rounding.h"

namespace fastio {
namespace {

// EAGAIN and reads that bring nothing, in a row, before it is an error.
constexpr unsigned kStallsAllowed = 64;
constexpr unsigned kStallsWithoutPause = 4;

}  // namespace

const Replica& SlotReader::replica_of(const Slot& slot) const {
  return state_.layout.shards[slot.shard()].replicas[slot.tries.now().replica];
}

File& SlotReader::file_of(const Slot& slot) const {
  File* const file = replica_of(slot).file();
  FASTIO_ASSERT(file != nullptr);
  return *file;
}

// How a slot's next read is done.
Slot::Access SlotReader::access_for(const Slot& slot) const {
  const Try& now = slot.tries.now();
  if (now.again) {
    const DirectAccess direct = direct_for(state_.layout.shards[slot.shard()], now.replica);
    return {direct.possible && takes_direct(slot, direct.alignment) ? direct.alignment : 1};
  }
  const ShardAccess& access = state_.layout.access(slot.shard(), now.replica);
  switch (access.mode) {
    case ReadMode::direct:
      return {access.alignment};
    case ReadMode::by_block: {
      const std::uint64_t nbytes = now.span.nbytes();
      const auto resident = file_of(slot).resident_bytes(now.span.begin, nbytes).value_or(0);
      return resident < nbytes ? Slot::Access{access.alignment} : Slot::Access{1, true};
    }
    case ReadMode::mapped:
    case ReadMode::buffered:
    case ReadMode::fed:
      break;
  }
  return {1, access.resident && !state_.options.surveys};
}

// Whether direct I/O can put a span where it belongs, also where its file is not read so otherwise:
// at an aligned address, and with room for whole units.
bool SlotReader::takes_direct(const Slot& slot, std::uint64_t unit_bytes) const {
  const Extent& span = slot.tries.now().span;
  const Region& memory = slot.work.region ? *slot.work.region : slot.staging.memory();
  const std::byte* data = slot.data_at(span.begin);
  const std::byte* end = memory.at(memory.file_offset()) + memory.nbytes();
  return span.begin % unit_bytes == 0 &&
         reinterpret_cast<std::uintptr_t>(data) %
                 std::min<std::uint64_t>(unit_bytes, page_bytes()) ==
             0 &&
         round_up(span.nbytes(), unit_bytes) <= static_cast<std::uint64_t>(end - data);
}

void SlotReader::start(Slot& slot, std::uint32_t tag) {
  slot.tries.begin(slot.shard(), slot.work.block.range.extent(), slot.work.replica);
  read(slot, tag);
}

// Begins the read of the slot's present try.
void SlotReader::read(Slot& slot, std::uint32_t tag) {
  const Try& now = slot.tries.now();
  slot.at = now.span.begin;
  slot.stalls = 0;
  slot.access = access_for(slot);
  const bool past_cache = now.again || state_.options.surveys;
  if (past_cache && !slot.access.is_direct()) drop_cached(slot);
  issue(slot, tag);
}

// Empties the page cache of the present try: a read through it then comes from the disk.
void SlotReader::drop_cached(const Slot& slot) const {
  if (replica_of(slot).file() != nullptr)
    file_of(slot).drop_cached(slot.at, slot.tries.now().span.end);
}

int SlotReader::descriptor_of(const Slot& slot) const {
  if (replica_of(slot).feed() != nullptr) return -1;
  return slot.access.is_direct() ? file_of(slot).direct_fd() : file_of(slot).buffered_fd();
}

void SlotReader::issue(Slot& slot, std::uint32_t tag) {
  FASTIO_ASSERT(slot.at % slot.access.unit_bytes == 0 && slot.at < slot.tries.now().span.end);
  // The file may end inside its last unit of direct I/O. Regions and staging have room for the
  // whole unit, and places that are read to directly are whole units.
  const std::uint64_t nbytes =
      round_up(slot.tries.now().span.end - slot.at, slot.access.unit_bytes);
  slot.stage.move_to(Stage::reading);
  requests_.add({descriptor_of(slot), slot.at, slot.data_at(slot.at),
                 static_cast<std::uint32_t>(nbytes), tag, Operation::read,
                 replica_of(slot).feed()});
  if (vigil_) slot.asked = vigil_->time();
}

SlotReader::Next SlotReader::settle(Slot& slot, std::uint32_t tag, std::int32_t result) {
  FASTIO_ASSERT(slot.stage == Stage::reading);
  const auto& [begin, end] = slot.tries.now().span;
  const Replica& replica = replica_of(slot);
  if (state_.crew.stopping()) return Next::unsound;
  if (result < 0) {
    const int error = -result;
    if (error == EINTR || error == EAGAIN) return retry(slot, tag, error);
    if (error == EINVAL && slot.access.is_direct()) {
      file_of(slot).forbid_direct("a direct read was refused with EINVAL");
      state_.outcome.note_fallback(
          replica.path() + ": a direct read was refused with EINVAL, read through the page cache");
      slot.access.unit_bytes = 1;
      if (slot.tries.now().again || state_.options.surveys) drop_cached(slot);
      issue(slot, tag);
      return Next::completion;
    }
    const std::string why = replica.feed() != nullptr ? replica.feed()->why(slot.at) : "";
    return fail(slot, tag, Failure{error, "read", replica.path(), slot.at, why});
  }
  const std::uint64_t reached = slot.at + static_cast<std::uint32_t>(result);
  if (reached >= end) {
    desk_.read_finished(slot.shard(), slot.tries.now().replica, end - begin, ReadEnd::complete);
    slot.stage.move_to(Stage::arrived);
    return Next::verification;
  }
  // Asked, because direct I/O never gets to the end of a file that shrank inside an alignment.
  if (result == 0 || replica.current_nbytes() <= reached) {
    return fail(slot, tag, replica.ended_early(reached, end));
  }
  // Direct I/O goes on at the aligned offset below.
  const std::uint64_t resume = reached / slot.access.unit_bytes * slot.access.unit_bytes;
  if (resume <= slot.at) return retry(slot, tag, EIO);
  slot.at = resume;
  slot.stalls = 0;
  issue(slot, tag);
  return Next::completion;
}

SlotReader::Next SlotReader::retry(Slot& slot, std::uint32_t tag, int error) {
  if (++slot.stalls > kStallsAllowed) {
    return fail(slot, tag,
                Failure{error, "read", replica_of(slot).path(), slot.at,
                        "no progress in " + std::to_string(kStallsAllowed) + " tries"});
  }
  if (slot.stalls > kStallsWithoutPause)
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  issue(slot, tag);
  return Next::completion;
}

// A read failed: another replica is asked for the same bytes, or the job fails.
SlotReader::Next SlotReader::fail(Slot& slot, std::uint32_t tag, Failure failure) {
  Tries& tries = slot.tries;
  const std::uint64_t nbytes = tries.now().span.nbytes();
  desk_.read_finished(slot.shard(), tries.now().replica, nbytes, ReadEnd::failed);
  tries.fail(failure);
  if (const auto replica = desk_.next_replica(slot.shard(), tries.now().useless())) {
    tries.ask(*replica);
    desk_.read_started(slot.shard(), *replica, nbytes);
    read(slot, tag);
    return Next::completion;
  }
  if (state_.options.surveys) return go_without(slot, tag);
  close_incidents(slot);
  blame_hung(state_, slot.shard(), tries.now().span);
  state_.fail(slot.shard(), std::move(failure));
  return Next::unsound;
}

// Of a survey: no replica of a span could be read. Its chunks are tried one by one, which tells how
// much of it is lost; a single chunk is done without.
SlotReader::Next SlotReader::go_without(Slot& slot, std::uint32_t tag) {
  const Extent span = slot.tries.now().span;
  const auto& table = state_.layout.shards[slot.shard()].table;
  const std::uint64_t step = table ? table->grid.chunk_bytes : span.nbytes();
  if (!slot.tries.split(step, slot.work.replica)) note(slot.tries.take_lost(span));
  if (slot.tries.has_later()) return next_try(slot, tag);
  count_sound(state_, slot.work.block);
  return Next::sound;
}

SlotReader::Next SlotReader::verify(Slot& slot, std::uint32_t tag) {
  const std::uint64_t nbytes = slot.tries.now().span.nbytes();
  LoadCounters& counters = state_.counters;
  const bool fed = replica_of(slot).feed() != nullptr;
  (fed                       ? counters.bytes_fed
   : slot.access.is_direct() ? counters.bytes_direct
                             : counters.bytes_buffered)
      .fetch_add(nbytes);
  times_.nbytes += nbytes;
  const bool persistent = state_.options.persistent;
  const bool sound = timed(times_.verify, [&] {
    return persistent ? examine(slot)
                      : fastio::verify(state_, slot.work, slot.data) == Soundness::sound;
  });
  if (!sound) return Next::unsound;
  if (slot.tries.has_later()) return next_try(slot, tag);
  if (persistent) count_sound(state_, slot.work.block);
  return Next::sound;
}

// Compares what came; what is damaged of it is to be read later. False where the job stops, or no
// replica is left.
bool SlotReader::examine(Slot& slot) {
  const Try& now = slot.tries.now();
  const auto damaged =
      damaged_chunks(state_, slot.shard(), now.replica, now.span, slot.data_at(now.span.begin));
  if (!damaged) return false;
  slot.tries.note_damage(*damaged);
  if (!damaged->empty() && !read_again(slot, *damaged)) return false;
  if (slot.tries.has_incidents()) note(slot.tries.take_remedied());
  return true;
}

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

SlotReader::Next SlotReader::next_try(Slot& slot, std::uint32_t tag) {
  slot.tries.next();
  const Try& now = slot.tries.now();
  desk_.read_started(slot.shard(), now.replica, now.span.nbytes());
  read(slot, tag);
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
