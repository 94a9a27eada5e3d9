// The double of the CUDA driver is as strict as it claims: it sees and names each mistake.
#include <doctest/doctest.h>

#include <array>

#include "device_double.h"

namespace fastio {
namespace {

using testing::DeviceBytes;
using testing::Double;
using testing::filled;
using testing::kPoison;
using testing::numbered;
using testing::Pinned;
using testing::told;

constexpr std::size_t kBytes = 4096;

// The violation that the double has recorded; cleared, so that the end of the test does not report
// it.
std::string violation() {
  std::string first = fake_cuda_first_violation();
  CHECK(fake_cuda_violations() == (first.empty() ? 0 : 1));
  fake_cuda_clear();
  return first;
}

struct OneStream {
  Double fresh{};
  std::shared_ptr<Device> device = Device::of(0);
  Stream stream{device};
  DeviceBytes memory{0, kBytes};
};

TEST_CASE_FIXTURE(OneStream, "a source that changes before its copy is done is seen") {
  Pinned source(device, numbered(kBytes));
  fake_cuda_hold_all(1);
  CHECK(told(stream.copy_in(memory.address(), source.data(), kBytes)) == "");
  source.bytes()[kBytes - 1] = std::byte{0xFF};
  fake_cuda_hold_all(0);
  CHECK(told(stream.drain()) == "");
  CHECK(violation() == "the source of a copy changed before it was done");
}

TEST_CASE_FIXTURE(OneStream, "a source that another copy is still to write may change") {
  Pinned both(device, numbered(kBytes));
  const DeviceBytes other(0, kBytes);
  fake_cuda_write(memory.address(), numbered(kBytes, 7).data(), kBytes);
  fake_cuda_hold_all(1);
  CHECK(told(stream.copy_out(both.data(), memory.address(), kBytes)) == "");
  CHECK(told(stream.copy_in(other.address(), both.data(), kBytes)) == "");
  fake_cuda_hold_all(0);
  CHECK(told(stream.drain()) == "");
  CHECK(other.now() == numbered(kBytes, 7));
}

TEST_CASE_FIXTURE(OneStream, "host memory that is not pinned is seen, and copied at once") {
  auto host = numbered(kBytes);
  CHECK(told(stream.copy_in(memory.address(), host.data(), kBytes)) == "");
  CHECK(memory.now() == numbered(kBytes));
  CHECK(violation() == "a copy from or to host memory that is not pinned");
  CHECK(told(device->pin(host.data(), kBytes / 2)) == "");
  CHECK(told(stream.copy_out(host.data(), memory.address(), kBytes)) == "");
  CHECK(host == numbered(kBytes));
  CHECK(violation() == "a copy from or to host memory that is not pinned");
  CHECK(told(device->unpin(host.data())) == "");
}

TEST_CASE_FIXTURE(OneStream, "memory that is unpinned or freed under a copy is seen") {
  auto host = numbered(kBytes);
  CHECK(told(device->pin(host.data(), kBytes)) == "");
  const auto [allocated, refused] = device->allocate_pinned(kBytes);
  CHECK(told(refused) == "");
  fake_cuda_hold_all(1);
  CHECK(told(stream.copy_in(memory.address(), host.data(), kBytes)) == "");
  CHECK(told(device->unpin(host.data())) == "");
  CHECK(violation() == "memory was unpinned while a copy was pending");
  fake_cuda_hold_all(1);
  CHECK(told(stream.copy_out(allocated, memory.address(), kBytes)) == "");
  CHECK(told(device->free_pinned(allocated)) == "");
  CHECK(violation() == "memory was freed while a copy was pending");
  CHECK(told(stream.drain()) == "");
  CHECK(fake_cuda_copies_executed() == 0);
  const std::uint64_t gone = fake_cuda_allocate(0, kBytes);
  Pinned source(device, numbered(kBytes));
  fake_cuda_hold_all(1);
  CHECK(told(stream.copy_in(gone, source.data(), kBytes)) == "");
  fake_cuda_free(gone);
  CHECK(violation() == "memory was freed on the device while a copy was pending");
  CHECK(told(stream.drain()) == "");
}

TEST_CASE_FIXTURE(OneStream, "copies outside the memory of their device are refused and seen") {
  Pinned host(device, numbered(2 * kBytes));
  const DeviceBytes of_other(1, kBytes);
  const char* text = "a copy is not within one allocation of its device";
  CHECK(told(stream.copy_in(memory.address() + 1, host.data(), kBytes)) == "cuMemcpyHtoDAsync 1");
  CHECK(violation() == text);
  CHECK(told(stream.copy_in(of_other.address(), host.data(), 1)) == "cuMemcpyHtoDAsync 1");
  CHECK(violation() == text);
  CHECK(told(stream.copy_out(host.data(), 16, 1)) == "cuMemcpyDtoHAsync 1");
  CHECK(violation() == text);
}

TEST_CASE_FIXTURE(OneStream, "the destination of a pending copy in is poisoned") {
  Pinned source(device, numbered(kBytes));
  CHECK(told(stream.copy_in(memory.address(), source.data(), kBytes)) == "");
  CHECK(told(stream.drain()) == "");
  fake_cuda_set_delay(3600U * 1000 * 1000, 1);  // longer than any test
  CHECK(told(stream.copy_in(memory.address(), source.data(), kBytes)) == "");
  while (memory.now() != filled(kBytes, kPoison)) {
  }
  CHECK(fake_cuda_copies_pending() == 1);
  fake_cuda_fail("cuEventCreate", 1, 700, 1);  // or the test would wait for it
  CHECK_THROWS_AS(Event{device}, IoError);
  CHECK(fake_cuda_copies_pending() == 0);
  fake_cuda_clear();
}

TEST_CASE_FIXTURE(OneStream, "handles that live no more, and waits for a whole device, are seen") {
  Event event(device);
  CHECK(told(device->record(4242, event)) == "cuEventRecord 400");
  CHECK(violation() == "a stream was used that does not live");
  CHECK(cuCtxSynchronize() == 201);
  fake_cuda_set_current(0);
  CHECK(cuCtxSynchronize() == 0);
  CHECK(violation() == "a whole device was waited for");
  fake_cuda_set_current(-1);
}

TEST_CASE("device memory is poisoned, limited, and freed once") {
  const Double fresh;
  fake_cuda_set_device_bytes(kBytes);
  unsigned long long address = 0;
  CHECK(cuMemAlloc_v2(&address, kBytes) == 201);
  fake_cuda_set_current(1);
  REQUIRE(cuMemAlloc_v2(&address, kBytes) == 0);
  CHECK(fake_cuda_device_bytes() == kBytes);
  std::array<std::byte, 2> seen{};
  CHECK(cuMemcpyDtoH_v2(seen.data(), address + kBytes - 2, 2) == 0);
  CHECK(seen == std::array{kPoison, kPoison});
  CHECK(cuMemcpyDtoH_v2(seen.data(), address + kBytes - 1, 2) == 1);
  unsigned long long more = 0;
  CHECK(cuMemAlloc_v2(&more, 1) == 2);
  CHECK(fake_cuda_allocate(1, 1) == 0);
  const std::uint64_t of_other = fake_cuda_allocate(0, kBytes);
  CHECK(of_other != 0);
  fake_cuda_free(of_other);
  CHECK(cuMemFree_v2(address) == 0);
  CHECK(cuMemFree_v2(address) == 1);
  fake_cuda_set_current(-1);
}

TEST_CASE("a fault meets the nth call from when it was told, and only that one") {
  const Double fresh;
  const auto device = Device::of(0);
  const Event event(device);
  CHECK(told(event.wait()) == "");
  fake_cuda_fail("cuEventSynchronize", 2, 999, 0);
  CHECK(told(event.wait()) == "");
  CHECK(told(event.wait()) == "cuEventSynchronize 999");
  CHECK(told(event.wait()) == "");
  CHECK(fake_cuda_calls("cuEventSynchronize") == 4);
}

TEST_CASE("streams get on out of order among themselves") {
  const Double fresh;
  const auto device = Device::of(0);
  fake_cuda_set_delay(2000, 1);
  Pinned source(device, numbered(kBytes));
  const DeviceBytes memory(0, kBytes);
  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<std::unique_ptr<Event>> events;
  for (int i = 0; i < 16; ++i) {
    streams.push_back(std::make_unique<Stream>(device));
    events.push_back(std::make_unique<Event>(device));
  }
  bool overtaken = false;
  for (int round = 0; round < 100 && !overtaken; ++round) {
    for (std::size_t i = 0; i < streams.size(); ++i) {
      CHECK(told(streams[i]->copy_in(memory.address() + i, source.data() + i, 1)) == "");
      CHECK(told(streams[i]->record(*events[i])) == "");
    }
    CHECK(told(events.back()->wait()) == "");
    for (const auto& event : events) {
      const Event::Answer answer = event->ask();
      CHECK(told(answer.refused) == "");
      overtaken |= !answer.reached;
    }
    for (const auto& stream : streams) CHECK(told(stream->drain()) == "");
  }
  CHECK(overtaken);
}

}  // namespace
}  // namespace fastio
