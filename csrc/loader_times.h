// The time of a lane: parts that never overlap, and the whole.
#pragma once

#include <chrono>
#include <cstdint>
#include <utility>

namespace fastio {

struct LaneTimes {
  using Clock = std::chrono::steady_clock;

  Clock::duration submit{};      // in Engine::submit
  Clock::duration read_wait{};   // in Engine::wait, and bringing mapped blocks in
  Clock::duration verify{};      // comparing checksums
  Clock::duration place{};       // copying staged bytes to places on the host
  Clock::duration copy_queue{};  // queuing copies to devices
  Clock::duration copy_wait{};  // asking whether copies are done, or waiting with no read in flight
  Clock::duration room_wait{};  // getting pinned memory, or waiting for it or for the window
  Clock::duration total{};      // of Lane::run, with what is none of these parts
  std::uint64_t blocks = 0;     // that are verified and at their place
  std::uint64_t nbytes = 0;     // read, or verified in a mapping; bytes read again count again
};

// Adds the time that it lives to a part. Steps take whole blocks, so that reading the clock costs
// nothing beside them.
class StopWatch {
 public:
  explicit StopWatch(LaneTimes::Clock::duration& part) : part_(part) {}
  StopWatch(const StopWatch&) = delete;
  StopWatch& operator=(const StopWatch&) = delete;
  ~StopWatch() { part_ += LaneTimes::Clock::now() - start_; }

 private:
  LaneTimes::Clock::duration& part_;
  LaneTimes::Clock::time_point start_ = LaneTimes::Clock::now();
};

// Returns the result of `step`; its time is added to a part.
template <typename Step>
decltype(auto) timed(LaneTimes::Clock::duration& part, Step&& step) {
  const StopWatch watch(part);
  return std::forward<Step>(step)();
}

}  // namespace fastio
