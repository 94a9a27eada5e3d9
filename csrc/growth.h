// How many lanes a load has: it begins with few, and more are added for as long as that pays.
//
// Pure: no I/O, no clock of its own, no lock; whoever owns it guards it and says what time it is.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace fastio {

// The rate of a job is measured over windows. If it rose with the lanes that were added last, as
// many again are added. If it did not rise in two windows, nothing is added until the rate is
// another one: the bytes come from elsewhere then.
class LaneGrowth {
 public:
  using Clock = std::chrono::steady_clock;
  using Time = Clock::time_point;

  LaneGrowth() = default;  // nothing is ever added
  LaneGrowth(std::size_t first, std::size_t most) : lanes_(first), most_(most) {}

  [[nodiscard]] bool can_grow() const { return lanes_ < most_; }
  [[nodiscard]] std::size_t lanes() const { return lanes_; }

  // Told of each block that is done: the bytes of the whole job that are done, and that are left.
  // Returns how many lanes to add now; they are counted as added.
  [[nodiscard]] std::size_t ask(Time now, std::uint64_t bytes_done, std::uint64_t bytes_left);

  // Fewer could be added than `ask` said: there is no room for more.
  void stop_at(std::size_t lanes);

 private:
  // The purpose of the present window.
  enum class Phase : std::uint8_t {
    filling,    // lanes begin, and their first blocks are on their way
    measuring,  // the rate of the present lanes
    holding,    // more did not pay
  };

  void begin(Phase phase, Time now, std::uint64_t bytes_done);
  [[nodiscard]] std::size_t grow(double rate, Time now, std::uint64_t bytes_done);

  std::size_t lanes_ = 0, most_ = 0;
  Phase phase_ = Phase::filling;
  bool begun_ = false;
  Time since_;
  std::uint64_t bytes_since_ = 0;
  std::size_t blocks_ = 0;     // done in this window
  double rate_before_ = 0;     // bytes a second, of fewer lanes; while holding, of these
  double rate_most_ = 0;       // of the windows that were measured with these lanes
  unsigned windows_lost_ = 0;  // measured with these lanes, in which the rate had not risen
};

}  // namespace fastio
