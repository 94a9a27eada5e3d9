// The replica that a read of a load asks: the order of the blocks, and which replicas fail or hang.
//
// Takes no lock; whoever owns a choice guards it, and says what time it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "answers.h"
#include "dispatch.h"

namespace fastio {

enum class ReadEnd : std::uint8_t { complete, failed };

// Some replicas of a shard: a bit for each.
using ReplicaSet = std::uint64_t;
[[nodiscard]] constexpr ReplicaSet only(std::size_t replica) { return ReplicaSet{1} << replica; }

class ReplicaChoice {
 public:
  using Time = Dispatch::Time;

  // `disks` of each shard: where its replicas lie, the preferred one first.
  ReplicaChoice(const std::vector<std::vector<std::uint64_t>>& disks,
                std::vector<Dispatch::Block> blocks);

  [[nodiscard]] Dispatch& dispatch() { return dispatch_; }

  // A read beside those that the dispatch has picked.
  void started(std::size_t shard, std::size_t replica, std::uint64_t nbytes, Time now);
  // The end of each read. A replica of three failed reads is asked when no other one is left.
  void finished(std::size_t shard, std::size_t replica, std::uint64_t nbytes, ReadEnd end,
                Time now);

  // The replica to ask next, if those of `tried` are of no use. `answers` may be null.
  [[nodiscard]] std::optional<std::size_t> next(std::size_t shard, ReplicaSet tried,
                                                const Answers* answers) const;

  // The replica to ask as well, while the read of `asked` is late: on another disk that is not
  // late, not of `tried`, and not avoided.
  [[nodiscard]] std::optional<std::size_t> beside(std::size_t shard, std::size_t asked,
                                                  ReplicaSet tried, const Answers& answers) const;

  // Where disks hang, other replicas are asked as far as there are others.
  void avoid_hung(const Answers& answers);

 private:
  [[nodiscard]] bool fails(std::size_t shard, std::size_t replica) const;

  Dispatch dispatch_;
  std::vector<std::vector<unsigned>> failed_reads_;  // of each replica of each shard
};

}  // namespace fastio
