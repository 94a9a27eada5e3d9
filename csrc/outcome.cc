#include "outcome.h"

#include <algorithm>
#include <cerrno>

#include "assertions.h"

namespace fastio {
namespace {

// A lane runs out of memory twice at most: in its work, and in what it tells when it ends.
constexpr std::size_t kFailuresOfALane = 2;

}  // namespace

void Outcome::make_room_for_lanes(std::size_t count) {
  const MutexLock lock(mutex_);
  failures_.reserve(failures_.capacity() + kFailuresOfALane * count);
}

void Outcome::fail(std::size_t shard, Failure failure) {
  const MutexLock lock(mutex_);
  failures_.emplace_back(shard, std::move(failure));
}

void Outcome::fail(const DamagedChunk& damage) {
  const MutexLock lock(mutex_);
  FASTIO_ASSERT(damage.expected != damage.found);
  damages_.push_back(damage);
}

void Outcome::fail(const MemoryLimitExceeded& exceeded) {
  const MutexLock lock(mutex_);
  exceeded_.emplace(exceeded);
}

void Outcome::fail_without_memory(const std::bad_alloc& error) {
  const MutexLock lock(mutex_);
  no_memory_.asked_bytes = asked_of(error);
  const Failure::Kind kind = no_memory_.kind;
  failures_.emplace_back(0, std::exchange(no_memory_, {ENOMEM, "allocate", {}, {}, {}, kind}));
}

void Outcome::cancel() {
  const MutexLock lock(mutex_);
  cancelled_ = true;
}

void Outcome::note_fallback(const std::string& what) {
  const MutexLock lock(mutex_);
  if (std::ranges::find(fallbacks_, what) == fallbacks_.end()) fallbacks_.push_back(what);
}

std::optional<Failure> Outcome::failure() const {
  const MutexLock lock(mutex_);
  const auto first = std::ranges::min_element(failures_, [](const auto& a, const auto& b) {
    return std::pair(a.first, a.second.offset) < std::pair(b.first, b.second.offset);
  });
  return first == failures_.end() ? std::nullopt : std::optional(first->second);
}

std::optional<DamagedChunk> Outcome::damage() const {
  const MutexLock lock(mutex_);
  const auto first = std::ranges::min_element(damages_, [](const auto& a, const auto& b) {
    return std::pair(a.shard, a.chunk) < std::pair(b.shard, b.chunk);
  });
  return first == damages_.end() ? std::nullopt : std::optional(*first);
}

std::optional<MemoryLimitExceeded> Outcome::exceeded() const {
  const MutexLock lock(mutex_);
  return exceeded_;
}

bool Outcome::has_failed() const {
  const MutexLock lock(mutex_);
  return !failures_.empty() || !damages_.empty() || exceeded_.has_value();
}

bool Outcome::cancelled() const {
  const MutexLock lock(mutex_);
  return cancelled_;
}

std::vector<std::string> Outcome::fallbacks() const {
  const MutexLock lock(mutex_);
  return fallbacks_;
}

}  // namespace fastio
