// Copies to and from a device, and the order that streams and events keep.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>

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

constexpr std::size_t kBytes = 64 << 10U;

bool reached(const Event& event) {
  const Event::Answer answer = event.ask();
  CHECK(told(answer.refused) == "");
  return answer.reached;
}

// Runs until the test releases it, like a stream of the caller.
class CallersStream {
 public:
  explicit CallersStream(int ordinal, bool is_default = false)
      : known_as_(is_default ? fake_cuda_default_stream(ordinal) : fake_cuda_make_stream(ordinal)),
        handle_(is_default ? 0 : known_as_) {
    hold();
  }
  void hold() const { fake_cuda_hold_stream(known_as_); }
  void go_on() const { fake_cuda_release_stream(known_as_); }
  void fill(const DeviceBytes& bytes, int value, std::size_t nbytes) const {
    fake_cuda_fill(known_as_, bytes.address(), value, nbytes);
  }
  [[nodiscard]] StreamHandle handle() const { return handle_; }

 private:
  std::uintptr_t known_as_;
  StreamHandle handle_;
};

// ---- copies ----

TEST_CASE("a copy to a device is done when its event is reached, and not before it was put there") {
  const Double fresh;
  const auto device = Device::of(0);
  Stream stream(device);
  Event done(device);
  Pinned source(device, numbered(kBytes));
  const DeviceBytes target(0, kBytes);
  fake_cuda_hold_all(1);
  CHECK(told(stream.copy_in(target.address(), source.data(), kBytes)) == "");
  CHECK(told(stream.record(done)) == "");
  CHECK_FALSE(reached(done));
  CHECK(fake_cuda_copies_pending() == 1);
  CHECK(target.now() == filled(kBytes, kPoison));
  fake_cuda_hold_all(0);
  CHECK(told(done.wait()) == "");
  CHECK(reached(done));
  CHECK(target.now() == numbered(kBytes));
  CHECK(fake_cuda_copies_pending() == 0);
  CHECK(fake_cuda_copies_executed() == 1);
  CHECK(fake_cuda_bytes_in() == kBytes);
}

TEST_CASE(
    "a stream is empty when it is drained, also where that tells the error of an earlier call") {
  const Double fresh;
  Stream stream(Device::of(0));
  Pinned host(Device::of(0), numbered(kBytes));
  const DeviceBytes there(0, kBytes);
  fake_cuda_set_delay(20'000, 1);
  for (int i = 0; i < 3; ++i) {
    REQUIRE(told(stream.copy_in(there.address(), host.data(), kBytes)) == "");
  }
  fake_cuda_fail("cuStreamSynchronize", 1, 700, 0);
  CHECK(told(stream.drain()) == "cuStreamSynchronize 700");
  CHECK(fake_cuda_copies_pending() == 0);
  CHECK(there.now() == host.bytes());
}

TEST_CASE("a copy from a device is done when its stream is drained") {
  const Double fresh;
  const auto device = Device::of(1);
  Stream stream(device);
  Pinned target(device, filled(kBytes, std::byte{0}));
  const DeviceBytes source(1, kBytes);
  fake_cuda_write(source.address(), numbered(kBytes).data(), kBytes);
  fake_cuda_hold_all(1);
  CHECK(told(stream.copy_out(target.data(), source.address(), kBytes)) == "");
  CHECK(target.bytes() == filled(kBytes, kPoison));
  fake_cuda_hold_all(0);
  CHECK(told(stream.drain()) == "");
  CHECK(target.bytes() == numbered(kBytes));
  CHECK(fake_cuda_bytes_out() == kBytes);
}

TEST_CASE("copies of a stream are done one after the other, each to its place") {
  const Double fresh;
  const auto device = Device::of(0);
  Stream stream(device);
  Pinned source(device, numbered(kBytes));
  Pinned target(device, filled(kBytes, std::byte{0}));
  const DeviceBytes between(0, kBytes);
  constexpr std::size_t kPart = 4096 + 8;  // not a divisor: the last one is shorter
  for (std::size_t at = 0; at < kBytes; at += kPart) {
    const std::size_t nbytes = std::min(kPart, kBytes - at);
    CHECK(told(stream.copy_in(between.address() + at, source.data() + at, nbytes)) == "");
    CHECK(told(stream.copy_out(target.data() + at, between.address() + at, nbytes)) == "");
  }
  CHECK(told(stream.drain()) == "");
  CHECK(target.bytes() == numbered(kBytes));
}

TEST_CASE("a copy of nothing is done at once") {
  const Double fresh;
  const auto device = Device::of(0);
  Stream stream(device);
  fake_cuda_hold_all(1);
  CHECK(told(stream.copy_in(0, nullptr, 0)) == "");
  CHECK(told(stream.copy_out(nullptr, 0, 0)) == "");
  CHECK(fake_cuda_copies_pending() == 0);
}

TEST_CASE("a stream may go before its copies are done: they still are") {
  const Double fresh;
  const auto device = Device::of(0);
  Event done(device);
  Pinned source(device, numbered(kBytes));
  const DeviceBytes target(0, kBytes);
  fake_cuda_hold_all(1);
  {
    Stream stream(device);
    CHECK(told(stream.copy_in(target.address(), source.data(), kBytes)) == "");
    CHECK(told(stream.record(done)) == "");
  }
  CHECK(fake_cuda_streams_alive() == 0);
  fake_cuda_hold_all(0);
  CHECK(told(done.wait()) == "");
  CHECK(target.now() == numbered(kBytes));
}

// ---- events ----

TEST_CASE("an event that was never recorded is reached, and holds nothing back") {
  const Double fresh;
  const auto device = Device::of(0);
  const Event event(device);
  CHECK(reached(event));
  CHECK(told(event.wait()) == "");
  Stream stream(device);
  CHECK(told(stream.hold_back(event)) == "");
  CHECK(told(device->hold_back(0, event)) == "");
  CHECK(told(stream.drain()) == "");
}

TEST_CASE("an event that is recorded again stands for the later point alone") {
  const Double fresh;
  const auto device = Device::of(0);
  Event event(device);
  Stream stream(device);
  CHECK(told(stream.record(event)) == "");
  CHECK(told(event.wait()) == "");
  const CallersStream callers(0);
  CHECK(told(device->record(callers.handle(), event)) == "");
  CHECK_FALSE(reached(event));
  // A waiter goes on when that point is reached, although the event was recorded again.
  CHECK(told(stream.hold_back(event)) == "");
  CHECK(told(stream.record(event)) == "");
  CHECK_FALSE(reached(event));
  callers.go_on();
  CHECK(told(stream.drain()) == "");
  CHECK(reached(event));
}

TEST_CASE("an event is waited for until somebody lets its stream go on") {
  const Double fresh;
  const auto device = Device::of(0);
  Event event(device);
  const CallersStream callers(0);
  CHECK(told(device->record(callers.handle(), event)) == "");
  std::atomic<bool> released{false};
  std::thread other([&] {
    while (fake_cuda_calls("cuEventSynchronize") == 0) std::this_thread::yield();
    released = true;
    callers.go_on();
  });
  CHECK(told(event.wait()) == "");
  CHECK(released);
  other.join();
}

// ---- the caller's stream ----

TEST_CASE(
    "copies wait for earlier work of the caller's stream, and the caller's stream for the copies") {
  const Double fresh;
  const auto device = Device::of(0);
  for (const bool is_default : {false, true}) {
    fake_cuda_clear();
    const CallersStream callers(0, is_default);
    const DeviceBytes target(0, kBytes);
    const DeviceBytes after(0, kBytes);
    Pinned source(device, numbered(kBytes));
    Pinned target_at_last(device, filled(kBytes, std::byte{0}));
    Stream stream(device);
    Event before(device);
    Event copied(device);

    callers.fill(target, 0x11, kBytes);  // must be over before the copy begins
    CHECK(told(device->record(callers.handle(), before)) == "");
    CHECK(told(stream.hold_back(before)) == "");
    CHECK(told(stream.copy_in(target.address(), source.data(), kBytes)) == "");
    CHECK(told(stream.record(copied)) == "");
    CHECK(told(device->hold_back(callers.handle(), copied)) == "");
    callers.fill(target, 0x22, 1);  // must find the copied bytes
    Event end(device);
    CHECK(told(device->record(callers.handle(), end)) == "");

    CHECK_FALSE(reached(before));
    CHECK_FALSE(reached(copied));
    CHECK(target.now() == filled(kBytes, kPoison));
    callers.go_on();
    CHECK(told(end.wait()) == "");
    auto expected = numbered(kBytes);
    expected[0] = std::byte{0x22};
    CHECK(target.now() == expected);
  }
}

TEST_CASE("one stream does not hold back another") {
  const Double fresh;
  const auto device = Device::of(0);
  const CallersStream callers(0);
  Stream stream(device);
  Pinned source(device, numbered(kBytes));
  const DeviceBytes target(0, kBytes);
  CHECK(told(stream.copy_in(target.address(), source.data(), kBytes)) == "");
  CHECK(told(stream.drain()) == "");
  CHECK(target.now() == numbered(kBytes));
}

// ---- two devices ----

TEST_CASE("two devices are used from two threads at once, and memory pinned by one serves both") {
  const Double fresh;
  Pinned source(Device::of(0), numbered(kBytes));
  const DeviceBytes first(0, kBytes);
  const DeviceBytes second(1, kBytes);
  std::array<std::thread, 2> threads;
  std::array<std::string, 2> said;
  for (std::size_t i = 0; i < threads.size(); ++i) {
    threads[i] = std::thread([&, i] {
      const auto device = Device::of(static_cast<int>(i));
      const DeviceAddress to = (i == 0 ? first : second).address();
      Stream stream(device);
      Event event(device);
      for (std::size_t at = 0; at < kBytes; at += 4096) {
        said[i] += told(stream.copy_in(to + at, source.data() + at, 4096));
        said[i] += told(stream.record(event));
        said[i] += told(event.wait());
      }
      if (fake_cuda_current() != -1) said[i] += "a context was left behind";
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(said == std::array<std::string, 2>{});
  CHECK(first.now() == numbered(kBytes));
  CHECK(second.now() == numbered(kBytes));
}

TEST_CASE("a stream waits for an event of another device, and is not recorded by it") {
  const Double fresh;
  const auto device = Device::of(0);
  const auto other = Device::of(1);
  Event event(other);
  Stream stream(device);
  Stream of_other(other);
  CHECK(told(stream.record(event)) == "cuEventRecord 400");
  const CallersStream callers(1);
  CHECK(told(device->record(callers.handle(), event)) == "cuEventRecord 400");
  CHECK(told(device->hold_back(callers.handle(), event)) == "cuStreamWaitEvent 400");
  CHECK(told(other->record(callers.handle(), event)) == "");
  CHECK(told(stream.hold_back(event)) == "");
  Event behind(device);
  CHECK(told(stream.record(behind)) == "");
  CHECK_FALSE(reached(behind));
  callers.go_on();
  CHECK(told(behind.wait()) == "");
}

TEST_CASE("pending work of a lost device never happens, and every wait for it ends") {
  const Double fresh;
  auto source = numbered(kBytes);
  const DeviceBytes target(0, kBytes);
  {
    const auto device = Device::of(0);
    Stream stream(device);
    Event done(device);
    REQUIRE(told(device->pin(source.data(), kBytes)) == "");
    fake_cuda_hold_all(1);
    CHECK(told(stream.copy_in(target.address(), source.data(), kBytes)) == "");
    CHECK(told(stream.record(done)) == "");
    std::thread other([] {
      while (fake_cuda_calls("cuEventSynchronize") == 0) std::this_thread::yield();
      fake_cuda_set_current(0);
      fake_cuda_fail("cuMemcpyDtoH", 1, 719, 1);
      static_cast<void>(cuMemcpyDtoH_v2(nullptr, 0, 0));
    });
    CHECK(told(done.wait()) == "cuEventSynchronize 719");
    other.join();
    CHECK(told(device->unpin(source.data())) == "cuMemHostUnregister 719");
  }
  CHECK(fake_cuda_copies_pending() == 0);
  CHECK(target.now() == filled(kBytes, kPoison));
  fake_cuda_clear();
  CHECK(told(Device::of(0)->unpin(source.data())) == "");
}

}  // namespace
}  // namespace fastio
