#include "answers.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "mutex.h"
#include "process.h"

namespace fastio {
namespace {

constexpr std::chrono::milliseconds kLook{20};  // how often a lane looks, at least
constexpr std::chrono::milliseconds kLookLeast{1};
// The most time that counts between two calls: a lane calls more often, unless its thread did not
// run.
constexpr std::chrono::milliseconds kTurnMost{100};

struct Debts {
  Mutex mutex;
  std::map<std::uint64_t, std::size_t> reads FASTIO_GUARDED_BY(mutex);  // of each disk
};

}  // namespace

Answers::Answers(const std::vector<std::vector<std::uint64_t>>& disks) {
  for (const std::vector<std::uint64_t>& of_shard : disks) {
    std::vector<std::size_t>& indices = disk_of_.emplace_back();
    for (const std::uint64_t id : of_shard) {
      const auto found = std::ranges::find(disks_, id, &Disk::id);
      indices.push_back(static_cast<std::size_t>(found - disks_.begin()));
      if (found == disks_.end()) disks_.emplace_back(id);
    }
  }
}

bool Answers::has_answering(std::size_t shard) const {
  return std::ranges::any_of(disk_of_[shard], [&](std::size_t disk) { return !hangs(disk); });
}

bool Answers::has_answering_beside(std::size_t shard, std::size_t disk) const {
  return std::ranges::any_of(disk_of_[shard],
                             [&](std::size_t other) { return other != disk && !hangs(other); });
}

Vigil::Vigil(Answers& answers, Duration timeout, Duration late_after)
    : answers_(answers),
      timeout_(timeout),
      late_after_(late_after),
      interval_(std::clamp<Duration>(late_after / 2, kLookLeast, kLook)),
      before_(Clock::time_point::max()),
      seen_(answers.disk_count()) {
  for (std::size_t disk = 0; disk < seen_.size(); ++disk) {
    seen_[disk].answers = answers_.disks_[disk].answers.load(std::memory_order_relaxed);
    seen_[disk].hangs = answers_.disks_[disk].hangs;  // that was dealt with before
  }
}

bool Vigil::pass(Clock::time_point now) {
  if (now > before_) time_ += std::min<Duration>(now - before_, kTurnMost);
  before_ = now;
  if (time_ - looked_ < interval_) return false;
  looked_ = time_;
  return true;
}

bool Vigil::look(std::span<const Read> reads) {
  for (std::size_t disk = 0; disk < seen_.size(); ++disk) {
    Seen& seen = seen_[disk];
    const std::uint64_t came = answers_.disks_[disk].answers.load(std::memory_order_relaxed);
    if (came == seen.answers) continue;
    seen.answers = came;
    seen.quiet_since = time_;
  }
  for (const Read& read : reads) {
    const Seen& seen = seen_[read.disk];
    const Duration timeout = read.elsewhere ? timeout_ / 2 : timeout_;
    if (time_ - std::max(read.asked, seen.quiet_since) < timeout) continue;
    unsigned known = seen.hangs;  // if another lane found it meanwhile, it counts once
    answers_.disks_[read.disk].hangs.compare_exchange_strong(known, known + 1);
  }
  bool any = false;
  for (std::size_t disk = 0; disk < seen_.size(); ++disk) {
    Seen& seen = seen_[disk];
    const unsigned hangs = answers_.disks_[disk].hangs;
    seen.found = hangs != seen.hangs;
    if (!seen.found) continue;
    seen.hangs = hangs;
    seen.quiet_since = time_;
    any = true;
  }
  return any;
}

Vigil::Verdict Vigil::judge(const Read& read) const {
  if (found(read.disk)) return Verdict::lost;
  return time_ - read.since < late_after_ ? Verdict::awaited : Verdict::late;
}

std::string no_answer_for(std::chrono::nanoseconds timeout) {
  char seconds[32];
  std::snprintf(seconds, sizeof seconds, "%g", std::chrono::duration<double>(timeout).count());
  return std::string("no answer in time (Options.root_timeout_s is ") + seconds + " s)";
}

void note_debt(std::uint64_t disk) {
  auto& debts = process_state<Debts>();
  const MutexLock lock(debts.mutex);
  ++debts.reads[disk];
}

void note_answer(std::uint64_t disk) {
  auto& debts = process_state<Debts>();
  const MutexLock lock(debts.mutex);
  const auto found = debts.reads.find(disk);
  if (found != debts.reads.end() && --found->second == 0) debts.reads.erase(found);
}

bool owes_answer(std::uint64_t disk) {
  auto& debts = process_state<Debts>();
  const MutexLock lock(debts.mutex);
  return debts.reads.contains(disk);
}

}  // namespace fastio
