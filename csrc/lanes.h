// Threads for the lanes of a job. They are detached and hold what their lanes need, so that whoever
// started a job may leave while a disk still has a request of it.
#pragma once

#include <cstddef>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "crew.h"

namespace fastio {

// Calls run(lane) on a thread for each lane, and returns how many there are: fewer than asked for
// do the same work. If the host grants no thread, alone(lane) is called here. Both end the lane in
// the crew. All memory that this needs is there before the first one starts; where
// it is not, std::bad_alloc comes and the crew was stopped.
template <typename Lane, typename Run, typename Alone>
std::size_t start_lanes(Crew& crew, std::vector<std::unique_ptr<Lane>> made, const Run& run,
                        const Alone& alone) {
  // Each is handed over to its thread, or taken back where there is no thread for it.
  std::vector<std::shared_ptr<std::unique_ptr<Lane>>> lanes;
  lanes.reserve(made.size());
  for (auto& lane : made) lanes.push_back(std::make_shared<std::unique_ptr<Lane>>(std::move(lane)));
  std::size_t started = 0;
  for (const auto& handed : lanes) {
    {
      const MutexLock lock(crew.mutex);
      crew.begin_lane();
    }
    try {
      std::thread([run, handed] { run(std::move(*handed)); }).detach();
      ++started;
    } catch (const std::system_error&) {
      if (started == 0) {
        alone(std::move(*handed));
        return 1;
      }
      const MutexLock lock(crew.mutex);
      crew.end_lane();
      break;
    } catch (...) {  // no memory: nobody learns of this job, so those that were started stop
      const MutexLock lock(crew.mutex);
      crew.end_lane();
      crew.stop();
      throw;
    }
  }
  return started;
}

}  // namespace fastio
