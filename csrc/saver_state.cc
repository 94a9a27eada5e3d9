#include "saver_state.h"

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <utility>

#include "rounding.h"

namespace fastio {
namespace {

// All lanes' staging together. More than this does not make a disk write faster, and it is the
// memory that a save may take beside the tensors.
constexpr std::uint64_t kStagingBytes = std::uint64_t{48} << 20;
constexpr std::uint64_t kSlotsOfALane = 3;  // one is gathered while others are written
// Of more of them each has smaller blocks: on 16 cores 12 lanes took 1.4 times as long as 8
// (bench/README.md, "Onto a GPU").
constexpr std::uint64_t kLanesMost = 8;
constexpr std::uint64_t kLargestBlockBytes = std::uint64_t{1} << 30;

void check(const Origins& origins, const SaveOptions& options) {
  if (options.queue_depth == 0 || options.queue_depth > 4096)
    throw std::invalid_argument("queue_depth not in 1..4096");
  if (options.lanes == 0 || options.lanes > 1024)
    throw std::invalid_argument("lanes not in 1..1024");
  if (options.block_bytes == 0 || options.block_bytes > kLargestBlockBytes)
    throw std::invalid_argument("block_bytes not in 1..1 GiB");
  if (options.chunk_bytes > kLargestBlockBytes || options.chunk_bytes % kBlockUnit != 0)
    throw std::invalid_argument("chunk_bytes is no multiple of 64 KiB below 1 GiB");
  origins.check();
  for (const int device : origins.devices) {
    if (device < kHost || device >= static_cast<int>(options.devices.size()))
      throw std::invalid_argument("an origin is on a device that the job has not");
  }
}

// Blocks of whole chunks, so small and so few in flight that staging stays within its bounds.
SaveOptions within_bounds(const Origins& origins, SaveOptions options) {
  check(origins, options);
  const std::uint64_t unit = options.chunk_bytes != 0 ? options.chunk_bytes : kBlockUnit;
  const std::uint64_t held = abandoned_bytes();
  std::uint64_t bound = std::max(kStagingBytes, unit);
  if (options.memory_limit_bytes) {
    if (*options.memory_limit_bytes < held || *options.memory_limit_bytes - held < unit)
      throw MemoryLimitExceeded(unit, *options.memory_limit_bytes, held);
    bound = std::min(bound, *options.memory_limit_bytes - held);
  }
  if (!options.devices.empty()) {
    if (options.pinned_limit_bytes < unit)
      throw MemoryLimitExceeded(unit, options.pinned_limit_bytes, 0);
    bound = std::min(bound, options.pinned_limit_bytes);
  }
  const auto lanes = std::min({std::uint64_t{options.lanes}, kLanesMost, bound / unit});
  const std::uint64_t largest = std::max(bound / (lanes * kSlotsOfALane) / unit * unit, unit);
  options.block_bytes = std::min(round_up(options.block_bytes, unit), largest);
  options.lanes = static_cast<unsigned>(lanes);
  options.queue_depth = static_cast<unsigned>(
      std::clamp<std::uint64_t>(bound / (lanes * options.block_bytes), 1, options.queue_depth));
  return options;
}

}  // namespace

SaveState::SaveState(std::shared_ptr<TargetFile> target, Origins gathered, const SaveOptions& asked)
    : origins(std::move(gathered)),
      options(within_bounds(origins, asked)),
      data(origins.range()),
      outcome(target->failed("allocate", ENOMEM, {})),
      ready(mark(options.devices)),  // reads from devices wait for the work in the caller's streams
      file(std::move(target)) {
  if (options.chunk_bytes == 0) return;
  from_memory.reserve(block_count());  // a lane that has written a block needs none
  digests = {*options.algorithm,
             round_up(data.nbytes(), options.chunk_bytes) / options.chunk_bytes};
}

std::size_t SaveState::block_count() const {
  return round_up(data.nbytes(), options.block_bytes) / options.block_bytes;
}

void SaveState::fail(Failure failure) {
  outcome.fail(0, std::move(failure));
  stop();
}

void SaveState::fail_without_memory(const std::bad_alloc& error) {
  outcome.fail_without_memory(error);
  stop();
}

void SaveState::stop() {
  const MutexLock lock(crew.mutex);
  crew.stop();
}

}  // namespace fastio
