// Which block is read next, and from which replica. Several disks are read at once, each at its
// measured rate.
//
// Pure: no I/O, no clock of its own, no lock; whoever owns it guards it and says what time it is.
// Allocates nothing once it is made. With one disk, blocks come in the order that they have.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace fastio {

class Dispatch {
 public:
  using Clock = std::chrono::steady_clock;
  using Time = Clock::time_point;

  struct Block {
    std::size_t shard = 0;
    std::uint64_t nbytes = 0;
  };

  struct Pick {
    std::size_t block = 0, replica = 0;
  };

  // `disks` of each shard: where its replicas lie, the preferred one first. Blocks come in the
  // order that they are wanted in.
  Dispatch(const std::vector<std::vector<std::uint64_t>>& disks, std::vector<Block> blocks);

  // With one disk there is nothing to choose: of its reads nothing needs to be told.
  [[nodiscard]] bool chooses() const { return disks_.size() > 1; }

  // Blocks before `end` may be picked; none at first.
  void open_until(std::size_t end) { opened_ = end; }
  [[nodiscard]] std::size_t opened() const { return opened_; }

  // Whether some disk would have more to do with more blocks open.
  [[nodiscard]] bool wants_more();

  // The next block for the disk that is expected to be done with one more first; its read is
  // under way from then on. A disk takes those whose preferred replica it has, then others that it
  // has a replica of. One that stands idle comes first with what it alone has.
  [[nodiscard]] std::optional<Pick> pick(Time now);

  // The blocks [first, last) are not read any more, as far as they were not picked.
  void skip(std::size_t first, std::size_t last);
  [[nodiscard]] bool over() const { return untaken_ == 0; }

  // The same blocks are to be read after all, or once more.
  void put_back(std::size_t first, std::size_t last);

  // Of reads beside those picked; and of the end of each read, with what it brought.
  void started(std::size_t shard, std::size_t replica, std::uint64_t nbytes, Time now);
  void finished(std::size_t shard, std::size_t replica, std::uint64_t nbytes, std::uint64_t brought,
                Time now);

  // No block is picked from this replica any more, unless there is no other.
  void avoid(std::size_t shard, std::size_t replica);
  // It is asked again after all.
  void admit(std::size_t shard, std::size_t replica);
  [[nodiscard]] bool avoided(std::size_t shard, std::size_t replica) const {
    return replicas_[shard][replica].avoided;
  }

 private:
  struct Replica {
    std::size_t disk = 0;
    bool avoided = false;
  };

  // Some blocks in order, of which those at the front are done with.
  struct Queue {
    std::vector<std::size_t> blocks;
    std::size_t at = 0;
  };

  struct Disk {
    Queue own, shared, alone;  // by preference, beside another disk, and what no other has
    std::uint64_t in_flight_bytes = 0;
    double done_bytes = 0, busy_s = 0;  // fading
    Time counted_until;                 // in busy_s
    Time quiet_since;                   // of the reads that are under way
  };

  [[nodiscard]] std::optional<std::size_t> replica_on(std::size_t shard, std::size_t disk) const;
  [[nodiscard]] std::optional<std::size_t> first_of(std::size_t disk, Queue& queue) const;
  [[nodiscard]] std::optional<std::size_t> next_of(std::size_t disk);
  static void advance(Disk& disk, Time now);
  [[nodiscard]] double mean_rate() const;
  [[nodiscard]] static double rate_of(const Disk& disk, double mean, Time now);

  std::vector<Block> blocks_;
  std::vector<std::vector<Replica>> replicas_;  // of each shard
  std::vector<Disk> disks_;
  std::vector<char> taken_;
  std::size_t opened_ = 0;
  std::size_t untaken_ = 0;
};

}  // namespace fastio
