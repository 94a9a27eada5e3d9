// Device ends: how far the copies of a load have come in each stream of its lanes.
//
// Takes no lock; whoever owns the ends guards them. Streams are named by their address and are not
// touched; events live as long as somebody holds them.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "device.h"
#include "error.h"

namespace fastio {

// The end of some copies in each stream that they are in.
using StreamEnds = std::vector<std::pair<const Stream*, std::shared_ptr<Event>>>;

class DeviceEnds {
 public:
  // The events come behind all that were recorded of their streams before.
  void record(const StreamEnds& ends);

  // Later work in the target's stream waits for the last copy in each stream, also for those to
  // other devices.
  [[nodiscard]] std::optional<Failure> hold_back(const DeviceTarget& later) const;

 private:
  std::map<const Stream*, std::shared_ptr<Event>> last_;
};

}  // namespace fastio
