#include "device_ends.h"

#include <memory>

#include "device_double.h"

namespace fastio {
namespace {

using testing::DeviceBytes;
using testing::Double;
using testing::filled;
using testing::numbered;
using testing::Pinned;
using testing::told;

constexpr std::size_t kBytes = 4096;

TEST_CASE("later work waits for the last copy of each stream, on whichever device it is") {
  const Double fresh;
  std::vector<std::shared_ptr<Device>> devices{Device::of(0), Device::of(1)};
  const DeviceBytes to(0, kBytes);
  Pinned from(devices[0], numbered(kBytes));
  Pinned seen(devices[0], filled(kBytes, std::byte{0}));
  {
    Stream first(devices[0]), second(devices[1]), later(devices[0]);
    auto end_of_first = std::make_shared<Event>(devices[0]);
    auto end_of_second = std::make_shared<Event>(devices[1]);
    DeviceEnds ends;
    fake_cuda_hold_all(1);
    CHECK(told(first.copy_in(to.address(), from.data(), kBytes)) == "");
    CHECK(told(first.record(*end_of_first)) == "");
    CHECK(told(second.record(*end_of_second)) == "");
    ends.record({{&first, end_of_first}});
    ends.record({{&second, end_of_second}});
    Event mine(devices[0]);
    CHECK(told(ends.hold_back({devices[0], 0})) == "");
    CHECK(told(devices[0]->record(0, mine)) == "");
    CHECK(told(later.hold_back(mine)) == "");
    CHECK(told(later.copy_out(seen.data(), to.address(), kBytes)) == "");
    fake_cuda_hold_all(0);
    CHECK(told(later.drain()) == "");
    CHECK(told(first.drain()) == "");
    CHECK(told(second.drain()) == "");
  }
  CHECK(seen.bytes() == from.bytes());
}

TEST_CASE("without copies nothing is waited for") {
  const Double fresh;
  const DeviceEnds ends;
  CHECK(told(ends.hold_back({Device::of(0), 0})) == "");
}

TEST_CASE("a refusal of the driver is told") {
  const Double fresh;
  const auto device = Device::of(0);
  Stream stream(device);
  auto end = std::make_shared<Event>(device);
  CHECK(told(stream.record(*end)) == "");
  DeviceEnds ends;
  ends.record({{&stream, end}});
  fake_cuda_fail("cuStreamWaitEvent", 1, 700, 0);
  CHECK(told(ends.hold_back({device, 0})) == "cuStreamWaitEvent 700");
  CHECK(told(stream.drain()) == "");
}

}  // namespace
}  // namespace fastio
