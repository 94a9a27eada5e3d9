#include "device.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "device_double.h"

namespace fastio {
namespace {

using testing::Double;
using testing::kPoison;
using testing::numbered;
using testing::Pinned;
using testing::told;

constexpr std::size_t kBytes = 4096;

// The exception that its construction throws.
template <typename Make>
Failure refusal_of(Make&& make) {
  try {
    static_cast<void>(make());
  } catch (const IoError& error) {
    CHECK(error.failure().kind == Failure::Kind::device);
    return error.failure();
  }
  FAIL("nothing was refused");
  return {};
}

Failure refusal_of_device(int ordinal) {
  return refusal_of([&] { return Device::of(ordinal); });
}

// ---- devices ----

TEST_CASE("a device that nobody has initialised is refused, not initialised") {
  const Double fresh;
  fake_cuda_reset();
  REQUIRE(fake_cuda_activate(1) == 0);
  const Failure refused = refusal_of_device(0);
  CHECK(refused.operation == "open");
  CHECK(refused.path == "cuda:0");
  CHECK(refused.detail == "nobody has initialised it: a framework does, with its first tensor");
  CHECK(fake_cuda_calls("cuDevicePrimaryCtxRetain") == 0);
  CHECK(Device::of(1)->name() == "cuda:1");
}

TEST_CASE("a device that does not exist is refused") {
  const Double fresh;
  for (const int ordinal : {-1, 2}) {
    const Failure refused = refusal_of_device(ordinal);
    CHECK(refused.operation == "open");
    CHECK(refused.path == "cuda:" + std::to_string(ordinal));
    CHECK(refused.detail == "there is no such device: the driver has 2");
  }
  CHECK(fake_cuda_calls("cuDeviceGet") == 0);
}

TEST_CASE("a refusal during the opening of a device is thrown, and nothing is retained") {
  const Double fresh;
  for (const char* name :
       {"cuDeviceGet", "cuDevicePrimaryCtxGetState", "cuDevicePrimaryCtxRetain"}) {
    fake_cuda_fail(name, 1, 999, 0);
    const Failure refused = refusal_of_device(1);
    CHECK(refused.operation == name);
    CHECK(refused.path == "cuda:1");
    CHECK(refused.error == 999);
    CHECK(refused.detail == "CUDA_ERROR_UNKNOWN, unknown error");
    CHECK(fake_cuda_contexts_retained() == 0);
  }
}

TEST_CASE("a context is retained once by each device, as long as something of it lives") {
  const Double fresh;
  auto device = Device::of(0);
  CHECK(fake_cuda_contexts_retained() == 1);
  CHECK(device->ordinal() == 0);
  CHECK(device->name() == "cuda:0");
  const auto other = Device::of(1);
  CHECK(fake_cuda_contexts_retained() == 2);
  {
    const auto again = Device::of(0);
    CHECK(fake_cuda_contexts_retained() == 3);
    const Event event(device);
    const Stream stream(device);
    CHECK(&stream.device() == device.get());
    CHECK(fake_cuda_events_alive() == 1);
    CHECK(fake_cuda_streams_alive() == 1);
    CHECK(fake_cuda_calls("cuDevicePrimaryCtxRetain") == 3);
    device.reset();
    CHECK(fake_cuda_contexts_retained() == 3);
  }
  CHECK(fake_cuda_contexts_retained() == 1);
}

TEST_CASE("a device is near the node that the system says, where it says one") {
  const Double fresh;
  const auto device = Device::of(0);
  const std::string folder = "/tmp/gpu-" + std::to_string(getpid());
  std::filesystem::create_directory(folder);
  const auto says = [&](const char* text) {
    std::ofstream(folder + "/numa_node") << text;
    return device->numa_node();
  };
  CHECK(device->numa_node() == std::nullopt);  // no such device in the system
  if (!std::filesystem::exists("/sys/bus/pci/devices")) {
    MESSAGE("not tested: no PCI devices are listed here");
  } else {
    // The driver prints the address in upper case, the system in lower case.
    const std::string id = "../../../../TMP/GPU-" + std::to_string(getpid());
    fake_cuda_set_bus_id(0, id.c_str());
    CHECK(says("1\n") == 1);
    CHECK(says("0\n") == 0);
    CHECK(says("-1\n") == std::nullopt);
    CHECK(says("\n") == std::nullopt);
    fake_cuda_fail("cuDeviceGetPCIBusId", 1, 999, 0);
    CHECK(says("1\n") == std::nullopt);
  }
  std::filesystem::remove_all(folder);
}

// ---- pinned memory ----

TEST_CASE("memory is pinned and unpinned") {
  const Double fresh;
  const auto device = Device::of(0);
  auto bytes = numbered(kBytes);
  CHECK(told(device->pin(bytes.data(), kBytes)) == "");
  CHECK(fake_cuda_pinned_bytes() == kBytes);
  CHECK(told(device->pin(bytes.data(), kBytes)) == "cuMemHostRegister 712");
  CHECK(told(device->unpin(bytes.data())) == "");
  CHECK(fake_cuda_pinned_bytes() == 0);
  CHECK(told(device->unpin(bytes.data())) == "cuMemHostUnregister 713");
  CHECK(bytes == numbered(kBytes));
}

TEST_CASE("the driver's own pinned memory is allocated and freed") {
  const Double fresh;
  const auto device = Device::of(0);
  const auto [data, refused] = device->allocate_pinned(kBytes);
  REQUIRE(told(refused) == "");
  REQUIRE(data != nullptr);
  CHECK(data[kBytes - 1] == kPoison);
  CHECK(fake_cuda_pinned_bytes() == kBytes);
  CHECK(told(device->free_pinned(data)) == "");
  CHECK(told(device->free_pinned(data)) == "cuMemFreeHost 1");
}

TEST_CASE("a driver that refuses to pin, to allocate, or both is told as it says") {
  const Double fresh;
  const auto device = Device::of(1);
  std::byte here{};
  fake_cuda_refuse_registration(801);
  fake_cuda_refuse_host_allocation(2);
  const auto refused = device->pin(&here, 1);
  REQUIRE(refused.has_value());
  CHECK(refused->kind == Failure::Kind::device);
  CHECK(refused->operation == "cuMemHostRegister");
  CHECK(refused->path == "cuda:1");
  CHECK(refused->error == 801);
  CHECK(refused->detail == "CUDA_ERROR_NOT_SUPPORTED, operation not supported");
  CHECK(refused->message() ==
        "cuMemHostRegister failed: cuda:1: CUDA_ERROR_NOT_SUPPORTED, operation not supported");
  const Device::PinnedMemory none = device->allocate_pinned(kBytes);
  CHECK(told(none.refused) == "cuMemHostAlloc 2");
  CHECK(none.data == nullptr);
}

// ---- every call ----

// Each call of the driver that needs a context, by the name in its error.
struct Called {
  const char* operation;
  std::function<std::optional<Failure>()> run;
};

class EveryCall {
 public:
  explicit EveryCall(const std::shared_ptr<Device>& device)
      : device_(device),
        stream_(device),
        event_(device),
        pinned_(device, numbered(kBytes)),
        unpinned_(numbered(kBytes)),
        on_device_(device->ordinal(), kBytes) {}

  std::vector<Called> calls() {
    return {
        {"cuMemHostRegister", [&] { return device_->pin(unpinned_.data(), kBytes); }},
        {"cuMemHostUnregister", [&] { return device_->unpin(unpinned_.data()); }},
        {"cuMemHostAlloc", [&] { return allocate(); }},
        {"cuMemFreeHost", [&] { return device_->free_pinned(allocated_); }},
        {"cuEventRecord", [&] { return device_->record(0, event_); }},
        {"cuStreamWaitEvent", [&] { return device_->hold_back(0, event_); }},
        {"cuMemcpyHtoDAsync",
         [&] { return stream_.copy_in(on_device_.address(), pinned_.data(), kBytes); }},
        {"cuMemcpyDtoHAsync",
         [&] { return stream_.copy_out(pinned_.data(), on_device_.address(), kBytes); }},
        {"cuStreamWaitEvent", [&] { return stream_.hold_back(event_); }},
        {"cuEventRecord", [&] { return stream_.record(event_); }},
        {"cuEventQuery", [&] { return ask(); }},
        {"cuEventSynchronize", [&] { return event_.wait(); }},
        {"cuStreamSynchronize", [&] { return stream_.drain(); }},
    };
  }
  [[nodiscard]] bool reached() const { return reached_; }

 private:
  std::optional<Failure> allocate() {
    const Device::PinnedMemory made = device_->allocate_pinned(kBytes);
    allocated_ = made.data;
    return made.refused;
  }
  std::optional<Failure> ask() {
    const Event::Answer answer = event_.ask();
    reached_ = answer.reached;
    return answer.refused;
  }

  std::shared_ptr<Device> device_;
  Stream stream_;
  Event event_;
  Pinned pinned_;
  std::vector<std::byte> unpinned_;
  testing::DeviceBytes on_device_;
  std::byte* allocated_ = nullptr;
  bool reached_ = true;
};

TEST_CASE("a thread has the context that it had, whatever was called, and whether it failed") {
  const Double fresh;
  for (const int current : {-1, 1}) {
    fake_cuda_set_current(current);
    const auto check_current = [&](const std::string& after) {
      INFO(after);
      CHECK(fake_cuda_current() == current);
      CHECK(fake_cuda_current_depth() == (current < 0 ? 0 : 1));
    };
    {
      EveryCall every(Device::of(0));
      check_current("all is made");
      for (const bool fails : {true, false}) {
        for (const Called& call : every.calls()) {
          if (fails) fake_cuda_fail(call.operation, 1, 999, 0);
          CHECK(call.run().has_value() == fails);
          check_current(call.operation);
        }
      }
    }
    check_current("all is gone");
  }
  fake_cuda_set_current(-1);
}

TEST_CASE("each call that the driver refuses is told with its name, its device and its error") {
  const Double fresh;
  EveryCall every(Device::of(1));
  for (const Called& call : every.calls()) {
    fake_cuda_fail(call.operation, 1, 214, 0);
    const auto refused = call.run();
    REQUIRE(refused.has_value());
    CHECK(refused->kind == Failure::Kind::device);
    CHECK(refused->operation == call.operation);
    CHECK(refused->path == "cuda:1");
    CHECK(refused->error == 214);
    CHECK(refused->detail == "CUDA_ERROR_ECC_UNCORRECTABLE, uncorrectable ECC error encountered");
  }
  CHECK_FALSE(every.reached());
  for (int i = 0; i < 2; ++i) {  // twice: it is queried before the wait
    for (const Called& call : every.calls()) CHECK(told(call.run()) == "");
  }
}

TEST_CASE("if a context cannot be made current, no other call is made") {
  const Double fresh;
  EveryCall every(Device::of(0));
  for (const Called& call : every.calls()) {
    const int calls = fake_cuda_calls(call.operation);
    fake_cuda_fail("cuCtxPushCurrent", 1, 201, 0);
    CHECK(told(call.run()) == "cuCtxPushCurrent 201");
    const int tried_again = std::string(call.operation) == "cuStreamSynchronize" ? 1 : 0;
    CHECK(fake_cuda_calls(call.operation) == calls + tried_again);
    CHECK(fake_cuda_current_depth() == 0);
  }
}

TEST_CASE("streams and events that cannot be made are refused") {
  const Double fresh;
  const auto device = Device::of(0);
  for (const auto& [name, error] : {std::pair{"cuCtxPushCurrent", 201}, {"cuStreamCreate", 2}}) {
    fake_cuda_fail(name, 1, error, 0);
    const Failure refused = refusal_of([&] { return std::make_unique<Stream>(device); });
    CHECK(refused.operation == name);
    CHECK(refused.error == error);
  }
  for (const auto& [name, error] : {std::pair{"cuCtxPushCurrent", 201}, {"cuEventCreate", 2}}) {
    fake_cuda_fail(name, 1, error, 0);
    const Failure refused = refusal_of([&] { return std::make_unique<Event>(device); });
    CHECK(refused.operation == name);
    CHECK(refused.error == error);
  }
  CHECK(fake_cuda_current_depth() == 0);
}

TEST_CASE("streams and events whose context cannot be made current are left to it") {
  const Double fresh;
  {
    const auto device = Device::of(0);
    auto stream = std::make_unique<Stream>(device);
    auto event = std::make_unique<Event>(device);
    fake_cuda_fail("cuCtxPushCurrent", 1, 201, 0);
    stream.reset();
    fake_cuda_fail("cuCtxPushCurrent", 1, 201, 0);
    event.reset();
  }
  CHECK(fake_cuda_calls("cuStreamDestroy") == 0);
  CHECK(fake_cuda_calls("cuEventDestroy") == 0);
  CHECK(fake_cuda_streams_alive() == 1);
  CHECK(fake_cuda_events_alive() == 1);
  CHECK(fake_cuda_contexts_retained() == 0);
  fake_cuda_reset();
}

TEST_CASE("a lost device refuses every call, and its objects are still released") {
  const Double fresh;
  const auto other = Device::of(1);
  Stream other_stream(other);
  {
    const auto device = Device::of(0);
    Stream stream(device);
    Event event(device);
    fake_cuda_fail("cuEventQuery", 2, 700, 1);
    CHECK(told(event.ask().refused) == "");
    const Event::Answer answer = event.ask();
    CHECK(told(answer.refused) == "cuEventQuery 700");
    CHECK_FALSE(answer.reached);
    std::byte here{};
    CHECK(told(device->pin(&here, 1)) == "cuMemHostRegister 700");
    CHECK(told(stream.record(event)) == "cuEventRecord 700");
    CHECK(told(event.wait()) == "cuEventSynchronize 700");
    CHECK(told(stream.drain()) == "cuStreamSynchronize 700");
    CHECK(refusal_of([&] { return std::make_unique<Event>(device); }).error == 700);
    CHECK(told(other_stream.drain()) == "");
  }
  CHECK(fake_cuda_streams_alive() == 1);
  CHECK(fake_cuda_events_alive() == 0);
  CHECK(fake_cuda_contexts_retained() == 1);
}

}  // namespace
}  // namespace fastio
