// Which reads are worth waiting for: none of a disk that has a read and brings nothing for a given
// time. It hangs.
//
// The lanes of a job share one Answers; each looks at it through a Vigil of its own. Both make no
// system call; the time is told to them. A vigil counts no more of it than a lane spends between
// two looks at its engine: a process that was stopped for a minute has not waited for a minute.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

namespace fastio {

// Members may be called from any thread.
class Answers {
 public:
  // `disks` of each shard: where its replicas lie (st_dev).
  explicit Answers(const std::vector<std::vector<std::uint64_t>>& disks);

  // The disk of a replica, by its index here.
  [[nodiscard]] std::size_t disk_of(std::size_t shard, std::size_t replica) const {
    return disk_of_[shard][replica];
  }
  [[nodiscard]] std::size_t disk_count() const { return disks_.size(); }
  [[nodiscard]] std::uint64_t id_of(std::size_t disk) const { return disks_[disk].id; }

  // A read has ended, well or not.
  void came(std::size_t disk) { disks_[disk].answers.fetch_add(1, std::memory_order_relaxed); }

  // A read that is out is late; and it has ended.
  void begin_late(std::size_t disk) { disks_[disk].late.fetch_add(1, std::memory_order_relaxed); }
  void end_late(std::size_t disk) { disks_[disk].late.fetch_sub(1, std::memory_order_relaxed); }
  [[nodiscard]] bool has_late(std::size_t shard, std::size_t replica) const {
    return disks_[disk_of(shard, replica)].late.load(std::memory_order_relaxed) != 0;
  }

  // Whether it was found to hang, by any lane of the job.
  [[nodiscard]] bool hangs(std::size_t disk) const { return disks_[disk].hangs != 0; }
  [[nodiscard]] bool hangs(std::size_t shard, std::size_t replica) const {
    return hangs(disk_of(shard, replica));
  }

  // Whether a replica of a shard lies on a disk that was not found to hang; also on another disk
  // than the given one.
  [[nodiscard]] bool has_answering(std::size_t shard) const;
  [[nodiscard]] bool has_answering_beside(std::size_t shard, std::size_t disk) const;

 private:
  friend class Vigil;

  struct alignas(64) Disk {  // lanes count on different ones at once
    explicit Disk(std::uint64_t disk) : id(disk) {}
    std::uint64_t id;
    std::atomic<std::uint64_t> answers{0};
    std::atomic<unsigned> hangs{0};  // how often it was found to hang
    std::atomic<unsigned> late{0};   // reads that are out
  };

  std::deque<Disk> disks_;
  std::vector<std::vector<std::size_t>> disk_of_;  // of each replica of each shard
};

// How one lane looks at them. It is used by one thread at a time.
class Vigil {
 public:
  using Clock = std::chrono::steady_clock;
  using Duration = Clock::duration;

  // A read that is out, time() when its latest request was made, and whether another disk has its
  // bytes: it is waited for half as long then. `since`: when its first request was made.
  struct Read {
    std::size_t disk = 0;
    Duration asked{};
    bool elsewhere = false;
    Duration since{};
  };

  // `timeout` is that of disks, `late_after` that of single reads.
  Vigil(Answers& answers, Duration timeout, Duration late_after = Duration::max());

  // How often it is time to look.
  [[nodiscard]] Duration interval() const { return interval_; }

  // Lets time pass; true when it is time to look again.
  [[nodiscard]] bool pass(Clock::time_point now);

  // The time that was counted until now.
  [[nodiscard]] Duration time() const { return time_; }

  // Given all reads of this lane that are out: true when some disk was found to hang since the last
  // look, by this lane or another.
  [[nodiscard]] bool look(std::span<const Read> reads);
  [[nodiscard]] bool found(std::size_t disk) const { return seen_[disk].found; }

  // The verdict on a read that is out, by the last look.
  enum class Verdict : std::uint8_t {
    awaited,
    late,  // another replica may be faster
    lost,  // its disk hangs: no read that is out there is worth waiting for
  };
  [[nodiscard]] Verdict judge(const Read& read) const;

 private:
  struct Seen {
    std::uint64_t answers = 0;
    unsigned hangs = 0;
    Duration quiet_since{};
    bool found = false;
  };

  Answers& answers_;
  Duration timeout_, late_after_, interval_;
  Clock::time_point before_;
  Duration time_{}, looked_{};
  std::vector<Seen> seen_;  // of each disk
};

// "no answer in time (Options.root_timeout_s is 10 s)"
[[nodiscard]] std::string no_answer_for(std::chrono::nanoseconds timeout);
// Of disks that owe an answer already.
inline constexpr const char* kOwesAnswer = "an earlier request has no answer yet";

// Disks that owe this process the answer to a read that nobody waits for any more, by st_dev.
// Members may be called from any thread.
void note_debt(std::uint64_t disk);
void note_answer(std::uint64_t disk);  // to one of these reads
[[nodiscard]] bool owes_answer(std::uint64_t disk);

}  // namespace fastio
