// The lanes of a load: started, followed by others when a disk hangs, and ended.
//
// The functions may be called from any thread, without the crew's mutex.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "loader_lane.h"
#include "loader_state.h"

namespace fastio {

struct StartedLanes {
  std::string engine;  // "uring", "pread"; empty where nothing is read
  std::string reason;
  std::size_t count = 0;
  // Of a windowed load that got no thread; the lane has joined the crew.
  std::unique_ptr<Lane> solo;
};

// Throws IoError, std::bad_alloc; then the crew was stopped, and lanes may still be ending.
[[nodiscard]] StartedLanes start_lanes(const std::shared_ptr<LoadState>& state);

// A lane that takes the place of one with lost reads, where something is left to do. If it cannot
// be made, the job has failed.
[[nodiscard]] std::unique_ptr<Lane> successor_of(const std::shared_ptr<LoadState>& state,
                                                 const Lane& lane);

// A block is done: lanes are added where that pays.
void grow(const std::shared_ptr<LoadState>& state);

// A lane has ended: whoever waits for the job is told.
void end_lane(LoadState& state);
void note_times(LoadState& state, const LaneTimes& times);

// Nobody waits for the lane any more: it keeps its reads, and so their memory, for as long as the
// process lives.
void abandon(std::unique_ptr<Lane> lane);

}  // namespace fastio
