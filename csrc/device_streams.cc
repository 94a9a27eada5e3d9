// The streams of callers, and those of jobs.
#include <optional>
#include <utility>

#include "device.h"

namespace fastio {
namespace {

void require(std::optional<Failure> refused) {
  if (refused) throw IoError(std::move(*refused));
}

}  // namespace

std::vector<std::unique_ptr<Event>> mark(const std::vector<DeviceTarget>& targets) {
  std::vector<std::unique_ptr<Event>> marks;
  for (const DeviceTarget& target : targets) {
    marks.push_back(std::make_unique<Event>(target.device));
    require(target.device->record(target.stream, *marks.back()));
  }
  return marks;
}

std::vector<std::unique_ptr<Stream>> streams_behind(
    const std::vector<DeviceTarget>& targets, const std::vector<std::unique_ptr<Event>>& marks) {
  std::vector<std::unique_ptr<Stream>> streams;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    streams.push_back(std::make_unique<Stream>(targets[i].device));
    require(streams.back()->hold_back(*marks[i]));
  }
  return streams;
}

// Once more where it is refused: that may have been the error of an earlier call, told late.
std::optional<Failure> Stream::drain() {
  auto refused = wait();
  if (refused) static_cast<void>(wait());
  return refused;
}

}  // namespace fastio
