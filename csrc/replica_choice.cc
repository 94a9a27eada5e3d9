#include "replica_choice.h"

#include <utility>

#include "assertions.h"

namespace fastio {
namespace {

constexpr unsigned kFailedReadsMost = 3;

}  // namespace

ReplicaChoice::ReplicaChoice(const std::vector<std::vector<std::uint64_t>>& disks,
                             std::vector<Dispatch::Block> blocks)
    : dispatch_(disks, std::move(blocks)) {
  failed_reads_.reserve(disks.size());
  for (const auto& of_shard : disks) failed_reads_.emplace_back(of_shard.size(), 0);
}

void ReplicaChoice::started(std::size_t shard, std::size_t replica, std::uint64_t nbytes,
                            Time now) {
  if (dispatch_.chooses()) dispatch_.started(shard, replica, nbytes, now);
}

void ReplicaChoice::finished(std::size_t shard, std::size_t replica, std::uint64_t nbytes,
                             ReadEnd end, Time now) {
  const bool failed = end == ReadEnd::failed;
  if (dispatch_.chooses()) dispatch_.finished(shard, replica, nbytes, failed ? 0 : nbytes, now);
  if (failed && ++failed_reads_[shard][replica] == kFailedReadsMost)
    dispatch_.avoid(shard, replica);
}

std::optional<std::size_t> ReplicaChoice::next(std::size_t shard, ReplicaSet tried,
                                               const Answers* answers) const {
  std::optional<std::size_t> last;
  for (std::size_t replica = failed_reads_[shard].size(); replica-- > 0;) {
    if ((tried & only(replica)) != 0 || (answers != nullptr && answers->hangs(shard, replica)))
      continue;
    if (!last || !fails(shard, replica) || fails(shard, *last)) last = replica;
  }
  return last;
}

std::optional<std::size_t> ReplicaChoice::beside(std::size_t shard, std::size_t asked,
                                                 ReplicaSet tried, const Answers& answers) const {
  for (std::size_t replica = 0; replica < failed_reads_[shard].size(); ++replica) {
    const bool other = answers.disk_of(shard, replica) != answers.disk_of(shard, asked);
    const bool bad = dispatch_.avoided(shard, replica) || fails(shard, replica);
    const bool silent = answers.hangs(shard, replica) || answers.has_late(shard, replica);
    if (other && !bad && !silent && (tried & only(replica)) == 0) return replica;
  }
  return std::nullopt;
}

void ReplicaChoice::avoid_hung(const Answers& answers) {
  for (std::size_t shard = 0; shard < failed_reads_.size(); ++shard) {
    const std::size_t replicas = failed_reads_[shard].size();
    bool left = false;  // a replica that is asked, and does not hang
    for (std::size_t replica = 0; replica < replicas; ++replica) {
      left = left || (!answers.hangs(shard, replica) && !dispatch_.avoided(shard, replica));
    }
    for (std::size_t replica = 0; replica < replicas && !left; ++replica) {
      // Better than one that hangs.
      if (!answers.hangs(shard, replica)) dispatch_.admit(shard, replica);
    }
    for (std::size_t replica = 0; replica < replicas; ++replica) {
      if (answers.hangs(shard, replica)) dispatch_.avoid(shard, replica);
    }
  }
}

bool ReplicaChoice::fails(std::size_t shard, std::size_t replica) const {
  FASTIO_ASSERT(replica < failed_reads_[shard].size());
  return failed_reads_[shard][replica] >= kFailedReadsMost;
}

}  // namespace fastio
