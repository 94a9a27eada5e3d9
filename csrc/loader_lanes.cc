#include "loader_lanes.h"

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "assertions.h"
#include "lanes.h"
#include "mutex.h"

namespace fastio {
namespace {

// The end of a lane whose lost reads are all that it waits for.
enum class LostReads : std::uint8_t {
  waited_for,  // by its thread
  abandoned,
};

void succeed(const std::shared_ptr<LoadState>& state, const Lane& lane);

// Runs a lane to its end. Lost reads are waited for by nobody who waits for the job.
void run_lane(const std::shared_ptr<LoadState>& state, std::unique_ptr<Lane> lane,
              LostReads lost_reads) {
  try {
    lane->run();
  } catch (const std::bad_alloc& error) {
    state->fail_without_memory(error);
  }
  note_times(*state, lane->times());
  const bool hangs = lane->left() != 0 && lane->only_left();
  if (!hangs) {
    lane.reset();  // waits for reads that are still out
    return end_lane(*state);
  }
  lane->free_unused();
  succeed(state, *lane);
  end_lane(*state);
  if (lost_reads == LostReads::abandoned) abandon(std::move(lane));
}

// Runs a lane on a thread of its own.
auto on_thread(const std::shared_ptr<LoadState>& state) {
  return [state](std::unique_ptr<Lane> lane) {
    run_lane(state, std::move(lane), LostReads::waited_for);
  };
}

void note_no_thread(LoadState& state) {
  try {
    state.outcome.note_fallback(
        state.options.window_bytes
            ? "no thread could be started: read on the caller's, and nothing ahead"
            : "no thread could be started: read on the caller's, where Ctrl-C has to wait");
  } catch (const std::bad_alloc& error) {
    state.fail_without_memory(error);
  }
}

// Starts threads for the lanes. The lane of a windowed load without threads is returned in `solo`.
StartedLanes run_lanes(const std::shared_ptr<LoadState>& state,
                       std::vector<std::unique_ptr<Lane>> lanes) {
  StartedLanes started;
  started.count =
      start_lanes(state->crew, std::move(lanes), on_thread(state), [&](std::unique_ptr<Lane> lane) {
        note_no_thread(*state);
        lane->hedge_nothing();
        if (state->options.window_bytes) {
          started.solo = std::move(lane);
        } else {
          run_lane(state, std::move(lane), LostReads::abandoned);
        }
      });
  return started;
}

void succeed(const std::shared_ptr<LoadState>& state, const Lane& lane) {
  auto next = successor_of(state, lane);
  if (!next) return;
  try {
    std::vector<std::unique_ptr<Lane>> lanes;
    lanes.push_back(std::move(next));
    StartedLanes started = run_lanes(state, std::move(lanes));
    if (started.solo) run_lane(state, std::move(started.solo), LostReads::waited_for);
  } catch (const std::bad_alloc& error) {
    state->fail_without_memory(error);
  }
}

// Engines for so many lanes; none of them has one where nothing is read. The kernel reads no feed:
// threads read all of a job that has one.
EngineSet engines_for(const LoadState& state, std::size_t count, unsigned slots) {
  if (state.layout.bytes_to_read == 0) {
    EngineSet none;
    none.engines.resize(count);
    return none;
  }
  const unsigned queue_depth = slots * state.layout.reads_per_slot();
  if (!std::ranges::any_of(state.layout.shards, &ShardRequest::has_feed))
    return make_engines(state.options.engine, count, queue_depth);
  EngineSet set = make_engines(EnginePreference::pread, count, queue_depth);
  set.reason = "some bytes come from elsewhere than a file, which only threads read";
  return set;
}

// All reads that so many lanes may have out.
std::size_t reads_of(const LoadState& state, std::size_t lanes) {
  return lanes * state.options.queue_depth * state.layout.reads_per_slot();
}

// A lane needs no memory then for what it tells at its end.
void make_room_for_lanes(LoadState& state, std::size_t count) FASTIO_REQUIRES(state.crew.mutex) {
  state.outcome.make_room_for_lanes(count);
  state.lane_times.reserve(state.lane_times.capacity() + count);
}

std::vector<std::unique_ptr<Lane>> make_lanes(const std::shared_ptr<LoadState>& state,
                                              EngineSet& set) {
  std::vector<std::unique_ptr<Lane>> lanes;
  lanes.reserve(set.engines.size());
  for (auto& engine : set.engines) {
    lanes.push_back(std::make_unique<Lane>(state, std::move(engine), state->options.queue_depth));
  }
  const MutexLock lock(state->crew.mutex);
  make_room_for_lanes(*state, lanes.size());
  return lanes;
}

// How many slots a lane may have that succeeds another one; 0: it is not needed, or there is no
// memory. Those that wait for lost reads keep their staging, which counts against the limit.
unsigned take_slots(LoadState& state, const Lane& lane) {
  const LoadOptions& options = state.options;
  const std::uint64_t staging_bytes = state.layout.staging_bytes;
  const MutexLock lock(state.crew.mutex);
  if (state.crew.stopping() || state.replicas.dispatch().over()) return 0;
  FASTIO_ASSERT(state.reads >= lane.reads() - lane.left());
  state.reads -= lane.reads() - lane.left();
  std::uint64_t slots = options.queue_depth;
  const std::uint64_t limit = options.devices.empty()
                                  ? options.memory_limit_bytes.value_or(UINT64_MAX)
                                  : options.pinned_limit_bytes;
  // Memory of regions is made at once, or bounded by the window.
  const bool is_bounded = state.layout.fills || (state.layout.hedges() && !options.window_bytes);
  if (is_bounded && staging_bytes != 0) {
    const std::uint64_t regions = state.layout.fills ? 0 : state.layout.memory_bytes;
    const std::uint64_t most = (limit - std::min(limit, regions)) / staging_bytes;
    const std::uint64_t room = most > state.reads ? most - state.reads : 0;
    slots = std::min(slots, room / state.layout.reads_per_slot());
  }
  if (slots == 0) {
    state.outcome.fail(MemoryLimitExceeded(staging_bytes, limit, lane.left() * staging_bytes));
    state.crew.stop();
  }
  state.reads += slots * state.layout.reads_per_slot();
  make_room_for_lanes(state, 1);
  return static_cast<unsigned>(slots);
}

// How many lanes to add now.
std::size_t take_growth(LoadState& state) {
  const std::uint64_t done = state.counters.progress();
  const std::uint64_t total = state.layout.bytes_total;
  const MutexLock lock(state.crew.mutex);
  if (state.crew.stopping() || state.replicas.dispatch().over()) return 0;
  const std::size_t added =
      state.growth.ask(LaneGrowth::Clock::now(), done, total - std::min(total, done));
  state.reads += reads_of(state, added);
  return added;
}

// So many of the lanes that growth counts could not be had: those that run do all the work.
void stop_growth(LoadState& state, std::size_t missing) {
  const MutexLock lock(state.crew.mutex);
  state.growth.stop_at(state.growth.lanes() - missing);
  state.reads -= reads_of(state, missing);
}

// Lanes for a job that runs: none where a limit of the process or memory allows no more.
std::vector<std::unique_ptr<Lane>> more_lanes(const std::shared_ptr<LoadState>& state,
                                              std::size_t count) {
  try {
    EngineSet set = engines_for(*state, count, state->options.queue_depth);
    return make_lanes(state, set);
  } catch (const IoError&) {
  } catch (const std::bad_alloc&) {
  }
  return {};
}

}  // namespace

StartedLanes start_lanes(const std::shared_ptr<LoadState>& state) {
  const LoadOptions& options = state->options;
  const auto count = std::min<std::size_t>(options.lanes, state->layout.blocks.size());
  EngineSet set;
  try {
    set = engines_for(*state, count, options.queue_depth);
  } catch (const IoError& error) {
    throw concerning(state->first_path(), Failure::Kind::read, error);
  }
  auto lanes = make_lanes(state, set);
  {
    const MutexLock lock(state->crew.mutex);
    const std::size_t most =
        std::min<std::size_t>(options.lanes_limit.value_or(0), state->layout.blocks.size());
    state->growth = {lanes.size(), most};
    state->reads = reads_of(*state, lanes.size());
  }
  StartedLanes started = run_lanes(state, std::move(lanes));
  if (state->layout.bytes_to_read != 0) {
    started.engine = name_of(set.kind);
    started.reason = std::move(set.reason);
  }
  return started;
}

std::unique_ptr<Lane> successor_of(const std::shared_ptr<LoadState>& state, const Lane& lane) {
  try {
    const unsigned slots = take_slots(*state, lane);
    if (slots == 0) return nullptr;
    EngineSet set = engines_for(*state, 1, slots);
    return std::make_unique<Lane>(state, std::move(set.engines.front()), slots);
  } catch (const IoError& error) {
    state->fail(0, concerning(state->first_path(), Failure::Kind::read, error).failure());
  } catch (const std::bad_alloc& error) {
    state->fail_without_memory(error);
  }
  return nullptr;
}

void grow(const std::shared_ptr<LoadState>& state) {
  if (!state->may_grow()) return;
  const std::size_t added = take_growth(*state);
  if (added == 0) return;
  std::vector<std::unique_ptr<Lane>> lanes = more_lanes(state, added);
  std::size_t started = 0, refused = 0;
  try {
    started = start_lanes(state->crew, std::move(lanes), on_thread(state),
                          [&](std::unique_ptr<Lane> lane) {
                            ++refused;
                            lane.reset();
                            end_lane(*state);
                          });
  } catch (const std::bad_alloc& error) {
    state->fail_without_memory(error);
  }
  started -= refused;
  if (started < added) stop_growth(*state, added - started);
}

void end_lane(LoadState& state) {
  const MutexLock lock(state.crew.mutex);
  state.crew.end_lane();
}

void note_times(LoadState& state, const LaneTimes& times) {
  const MutexLock lock(state.crew.mutex);
  state.lane_times.push_back(times);
}

void abandon(std::unique_ptr<Lane> lane) {
  struct Abandoned {
    Mutex mutex;
    std::vector<std::unique_ptr<Lane>> lanes FASTIO_GUARDED_BY(mutex);
  };
  static auto* const abandoned = new Abandoned();  // never destroyed
  const MutexLock lock(abandoned->mutex);
  abandoned->lanes.push_back(std::move(lane));
}

}  // namespace fastio
