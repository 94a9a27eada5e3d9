#include "device.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <fstream>
#include <memory>
#include <utility>
#include <vector>

#include "driver.h"

namespace fastio {
namespace {

std::optional<Failure> failure_of(Driver::Call call, const std::string& device,
                                  DriverResult result) {
  return driver().failure_of(call, device, result);
}

[[noreturn]] void refuse(const std::string& device, std::string why) {
  Failure made{0, "open", device, {}, std::move(why)};
  made.kind = Failure::Kind::device;
  throw IoError(std::move(made));
}

void require(std::optional<Failure> refused) {
  if (refused) throw IoError(std::move(*refused));
}

// The calling thread's context, for as long as this lives; what it had before comes back.
class Current {
 public:
  Current(DriverHandle context, const std::string& device)
      : refused_(failure_of(&DriverNames::push_context, device,
                            driver().calls().push_context(context))) {}
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
  ~Current() {
    DriverHandle popped = nullptr;
    if (!refused_) driver().calls().pop_context(&popped);
  }
  [[nodiscard]] const std::optional<Failure>& refused() const { return refused_; }

 private:
  std::optional<Failure> refused_;
};

template <typename Call>
std::optional<Failure> in_context(DriverHandle context, const std::string& device,
                                  Driver::Call name, Call&& call) {
  const Current current(context, device);
  if (current.refused()) return current.refused();
  return failure_of(name, device, call(driver().calls()));
}

DriverHandle handle_of(StreamHandle stream) { return std::bit_cast<DriverHandle>(stream); }

}  // namespace

DriverStatus driver_status() { return driver().status(); }

// ---- the device ----

std::shared_ptr<Device> Device::of(int ordinal) {
  const std::string name = "cuda:" + std::to_string(ordinal);
  const Driver& opened = driver();
  if (!opened.status().available) refuse(name, opened.status().reason);
  if (ordinal < 0 || ordinal >= opened.status().device_count) {
    refuse(name, "there is no such device: the driver has " +
                     std::to_string(opened.status().device_count));
  }
  int handle = 0, active = 0;
  unsigned flags = 0;
  DriverHandle context = nullptr;
  require(failure_of(&DriverNames::device, name, opened.calls().device(&handle, ordinal)));
  require(failure_of(&DriverNames::context_state, name,
                     opened.calls().context_state(handle, &flags, &active)));
  if (active == 0)
    refuse(name, "nobody has initialised it: a framework does, with its first tensor");
  require(failure_of(&DriverNames::retain_context, name,
                     opened.calls().retain_context(&context, handle)));
  try {
    return std::make_shared<Device>(Key{}, ordinal, handle, context);
  } catch (...) {
    opened.calls().release_context(handle);
    throw;
  }
}

Device::Device(Key, int ordinal, int handle, void* context)
    : ordinal_(ordinal), handle_(handle), context_(context) {}

Device::~Device() {
  if (ours()) driver().calls().release_context(handle_);
}

std::optional<int> Device::numa_node() const {
  std::array<char, 32> id{};
  if (driver().calls().bus_id(id.data(), static_cast<int>(id.size()), handle_) != kDriverSuccess)
    return std::nullopt;
  std::string address(id.data());
  std::ranges::transform(address, address.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::ifstream file("/sys/bus/pci/devices/" + address + "/numa_node");
  int node = -1;  // the kernel's answer on a machine without NUMA nodes
  if (!(file >> node) || node < 0) return std::nullopt;
  return node;
}

std::optional<Failure> Device::pin(std::byte* data, std::size_t nbytes) const {
  return in_context(context_, name(), &DriverNames::host_register, [&](const DriverCalls& calls) {
    return calls.host_register(data, nbytes, kHostPortable);
  });
}

std::optional<Failure> Device::unpin(std::byte* data) const {
  return in_context(context_, name(), &DriverNames::host_unregister,
                    [&](const DriverCalls& calls) { return calls.host_unregister(data); });
}

Device::PinnedMemory Device::allocate_pinned(std::size_t nbytes) const {
  void* made = nullptr;
  auto refused = in_context(
      context_, name(), &DriverNames::host_allocate,
      [&](const DriverCalls& calls) { return calls.host_allocate(&made, nbytes, kHostPortable); });
  return {static_cast<std::byte*>(made), std::move(refused)};
}

std::optional<Failure> Device::free_pinned(std::byte* data) const {
  return in_context(context_, name(), &DriverNames::host_free,
                    [&](const DriverCalls& calls) { return calls.host_free(data); });
}

std::optional<Failure> Device::record(StreamHandle stream, Event& event) const {
  return in_context(context_, name(), &DriverNames::record_event, [&](const DriverCalls& calls) {
    return calls.record_event(event.handle_, handle_of(stream));
  });
}

std::optional<Failure> Device::hold_back(StreamHandle stream, const Event& event) const {
  return in_context(context_, name(), &DriverNames::stream_wait, [&](const DriverCalls& calls) {
    return calls.stream_wait(handle_of(stream), event.handle_, 0);
  });
}

// ---- events ----

Event::Event(std::shared_ptr<Device> device) : device_(std::move(device)) {
  require(in_context(device_->context_, device_->name(), &DriverNames::make_event,
                     [&](const DriverCalls& calls) {
                       return calls.make_event(&handle_, kEventBlockingSync | kEventDisableTiming);
                     }));
}

Event::~Event() {
  if (!device_->ours()) return;
  const Current current(device_->context_, device_->name());
  if (!current.refused()) driver().calls().destroy_event(handle_);
}

Event::Answer Event::ask() const {
  const Current current(device_->context_, device_->name());
  if (current.refused()) return {false, current.refused()};
  const DriverResult result = driver().calls().query_event(handle_);
  if (result == kDriverNotReady) return {};
  return {result == kDriverSuccess, failure_of(&DriverNames::query_event, device_->name(), result)};
}

std::optional<Failure> Event::wait() const {
  return in_context(device_->context_, device_->name(), &DriverNames::event_synchronize,
                    [&](const DriverCalls& calls) { return calls.event_synchronize(handle_); });
}

// ---- streams ----

Stream::Stream(std::shared_ptr<Device> device) : device_(std::move(device)) {
  require(in_context(
      device_->context_, device_->name(), &DriverNames::make_stream,
      [&](const DriverCalls& calls) { return calls.make_stream(&handle_, kStreamNonBlocking); }));
}

Stream::~Stream() {
  if (!device_->ours()) return;
  const Current current(device_->context_, device_->name());
  if (!current.refused()) driver().calls().destroy_stream(handle_);
}

std::optional<Failure> Stream::copy_in(DeviceAddress to, const std::byte* from,
                                       std::size_t nbytes) {
  return in_context(
      device_->context_, device_->name(), &DriverNames::copy_in,
      [&](const DriverCalls& calls) { return calls.copy_in(to, from, nbytes, handle_); });
}

std::optional<Failure> Stream::copy_out(std::byte* to, DeviceAddress from, std::size_t nbytes) {
  return in_context(
      device_->context_, device_->name(), &DriverNames::copy_out,
      [&](const DriverCalls& calls) { return calls.copy_out(to, from, nbytes, handle_); });
}

std::optional<Failure> Stream::hold_back(const Event& event) {
  return in_context(
      device_->context_, device_->name(), &DriverNames::stream_wait,
      [&](const DriverCalls& calls) { return calls.stream_wait(handle_, event.handle_, 0); });
}

std::optional<Failure> Stream::record(Event& event) {
  return in_context(
      device_->context_, device_->name(), &DriverNames::record_event,
      [&](const DriverCalls& calls) { return calls.record_event(event.handle_, handle_); });
}

std::optional<Failure> Stream::wait() const {
  return in_context(device_->context_, device_->name(), &DriverNames::stream_synchronize,
                    [&](const DriverCalls& calls) { return calls.stream_synchronize(handle_); });
}

}  // namespace fastio
