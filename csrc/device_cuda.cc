// CUDA's driver API by its exported names: no header of it is needed to build, no library to start.
// Types and constants are those of the CUDA Driver API reference manual (cuda.h).
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "device.h"
#include "process.h"

namespace fastio {
namespace {

using Result = int;    // CUresult
using Handle = void*;  // CUcontext, CUstream, CUevent
constexpr Result kSuccess = 0;
constexpr Result kNotInitialized = 3;  // CUDA_ERROR_NOT_INITIALIZED
constexpr Result kNotReady = 600;      // CUDA_ERROR_NOT_READY
constexpr int kVersionLeast = 11000;   // the oldest driver whose names all are here
constexpr unsigned kStreamNonBlocking = 1;
constexpr unsigned kEventBlockingSync = 1, kEventDisableTiming = 2;
constexpr unsigned kHostPortable = 1;  // CU_MEMHOSTREGISTER_PORTABLE, CU_MEMHOSTALLOC_PORTABLE

// The driver's functions, by the versioned names that its library exports. Another driver
// with calls of the same meaning needs another table of names.
struct Calls {
  Result (*init)(unsigned flags);
  Result (*driver_version)(int* version);
  Result (*device_count)(int* count);
  Result (*device)(int* device, int ordinal);
  Result (*bus_id)(char* text, int nbytes, int device);
  Result (*context_state)(int device, unsigned* flags, int* active);
  Result (*retain_context)(Handle* context, int device);
  Result (*release_context)(int device);
  Result (*push_context)(Handle context);
  Result (*pop_context)(Handle* context);
  Result (*host_register)(void* data, std::size_t nbytes, unsigned flags);
  Result (*host_unregister)(void* data);
  Result (*host_allocate)(void** data, std::size_t nbytes, unsigned flags);
  Result (*host_free)(void* data);
  Result (*copy_in)(DeviceAddress to, const void* from, std::size_t nbytes, Handle stream);
  Result (*copy_out)(void* to, DeviceAddress from, std::size_t nbytes, Handle stream);
  Result (*make_stream)(Handle* stream, unsigned flags);
  Result (*destroy_stream)(Handle stream);
  Result (*stream_wait)(Handle stream, Handle event, unsigned flags);
  Result (*stream_synchronize)(Handle stream);
  Result (*make_event)(Handle* event, unsigned flags);
  Result (*destroy_event)(Handle event);
  Result (*record_event)(Handle event, Handle stream);
  Result (*query_event)(Handle event);
  Result (*event_synchronize)(Handle event);
  Result (*error_name)(Result error, const char** text);
  Result (*error_text)(Result error, const char** text);
};

template <typename Call>
bool find(void* library, const char* name, Call& call, std::string& missing) {
  call = reinterpret_cast<Call>(dlsym(library, name));
  if (call == nullptr) missing = name;
  return call != nullptr;
}

bool find_all(void* library, Calls& calls, std::string& missing) {
  return find(library, "cuInit", calls.init, missing) &&
         find(library, "cuDriverGetVersion", calls.driver_version, missing) &&
         find(library, "cuDeviceGetCount", calls.device_count, missing) &&
         find(library, "cuDeviceGet", calls.device, missing) &&
         find(library, "cuDeviceGetPCIBusId", calls.bus_id, missing) &&
         find(library, "cuDevicePrimaryCtxGetState", calls.context_state, missing) &&
         find(library, "cuDevicePrimaryCtxRetain", calls.retain_context, missing) &&
         find(library, "cuDevicePrimaryCtxRelease_v2", calls.release_context, missing) &&
         find(library, "cuCtxPushCurrent_v2", calls.push_context, missing) &&
         find(library, "cuCtxPopCurrent_v2", calls.pop_context, missing) &&
         find(library, "cuMemHostRegister_v2", calls.host_register, missing) &&
         find(library, "cuMemHostUnregister", calls.host_unregister, missing) &&
         find(library, "cuMemHostAlloc", calls.host_allocate, missing) &&
         find(library, "cuMemFreeHost", calls.host_free, missing) &&
         find(library, "cuMemcpyHtoDAsync_v2", calls.copy_in, missing) &&
         find(library, "cuMemcpyDtoHAsync_v2", calls.copy_out, missing) &&
         find(library, "cuStreamCreate", calls.make_stream, missing) &&
         find(library, "cuStreamDestroy_v2", calls.destroy_stream, missing) &&
         find(library, "cuStreamWaitEvent", calls.stream_wait, missing) &&
         find(library, "cuStreamSynchronize", calls.stream_synchronize, missing) &&
         find(library, "cuEventCreate", calls.make_event, missing) &&
         find(library, "cuEventDestroy_v2", calls.destroy_event, missing) &&
         find(library, "cuEventRecord", calls.record_event, missing) &&
         find(library, "cuEventQuery", calls.query_event, missing) &&
         find(library, "cuEventSynchronize", calls.event_synchronize, missing) &&
         find(library, "cuGetErrorName", calls.error_name, missing) &&
         find(library, "cuGetErrorString", calls.error_text, missing);
}

std::string library_name() {
  const char* given = std::getenv("FASTIO_CUDA_LIBRARY");
  return given != nullptr && *given != '\0' ? given : "libcuda.so.1";
}

struct Driver {
  std::string name;
  Calls calls{};
  DriverStatus status;

  Driver(std::string library, bool initialise) : name(std::move(library)) { open(initialise); }

 private:
  void open(bool initialise) {
    void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      const char* why = dlerror();
      status.reason = std::string("no CUDA: ") + (why != nullptr ? why : name.c_str());
      return;
    }
    if (std::string missing; !find_all(library, calls, missing)) {
      status.reason = "no CUDA: " + name + " has no " + missing + ": the driver is too old";
      return;
    }
    if (const Result result = calls.driver_version(&status.version); result != kSuccess)
      return refuse("cuDriverGetVersion", result);
    const std::string version = "CUDA " + std::to_string(status.version / 1000) + "." +
                                std::to_string(status.version % 1000 / 10);
    if (status.version < kVersionLeast) {
      status.reason = "no CUDA: the driver is too old: " + version + ", and 11.0 is the least";
      return;
    }
    if (initialise) {
      if (const Result result = calls.init(0); result != kSuccess) return refuse("cuInit", result);
      if (const Result result = calls.device_count(&status.device_count); result != kSuccess)
        return refuse("cuDeviceGetCount", result);
    }
    status.available = true;
    status.reason = name + ", " + version;
  }

  void refuse(const char* what, Result result);
};

std::string describe(const Calls& calls, Result result) {
  const char *name = nullptr, *text = nullptr;
  if (calls.error_name(result, &name) != kSuccess || name == nullptr)
    return "unknown error " + std::to_string(result);
  std::string described = name;
  if (calls.error_text(result, &text) == kSuccess && text != nullptr)
    described += std::string(", ") + text;
  return described;
}

void Driver::refuse(const char* what, Result result) {
  status.reason = std::string("no CUDA: ") + what + ": " + describe(calls, result);
  // The answer of cuInit in a child of a process that has initialised the driver.
  if (result == kNotInitialized)
    status.reason += ": it cannot be used in a process that was forked after it was initialised";
}

// Opened once in each process; once more where there was none and another library is named since.
struct Opened {
  std::mutex mutex;
  std::atomic<const Driver*> latest{nullptr};
  std::vector<std::unique_ptr<Driver>> all;  // somebody may still look at an earlier one

  const Driver& get() {
    const Driver* seen = latest.load(std::memory_order_acquire);
    if (seen != nullptr && (seen->status.available || seen->name == library_name())) return *seen;
    const std::lock_guard lock(mutex);
    seen = latest.load(std::memory_order_acquire);
    std::string name = library_name();
    if (seen == nullptr || (!seen->status.available && seen->name != name)) {
      all.push_back(std::make_unique<Driver>(std::move(name), true));
      latest.store(all.back().get(), std::memory_order_release);
    }
    return *all.back();
  }
};

const Driver& driver() { return process_state<Opened>().get(); }

Failure failure(const char* operation, const std::string& device, Result result) {
  Failure made{result, operation, device, {}, describe(driver().calls, result)};
  made.kind = Failure::Kind::device;
  return made;
}

std::optional<Failure> checked(const char* operation, const std::string& device, Result result) {
  if (result == kSuccess) return std::nullopt;
  return failure(operation, device, result);
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
  Current(Handle context, const std::string& device)
      : refused_(checked("cuCtxPushCurrent", device, driver().calls.push_context(context))) {}
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
  ~Current() {
    Handle popped = nullptr;
    if (!refused_) driver().calls.pop_context(&popped);
  }
  [[nodiscard]] const std::optional<Failure>& refused() const { return refused_; }

 private:
  std::optional<Failure> refused_;
};

template <typename Call>
std::optional<Failure> in_context(Handle context, const std::string& device, const char* operation,
                                  Call&& call) {
  const Current current(context, device);
  if (current.refused()) return current.refused();
  return checked(operation, device, call(driver().calls));
}

Handle handle_of(StreamHandle stream) { return std::bit_cast<Handle>(stream); }

}  // namespace

DriverStatus driver_status() { return driver().status; }

DriverStatus find_driver() { return Driver(library_name(), false).status; }

// ---- the device ----

std::shared_ptr<Device> Device::of(int ordinal) {
  const std::string name = "cuda:" + std::to_string(ordinal);
  const Driver& opened = driver();
  if (!opened.status.available) refuse(name, opened.status.reason);
  if (ordinal < 0 || ordinal >= opened.status.device_count) {
    refuse(name,
           "there is no such device: the driver has " + std::to_string(opened.status.device_count));
  }
  int handle = 0, active = 0;
  unsigned flags = 0;
  Handle context = nullptr;
  require(checked("cuDeviceGet", name, opened.calls.device(&handle, ordinal)));
  require(checked("cuDevicePrimaryCtxGetState", name,
                  opened.calls.context_state(handle, &flags, &active)));
  if (active == 0)
    refuse(name, "nobody has initialised it: a framework does, with its first tensor");
  require(checked("cuDevicePrimaryCtxRetain", name, opened.calls.retain_context(&context, handle)));
  try {
    return std::make_shared<Device>(Key{}, ordinal, handle, context);
  } catch (...) {
    opened.calls.release_context(handle);
    throw;
  }
}

Device::Device(Key, int ordinal, int handle, void* context)
    : ordinal_(ordinal), handle_(handle), context_(context) {}

Device::~Device() {
  if (ours()) driver().calls.release_context(handle_);
}

std::optional<int> Device::numa_node() const {
  std::array<char, 32> id{};
  if (driver().calls.bus_id(id.data(), static_cast<int>(id.size()), handle_) != kSuccess)
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
  return in_context(context_, name(), "cuMemHostRegister", [&](const Calls& calls) {
    return calls.host_register(data, nbytes, kHostPortable);
  });
}

std::optional<Failure> Device::unpin(std::byte* data) const {
  return in_context(context_, name(), "cuMemHostUnregister",
                    [&](const Calls& calls) { return calls.host_unregister(data); });
}

Device::PinnedMemory Device::allocate_pinned(std::size_t nbytes) const {
  void* made = nullptr;
  auto refused = in_context(context_, name(), "cuMemHostAlloc", [&](const Calls& calls) {
    return calls.host_allocate(&made, nbytes, kHostPortable);
  });
  return {static_cast<std::byte*>(made), std::move(refused)};
}

std::optional<Failure> Device::free_pinned(std::byte* data) const {
  return in_context(context_, name(), "cuMemFreeHost",
                    [&](const Calls& calls) { return calls.host_free(data); });
}

std::optional<Failure> Device::record(StreamHandle stream, Event& event) const {
  return in_context(context_, name(), "cuEventRecord", [&](const Calls& calls) {
    return calls.record_event(event.handle_, handle_of(stream));
  });
}

std::optional<Failure> Device::hold_back(StreamHandle stream, const Event& event) const {
  return in_context(context_, name(), "cuStreamWaitEvent", [&](const Calls& calls) {
    return calls.stream_wait(handle_of(stream), event.handle_, 0);
  });
}

// ---- events ----

Event::Event(std::shared_ptr<Device> device) : device_(std::move(device)) {
  require(in_context(device_->context_, device_->name(), "cuEventCreate", [&](const Calls& calls) {
    return calls.make_event(&handle_, kEventBlockingSync | kEventDisableTiming);
  }));
}

Event::~Event() {
  if (!device_->ours()) return;
  const Current current(device_->context_, device_->name());
  if (!current.refused()) driver().calls.destroy_event(handle_);
}

Event::Answer Event::ask() const {
  const Current current(device_->context_, device_->name());
  if (current.refused()) return {false, current.refused()};
  const Result result = driver().calls.query_event(handle_);
  if (result == kNotReady) return {};
  return {result == kSuccess, checked("cuEventQuery", device_->name(), result)};
}

std::optional<Failure> Event::wait() const {
  return in_context(device_->context_, device_->name(), "cuEventSynchronize",
                    [&](const Calls& calls) { return calls.event_synchronize(handle_); });
}

// ---- streams ----

Stream::Stream(std::shared_ptr<Device> device) : device_(std::move(device)) {
  require(in_context(device_->context_, device_->name(), "cuStreamCreate", [&](const Calls& calls) {
    return calls.make_stream(&handle_, kStreamNonBlocking);
  }));
}

Stream::~Stream() {
  if (!device_->ours()) return;
  const Current current(device_->context_, device_->name());
  if (!current.refused()) driver().calls.destroy_stream(handle_);
}

std::optional<Failure> Stream::copy_in(DeviceAddress to, const std::byte* from,
                                       std::size_t nbytes) {
  return in_context(device_->context_, device_->name(), "cuMemcpyHtoDAsync",
                    [&](const Calls& calls) { return calls.copy_in(to, from, nbytes, handle_); });
}

std::optional<Failure> Stream::copy_out(std::byte* to, DeviceAddress from, std::size_t nbytes) {
  return in_context(device_->context_, device_->name(), "cuMemcpyDtoHAsync",
                    [&](const Calls& calls) { return calls.copy_out(to, from, nbytes, handle_); });
}

std::optional<Failure> Stream::hold_back(const Event& event) {
  return in_context(
      device_->context_, device_->name(), "cuStreamWaitEvent",
      [&](const Calls& calls) { return calls.stream_wait(handle_, event.handle_, 0); });
}

std::optional<Failure> Stream::record(Event& event) {
  return in_context(device_->context_, device_->name(), "cuEventRecord",
                    [&](const Calls& calls) { return calls.record_event(event.handle_, handle_); });
}

std::optional<Failure> Stream::wait() const {
  return in_context(device_->context_, device_->name(), "cuStreamSynchronize",
                    [&](const Calls& calls) { return calls.stream_synchronize(handle_); });
}

}  // namespace fastio
