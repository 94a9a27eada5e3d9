// Incidents: tries of a load that failed, and what helped.
//
// A log is safe for concurrent use by multiple threads. It keeps a bounded number of incidents for
// whoever takes them, and lives as long as its job.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "checksum.h"
#include "error.h"
#include "mutex.h"
#include "plan.h"

namespace fastio {

// A try that failed, and what helped.
struct Incident {
  enum class Remedy { none, read_again, other_replica };

  std::size_t shard = 0, replica = 0;
  Extent extent;                   // the chunk that is damaged, or what was to be read
  std::optional<Failure> failure;  // of the read; none: the checksum is another one
  Digest expected = {}, found = {};
  Remedy remedy = Remedy::none;
  std::size_t remedied_by = 0;  // the replica
};

class IncidentLog {
 public:
  // Incidents that touch each other are joined where there are more than `joined_above`.
  static constexpr std::size_t kJoinedAbove = 1000;
  static constexpr std::size_t kMost = 16'000;

  explicit IncidentLog(std::size_t joined_above = kJoinedAbove, std::size_t most = kMost)
      : joined_above_(joined_above), most_(most) {}

  void note(Incident incident);

  // Those since the last call. Of many, those that touch each other are one, with the digests of
  // the first; of very many the first ones.
  [[nodiscard]] std::vector<Incident> take();
  [[nodiscard]] std::uint64_t dropped() const;

 private:
  const std::size_t joined_above_, most_;
  mutable Mutex mutex_;
  std::vector<Incident> incidents_ FASTIO_GUARDED_BY(mutex_);
  std::size_t joined_at_ FASTIO_GUARDED_BY(mutex_) = 0;  // how many are joined next
  std::uint64_t dropped_ FASTIO_GUARDED_BY(mutex_) = 0;
};

}  // namespace fastio
