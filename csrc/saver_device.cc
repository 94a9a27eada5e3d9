#include "saver_device.h"

#include <cstdint>
#include <utility>

namespace fastio {

DeviceReads::DeviceReads(const std::vector<DeviceTarget>& devices,
                         const std::vector<std::unique_ptr<Event>>& ready)
    : streams_(streams_behind(devices, ready)) {}

std::optional<Failure> DeviceReads::gather(const Origins& origins, const Extent& range,
                                           std::byte* out) {
  std::optional<Failure> refused;
  std::vector<char> used(streams_.size(), 0);
  each_part(origins.extents, range, [&](std::size_t i, std::uint64_t begin, std::uint64_t end) {
    if (origins.on_host(i)) return;
    const auto device = static_cast<std::size_t>(origins.devices[i]);
    used[device] = 1;
    origins.memories[i].each_run(
        begin - origins.extents[i].begin, end - begin,
        [&](const std::byte* place, std::uint64_t offset, std::uint64_t nbytes) {
          if (refused) return;
          refused = streams_[device]->copy_out(out + (begin - range.begin) + offset,
                                               reinterpret_cast<std::uintptr_t>(place), nbytes);
        });
  });
  // Also after a failure: nothing is copied there any more when the staging is used again.
  for (std::size_t device = 0; device < streams_.size(); ++device) {
    if (used[device] == 0) continue;
    auto failed = streams_[device]->drain();
    if (!refused) refused = std::move(failed);
  }
  return refused;
}

}  // namespace fastio
