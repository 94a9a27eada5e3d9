// A lane's way from devices: what of a block lies there is copied into the lane's pinned staging.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "device.h"
#include "origins.h"

namespace fastio {

class DeviceReads {
 public:
  // Reads wait for `ready`, one event for each of the devices. Throws IoError.
  DeviceReads(const std::vector<DeviceTarget>& devices,
              const std::vector<std::unique_ptr<Event>>& ready);

  // Fills in of `out`, the bytes of `range`, what lies on devices; it is there when this returns.
  [[nodiscard]] std::optional<Failure> gather(const Origins& origins, const Extent& range,
                                              std::byte* out);

 private:
  std::vector<std::unique_ptr<Stream>> streams_;  // of each device
};

}  // namespace fastio
