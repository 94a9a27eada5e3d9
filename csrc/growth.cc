#include "growth.h"

#include <algorithm>

namespace fastio {
namespace {

using std::chrono::duration;

// A lane does a block of 4 MiB in about 2 ms (verified, into fresh memory).
constexpr double kWindow_s = 3e-3;
constexpr std::size_t kBlocksOfALane = 2;  // in a window, at least
constexpr double kHold_s = 0.2;            // a window while nothing is added
constexpr double kRise = 0.07;             // by less it is noise
constexpr double kChange = 0.25;           // of the rate while nothing is added: another source
constexpr unsigned kWindowsMost = 2;       // that may be lost to noise
constexpr double kWorthWindows = 4;        // less work is done before new lanes pay

}  // namespace

std::size_t LaneGrowth::ask(Time now, std::uint64_t bytes_done, std::uint64_t bytes_left) {
  if (!can_grow()) return 0;
  if (!begun_) {
    begun_ = true;
    begin(Phase::filling, now, bytes_done);
    return 0;
  }
  ++blocks_;
  if (phase_ == Phase::filling) {
    if (blocks_ >= lanes_) begin(Phase::measuring, now, bytes_done);
    return 0;
  }
  const double seconds = duration<double>(now - since_).count();
  const bool holds = phase_ == Phase::holding;
  if (seconds < (holds ? kHold_s : kWindow_s) || blocks_ < kBlocksOfALane * lanes_) return 0;
  const double rate =
      static_cast<double>(bytes_done - std::min(bytes_done, bytes_since_)) / seconds;
  const double left_s = static_cast<double>(bytes_left) / std::max(rate, 1.0);
  const double rise = rate / std::max(rate_before_, 1.0);
  const bool pays = holds ? rise < 1 - kChange || rise > 1 + kChange : rise > 1 + kRise;
  if (pays && left_s > kWorthWindows * kWindow_s) return grow(rate, now, bytes_done);
  if (!holds) rate_most_ = std::max(rate_most_, rate);
  if (!holds && ++windows_lost_ == kWindowsMost) {
    rate_before_ = rate_most_;
    begin(Phase::holding, now, bytes_done);
  } else {
    begin(phase_, now, bytes_done);
  }
  return 0;
}

void LaneGrowth::stop_at(std::size_t lanes) { lanes_ = most_ = lanes; }

void LaneGrowth::begin(Phase phase, Time now, std::uint64_t bytes_done) {
  phase_ = phase;
  since_ = now;
  bytes_since_ = bytes_done;
  blocks_ = 0;
}

std::size_t LaneGrowth::grow(double rate, Time now, std::uint64_t bytes_done) {
  const std::size_t added = std::min(lanes_, most_ - lanes_);
  lanes_ += added;
  rate_before_ = rate;
  rate_most_ = 0;
  windows_lost_ = 0;
  begin(Phase::filling, now, bytes_done);
  return added;
}

}  // namespace fastio
