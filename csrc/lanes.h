// Threads for the lanes of a job. They are detached and hold the job, so that whoever started it
// may leave while a device still has a request of theirs.
#pragma once

#include <cstddef>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace fastio {

// Runs job->run_lane(lane) on a thread for each lane, and returns how many there are: fewer than
// asked for do the same work. If the host grants no thread, job->run_alone(lane) is called here.
// All memory that this needs is there before the first one starts; where it is not, std::bad_alloc
// comes and job->cancel() was called. Before each lane runs, job->lane_joins(); for one that does
// not come to run, job->lane_finished().
template <typename Job, typename Lane>
std::size_t start_lanes(const std::shared_ptr<Job>& job, std::vector<std::unique_ptr<Lane>> made) {
  // Each is handed over to its thread, or taken back where there is no thread for it.
  std::vector<std::shared_ptr<std::unique_ptr<Lane>>> lanes;
  lanes.reserve(made.size());
  for (auto& lane : made) lanes.push_back(std::make_shared<std::unique_ptr<Lane>>(std::move(lane)));
  std::size_t started = 0;
  for (const auto& handed : lanes) {
    job->lane_joins();
    try {
      std::thread([job, handed] { job->run_lane(std::move(*handed)); }).detach();
      ++started;
    } catch (const std::system_error&) {
      if (started != 0) {
        job->lane_finished();
        break;
      }
      job->run_alone(std::move(*handed));
      return 1;
    } catch (...) {  // no memory: nobody learns of this job, so those that were started stop
      job->lane_finished();
      job->cancel();
      throw;
    }
  }
  return started;
}

}  // namespace fastio
