// The outcome of a load or a save: failures, damage, and fallbacks.
//
// An outcome is safe for concurrent use by multiple threads. Its mutex is its own and guards
// nothing else, so any other mutex may be held when it is called. It lives as long as its job.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checksum.h"
#include "error.h"
#include "mutex.h"
#include "plan.h"

namespace fastio {

struct DamagedChunk {
  std::size_t shard = 0, replica = 0;
  std::uint64_t chunk = 0;
  Extent extent;
  Digest expected = {}, found = {};
};

class Outcome {
 public:
  // `no_memory` is the failure that is told when there is no memory left, not even for telling it.
  explicit Outcome(Failure no_memory) : no_memory_(std::move(no_memory)) {}

  // From now on so many lanes more can tell that they have no memory.
  void make_room_for_lanes(std::size_t count);

  void fail(std::size_t shard, Failure failure);
  void fail(const DamagedChunk& damage);
  void fail(const MemoryLimitExceeded& exceeded);
  // Allocates nothing. Names the first file: which one has to do without is not known.
  void fail_without_memory(const std::bad_alloc& error);
  // The caller has cancelled the job before it was done: what is missing then is no failure.
  void cancel();
  // Each text is kept once.
  void note_fallback(const std::string& what);

  // The first failure by shard and offset, and the first damaged chunk by shard and number.
  [[nodiscard]] std::optional<Failure> failure() const;
  [[nodiscard]] std::optional<DamagedChunk> damage() const;
  // More memory was needed than the limit leaves.
  [[nodiscard]] std::optional<MemoryLimitExceeded> exceeded() const;
  [[nodiscard]] bool has_failed() const;
  [[nodiscard]] bool cancelled() const;
  [[nodiscard]] std::vector<std::string> fallbacks() const;

 private:
  mutable Mutex mutex_;
  Failure no_memory_ FASTIO_GUARDED_BY(mutex_);
  std::vector<std::pair<std::size_t, Failure>> failures_ FASTIO_GUARDED_BY(mutex_);  // by shard
  std::vector<DamagedChunk> damages_ FASTIO_GUARDED_BY(mutex_);
  std::optional<MemoryLimitExceeded> exceeded_ FASTIO_GUARDED_BY(mutex_);
  std::vector<std::string> fallbacks_ FASTIO_GUARDED_BY(mutex_);
  bool cancelled_ FASTIO_GUARDED_BY(mutex_) = false;
};

}  // namespace fastio
