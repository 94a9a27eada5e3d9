#include "device_ends.h"

#include "assertions.h"

namespace fastio {

void DeviceEnds::record(const StreamEnds& ends) {
  for (const auto& [stream, end] : ends) {
    FASTIO_ASSERT(end != nullptr);
    last_[stream] = end;
  }
}

std::optional<Failure> DeviceEnds::hold_back(const DeviceTarget& later) const {
  for (const auto& [stream, end] : last_) {
    if (auto refused = later.device->hold_back(later.stream, *end)) return refused;
  }
  return std::nullopt;
}

}  // namespace fastio
