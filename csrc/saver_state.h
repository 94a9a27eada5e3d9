// The state of a save that its lanes share with the job and with each other.
//
// The lanes and the job hold it together, so memory with a write out lives until that write
// returns. Members that the crew's mutex guards are marked so. Members that describe a leg are
// written while no lane runs. All others are safe for concurrent use by multiple threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "crew.h"
#include "defaults.h"
#include "device.h"
#include "engine.h"
#include "file_target.h"
#include "memory.h"
#include "origins.h"
#include "outcome.h"
#include "plan.h"

namespace fastio {

// Blocks begin at multiples of it behind the first byte of data.
constexpr std::uint64_t kBlockUnit = std::uint64_t{64} << 10;

struct SaveOptions {
  EnginePreference engine = EnginePreference::automatic;
  HugePages huge_pages = HugePages::automatic;
  std::uint64_t block_bytes = kDefaultBlockBytes / kSaveBlocksInOne;
  unsigned queue_depth = kDefaultQueueDepth;
  unsigned lanes = 2;
  std::optional<std::uint64_t> memory_limit_bytes;
  std::uint64_t chunk_bytes = 0;  // of a checksum; 0: none are taken
  const Algorithm* algorithm = &default_algorithm();
  std::vector<DeviceTarget> devices = {};  // that origins may be on
  std::uint64_t pinned_limit_bytes = kDefaultPinnedLimitBytes;
};

enum class Leg {
  direct,    // past the page cache; through it where that is refused, noted as a fallback
  buffered,  // through it
  in_order,  // through it, one block after another, for files that take no byte out of its turn
  copied,    // into memory of the job's own, and nothing is written
  summed,    // the checksums are taken, and nothing is written
};

struct SaveCounters {
  std::atomic<std::uint64_t> bytes_direct{0}, bytes_buffered{0}, bytes_gathered{0};
  std::atomic<std::uint64_t> bytes_rewritten{0};  // since the caller's memory changed meanwhile
  std::atomic<std::uint64_t> bytes_done{0};
};

struct SaveState {
  // Cuts the data into blocks, so small and so few in flight that staging stays within its bounds.
  // Throws std::invalid_argument, MemoryLimitExceeded where the limit is below one block.
  SaveState(std::shared_ptr<TargetFile> target, Origins gathered, const SaveOptions& asked);
  SaveState(const SaveState&) = delete;
  SaveState& operator=(const SaveState&) = delete;
  ~SaveState() = default;

  // Each of them ends the job.
  void fail(Failure failure);
  void fail_without_memory(const std::bad_alloc& error);
  void stop();

  [[nodiscard]] bool writes() const { return leg != Leg::copied && leg != Leg::summed; }
  [[nodiscard]] std::size_t block_count() const;

  const Origins origins;
  const SaveOptions options;  // within its bounds; blocks are of whole chunks
  const Extent data;
  Outcome outcome;
  SaveCounters counters;
  std::vector<std::unique_ptr<Event>> ready;  // of each device
  Digests digests;                            // a lane puts those of its blocks

  // Of the leg.
  std::shared_ptr<TargetFile> file;
  Leg leg = Leg::direct;
  std::uint64_t alignment = 1;  // of the leg's writes
  std::size_t last_block = 0;
  std::atomic<std::size_t> next_block{0};

  // The caller's memory was seen to change: nothing more is written from there.
  std::atomic<bool> memory_changes{false};

  Crew crew;
  // Of all data: the origins are not looked at any more then. Lanes read the pointer, which does
  // not change while one of them runs.
  std::shared_ptr<Region> snapshot;
  // Lanes that look at the caller's memory.
  std::size_t looking FASTIO_GUARDED_BY(crew.mutex) = 0;
  // Blocks that were written from the caller's memory.
  std::vector<Extent> from_memory FASTIO_GUARDED_BY(crew.mutex);
  // That no lane has.
  std::vector<std::shared_ptr<Region>> staging FASTIO_GUARDED_BY(crew.mutex);
};

}  // namespace fastio
