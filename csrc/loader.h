// A read job: extents of files in, verified bytes out, to regions of its own or to places that are
// given.
//
// A job plans (loader_layout.h), chooses how each replica of a file is read, and starts lanes
// (loader_lane.h) that take blocks from one desk (loader_blocks.h). Its state
// (loader_state.h) is shared with them. A job knows no tensor names, dtypes or formats.
//
// Members may be called from any thread. The caller waits for the whole job, takes region after
// region, or cancels. A cancelled job may be dropped at once, since lanes hold its state. Memory
// with a read in it lives until that read returns, and counts as abandoned. Places belong to the
// caller, who waits until the job has released them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "loader_delivery.h"
#include "loader_request.h"
#include "loader_solo.h"
#include "loader_state.h"

namespace fastio {

// How a job was done.
struct LoadReport {
  std::string engine = "none";  // "uring", "pread", "mmap", "inline", "none"
  std::string engine_reason;
  std::size_t lanes = 0;
  // Of the lanes that have ended, the first one first.
  std::vector<LaneTimes> lane_times;
};

class LoadJob {
 public:
  // Plans and starts. Throws IoError, MemoryLimitExceeded, std::invalid_argument, std::bad_alloc;
  // then nothing is left behind.
  static std::shared_ptr<LoadJob> start(std::vector<ShardRequest> shards,
                                        const LoadOptions& options);

  // The same in two steps, each of them once. Servers are asked in the first one, which writes to
  // no place: whoever waits for it may leave. The second comes behind the callers' streams.
  static std::shared_ptr<LoadJob> prepare(std::vector<ShardRequest> shards,
                                          const LoadOptions& options);
  void launch();

  explicit LoadJob(std::shared_ptr<LoadState> state);
  LoadJob(const LoadJob&) = delete;
  LoadJob& operator=(const LoadJob&) = delete;
  ~LoadJob() = default;

  // True when no lane is at work any more.
  [[nodiscard]] bool wait_for(std::chrono::milliseconds timeout);

  // Stops within milliseconds. Regions that a read is still writing to are abandoned, all others
  // are freed.
  void cancel();

  // True when the caller's memory is released: nothing is written to given places any more. They
  // hold no byte then that was not verified, where there is a table.
  [[nodiscard]] bool wait_until_released(std::chrono::milliseconds timeout);

  // True when every byte that goes to a device is verified and its copy is in a stream, or none
  // will be any more. If nothing has failed then, work behind the copies may be queued.
  [[nodiscard]] bool wait_until_queued(std::chrono::milliseconds timeout);

  // Later work in that stream waits for these copies, also for those to other devices.
  [[nodiscard]] std::optional<Failure> hold_back(const DeviceTarget& later);

  // Whether all bytes of an extent are at their place.
  [[nodiscard]] bool is_placed(std::size_t shard, std::size_t extent) const;

  // After success: takes the memory over. regions[shard][i] belongs to plan(shard).regions[i].
  [[nodiscard]] std::vector<std::vector<std::shared_ptr<Region>>> take_regions();

  // With window_bytes: its regions one by one.
  [[nodiscard]] RegionDelivery& delivery() { return delivery_; }

  [[nodiscard]] const LoadLayout& layout() const { return state_->layout; }
  // Of failures the first ones are known once wait_for said true.
  [[nodiscard]] const Outcome& outcome() const { return state_->outcome; }
  // Tries that failed, also where another one was sound.
  [[nodiscard]] IncidentLog& incidents() const { return state_->incidents; }
  [[nodiscard]] const LoadCounters& counters() const { return state_->counters; }
  [[nodiscard]] LoadReport report() const;

  // For whoever attends it.
  [[nodiscard]] bool has_failed() const { return outcome().has_failed(); }
  [[nodiscard]] std::uint64_t bytes_done() const { return counters().progress(); }
  [[nodiscard]] std::uint64_t bytes_total() const { return layout().bytes_total; }

 private:
  // Whether a small job whose bytes are in memory was done on the caller's thread.
  [[nodiscard]] bool finish_inline();

  std::shared_ptr<LoadState> state_;
  SoloLane solo_;
  RegionDelivery delivery_;
  LoadReport report_;  // written until launch() returns; lane_times are the state's
  bool needs_lanes_ = false;
};

}  // namespace fastio
