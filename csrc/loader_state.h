// The state of a load that its lanes share with the job and with each other.
//
// The lanes and the job hold it together, so that memory with a read in it lives until that read
// has returned. Members that the crew's mutex guards say so. All others are either written before a
// lane runs, or safe for concurrent use by multiple threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "answers.h"
#include "crew.h"
#include "device_ends.h"
#include "growth.h"
#include "incidents.h"
#include "ledger.h"
#include "loader_ahead.h"
#include "loader_layout.h"
#include "loader_memory.h"
#include "loader_request.h"
#include "loader_times.h"
#include "outcome.h"
#include "replica_choice.h"
#include "window.h"

namespace fastio {

struct LoadCounters {
  std::atomic<std::uint64_t> bytes_direct{0}, bytes_buffered{0}, bytes_mapped{0}, bytes_fed{0};
  std::atomic<std::uint64_t> chunks_sound{0}, chunks_trusted{0}, bytes_done{0};
  std::atomic<std::uint64_t> reads_hedged{0}, hedges_won{0};
  std::atomic<std::uint64_t> bytes_told{0};  // done, before something was to be read anew

  // Chunks whose checksum was compared.
  [[nodiscard]] std::uint64_t chunks_verified() const { return chunks_sound - chunks_trusted; }

  // Never less than before, where something is read anew as well.
  [[nodiscard]] std::uint64_t progress() const {
    return std::max(bytes_done.load(), bytes_told.load());
  }
};

struct LoadState {
  // `answers` is null where no disk is watched.
  LoadState(LoadOptions allowed, LoadLayout made, std::unique_ptr<Answers> watched,
            std::vector<std::shared_ptr<Region>> mappings);
  LoadState(const LoadState&) = delete;
  LoadState& operator=(const LoadState&) = delete;
  ~LoadState() = default;

  // Plans everything and makes the regions, unless there is a window. Throws IoError,
  // MemoryLimitExceeded, std::invalid_argument, std::bad_alloc.
  static std::shared_ptr<LoadState> make(std::vector<ShardRequest> shards,
                                         const LoadOptions& options);

  // Each of them ends the job.
  void fail(std::size_t shard, Failure failure);
  void fail(const DamagedChunk& damage);
  void fail_without_memory(const std::bad_alloc& error);
  void stop();

  [[nodiscard]] bool may_grow() const { return options.lanes_limit.value_or(0) > options.lanes; }

  // The path of the first file, for errors that concern no other one.
  [[nodiscard]] std::string first_path() const;

  const LoadOptions options;
  const LoadLayout layout;
  const std::unique_ptr<Answers> answers;
  const bool several_disks;
  std::vector<std::unique_ptr<Event>> ready;  // of each device, before the first lane runs
  Outcome outcome;
  IncidentLog incidents;
  LoadCounters counters;
  MappingAhead ahead;

  Crew crew;
  ReplicaChoice replicas FASTIO_GUARDED_BY(crew.mutex);
  Window window FASTIO_GUARDED_BY(crew.mutex);
  Ledger ledger FASTIO_GUARDED_BY(crew.mutex);
  RegionMemory regions FASTIO_GUARDED_BY(crew.mutex);
  DeviceEnds ends FASTIO_GUARDED_BY(crew.mutex);
  LaneGrowth growth FASTIO_GUARDED_BY(crew.mutex);
  // Of all lanes, with those that wait for reads that nobody else waits for.
  std::size_t reads FASTIO_GUARDED_BY(crew.mutex) = 0;
  // Of the lanes that have ended, the first one first.
  std::vector<LaneTimes> lane_times FASTIO_GUARDED_BY(crew.mutex);
};

}  // namespace fastio
