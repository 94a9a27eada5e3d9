#include "saver.h"

#include <algorithm>
#include <new>
#include <stdexcept>
#include <utility>

#include "lanes.h"
#include "saver_lane.h"

namespace fastio {
namespace {

// Memory for all data. Throws MemoryLimitExceeded, OutOfMemory.
std::shared_ptr<Region> make_snapshot(const SaveState& state) {
  const std::uint64_t asked = state.data.nbytes();
  const std::uint64_t limit = state.options.memory_limit_bytes.value_or(UINT64_MAX);
  const std::uint64_t held = abandoned_bytes();
  if (asked > limit || held > limit - asked) throw MemoryLimitExceeded(asked, limit, held);
  return Region::allocate(state.data.begin, asked, state.options.huge_pages);
}

void end_lane(SaveState& state) {
  MutexLock lock(state.crew.mutex);
  if (state.crew.running() == 1 && state.crew.stopping()) {
    auto unneeded = std::move(state.snapshot);
    lock.unlock();  // freeing takes its time, and nobody who cancels waits for it
    unneeded.reset();
    lock.lock();
  }
  state.crew.end_lane();
}

void run_lane(SaveState& state, std::unique_ptr<SaveLane> lane) {
  try {
    lane->run();
  } catch (const std::bad_alloc& error) {
    state.fail_without_memory(error);
  }
  lane.reset();  // waits for writes that are still out
  end_lane(state);
}

void run_alone(SaveState& state, std::unique_ptr<SaveLane> lane) {
  try {
    state.outcome.note_fallback(
        "no thread could be started: written on the caller's, where Ctrl-C has to wait");
  } catch (const std::bad_alloc& error) {
    state.fail_without_memory(error);
  }
  run_lane(state, std::move(lane));
}

}  // namespace

std::shared_ptr<SaveJob> SaveJob::make(std::shared_ptr<TargetFile> file, Origins origins,
                                       const SaveOptions& options) {
  return std::make_shared<SaveJob>(
      std::make_shared<SaveState>(std::move(file), std::move(origins), options));
}

void SaveJob::check_leg(Leg leg, std::size_t first, std::size_t last) const {
  {
    const MutexLock lock(state_->crew.mutex);
    if (state_->crew.running() != 0 || state_->crew.stopping())
      throw std::logic_error("no leg can be started now");
  }
  if (first > last || last > block_count()) throw std::invalid_argument("no such blocks");
  const bool all_once = !state_->snapshot && first == 0 && last == block_count();
  if (leg == Leg::copied && first != last && !all_once)
    throw std::invalid_argument("all blocks are copied, once");
}

void SaveJob::start(Leg leg, std::size_t first, std::size_t last) {
  check_leg(leg, first, last);
  if (first == last) return;
  std::shared_ptr<Region> snapshot;
  if (leg == Leg::copied) snapshot = make_snapshot(*state_);
  choose_way(leg);
  state_->next_block = first;
  state_->last_block = last;
  start_lanes(last - first, std::move(snapshot));
}

// Past the page cache only where blocks and staging, which come in units of 64 KiB, suit the file.
void SaveJob::choose_way(Leg leg) {
  state_->leg = leg;
  state_->alignment = 1;
  if (leg != Leg::direct) return;
  TargetFile& file = *state_->file;
  const DirectAccess direct = file.direct_access();
  if (direct.possible && state_->data.begin % direct.alignment == 0 &&
      kBlockUnit % direct.alignment == 0) {
    state_->alignment = direct.alignment;
    return;
  }
  state_->leg = Leg::buffered;
  const std::string why = direct.possible ? "direct writes begin at multiples of " +
                                                std::to_string(direct.alignment) + " bytes there"
                                          : direct.reason;
  state_->outcome.note_fallback(file.path() + ": " + why + ", written through the page cache");
}

void SaveJob::start_lanes(std::size_t block_count, std::shared_ptr<Region> snapshot) {
  const SaveOptions& options = state_->options;
  // Not by a ring: of one write FUSE gets parts at once from it, and they come in any order.
  const bool in_order = state_->leg == Leg::in_order;
  const unsigned queue_depth = in_order ? 1 : options.queue_depth;
  const std::size_t count = std::min<std::size_t>(in_order ? 1 : options.lanes, block_count);
  EngineSet set;
  if (!state_->writes()) {
    set.engines.resize(count);
  } else {
    try {
      set = make_engines(in_order ? EnginePreference::pread : options.engine, count, queue_depth);
    } catch (const IoError& error) {
      throw concerning(state_->file->path(), Failure::Kind::write, error);
    }
    report_.engine = name_of(set.kind);
    report_.engine_reason =
        in_order ? "a file is written in order by calls" : std::move(set.reason);
  }
  std::vector<std::unique_ptr<SaveLane>> lanes;
  lanes.reserve(count);
  for (auto& engine : set.engines) {
    lanes.push_back(std::make_unique<SaveLane>(state_, std::move(engine), queue_depth));
  }
  state_->outcome.make_room_for_lanes(count);
  {
    const MutexLock lock(state_->crew.mutex);
    state_->staging.reserve(std::size_t{options.lanes} * options.queue_depth);
    if (snapshot) state_->snapshot = std::move(snapshot);
  }
  try {
    const std::size_t started = fastio::start_lanes(
        state_->crew, std::move(lanes),
        [state = state_](std::unique_ptr<SaveLane> lane) { run_lane(*state, std::move(lane)); },
        [&](std::unique_ptr<SaveLane> lane) { run_alone(*state_, std::move(lane)); });
    report_.lanes = std::max(report_.lanes, started);
  } catch (const std::bad_alloc&) {
    cancel();  // blocks that were not copied must not be written
    throw;
  }
}

void SaveJob::write_to(std::shared_ptr<TargetFile> file) {
  const MutexLock lock(state_->crew.mutex);
  if (state_->crew.running() != 0) throw std::logic_error("the file cannot change during a leg");
  state_->file = std::move(file);
}

bool SaveJob::wait_for(std::chrono::milliseconds timeout) {
  return state_->crew.wait_until_gone(timeout);
}

bool SaveJob::wait_until_released(std::chrono::milliseconds timeout) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  const auto released = [this]() FASTIO_REQUIRES(state_->crew.mutex) {
    return state_->looking == 0 && (state_->crew.stopping() || state_->crew.running() == 0);
  };
  MutexLock lock(state_->crew.mutex);
  while (!released()) {
    if (!state_->crew.changed.wait_until(lock, until)) return released();
  }
  return true;
}

void SaveJob::cancel() {
  const MutexLock lock(state_->crew.mutex);
  state_->crew.stop();
  if (state_->crew.running() == 0) state_->snapshot.reset();  // else by the last lane
  if (state_->snapshot) state_->snapshot->abandon();
  state_->staging.clear();
}

}  // namespace fastio
