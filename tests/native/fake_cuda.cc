// The double of the CUDA driver: itself, its devices, its contexts and its errors.
#include <unistd.h>

#include <atomic>
#include <cstdio>

#include "fake_cuda_state.h"
#include "process.h"

namespace fake_cuda {
namespace {

std::atomic<pid_t> initialised_by{0};

struct Code {
  int code;
  const char *name, *text;
};

constexpr std::array<Code, 20> kCodes{{
    {kSuccess, "CUDA_SUCCESS", "no error"},
    {kInvalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {kDeinitialized, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {304, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS"},
    {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {kNotReady, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {kAlreadyRegistered, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {kNotRegistered, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {800, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
     "system has unsupported display driver / cuda driver combination"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
}};

const Code* find_code(int code) {
  for (const Code& known : kCodes) {
    if (known.code == code) return &known;
  }
  return nullptr;
}

bool is_device(int device) { return device >= 0 && device < kDevices; }

// The fault of this call, if any.
std::optional<Fault> take_fault(State& state, std::string_view name) {
  std::optional<Fault> met;
  for (Fault& fault : state.faults) {
    if (fault.name == name && --fault.calls_left == 0) met = fault;
  }
  std::erase_if(state.faults, [](const Fault& fault) { return fault.calls_left <= 0; });
  return met;
}

void lose(State& state, int device, int code) {
  state.contexts.at(static_cast<std::size_t>(device)).lost = code;
  drop_pending(state, device);
}

}  // namespace

// Static, so that a child's is as fresh as its state.
State& state() { return fastio::process_state<State>(); }

bool is_forked_off() {
  const pid_t first = initialised_by.load();
  return first != 0 && first != getpid();
}

bool initialise(State& state) {
  if (is_forked_off()) return false;
  initialised_by = getpid();
  state.initialised = true;
  return true;
}

ContextStack& current_contexts(const State& state) {
  thread_local ContextStack contexts;
  if (contexts.resets != state.resets) contexts = {{}, 0, state.resets};
  return contexts;
}

std::string_view plain_name(std::string_view name) {
  constexpr std::string_view kVersioned = "_v2";
  if (name.ends_with(kVersioned)) name.remove_suffix(kVersioned.size());
  return name;
}

int begin(State& state, const char* name, Needs needs, int& device) {
  const std::string_view plain = plain_name(name);
  auto calls = state.calls.find(plain);
  if (calls == state.calls.end()) calls = state.calls.emplace(plain, 0).first;
  ++calls->second;
  device = current_contexts(state).current();
  if (const auto fault = take_fault(state, plain)) {
    for (int i = 0; fault->loses_device && i < kDevices; ++i) {
      if (device < 0 || device == i) lose(state, i, fault->code);
    }
    return fault->code;
  }
  if (needs == Needs::nothing) return kSuccess;
  if (state.ended) return kDeinitialized;
  if (!state.initialised) return kNotInitialized;
  if (needs == Needs::driver) return kSuccess;
  if (device < 0) return kInvalidContext;
  const Context& context = state.contexts.at(static_cast<std::size_t>(device));
  if (!context.active()) return kInvalidContext;
  return needs == Needs::context ? context.lost : kSuccess;
}

extern "C" {

// ---- the driver and its devices ----

FAKE_CUDA_EXPORT int cuInit(unsigned flags) {
  return call("cuInit", Needs::nothing, [&](State& state, Lock&, int) {
    if (flags != 0) return kInvalidValue;
    if (state.ended) return kDeinitialized;
    return initialise(state) ? kSuccess : kNotInitialized;
  });
}

// By the name that a driver of another kind has for it.
FAKE_CUDA_EXPORT int hipInit(unsigned flags) { return cuInit(flags); }

FAKE_CUDA_EXPORT int cuDriverGetVersion(int* version) {
  return call("cuDriverGetVersion", Needs::nothing, [&](State& state, Lock&, int) {
    *version = state.version;
    return kSuccess;
  });
}

FAKE_CUDA_EXPORT int cuDeviceGetCount(int* count) {
  return call("cuDeviceGetCount", Needs::driver, [&](State&, Lock&, int) {
    *count = kDevices;
    return kSuccess;
  });
}

FAKE_CUDA_EXPORT int cuDeviceGet(int* device, int ordinal) {
  return call("cuDeviceGet", Needs::driver, [&](State&, Lock&, int) {
    if (!is_device(ordinal)) return kInvalidDevice;
    *device = ordinal;
    return kSuccess;
  });
}

FAKE_CUDA_EXPORT int cuDeviceGetPCIBusId(char* text, int nbytes, int device) {
  return call("cuDeviceGetPCIBusId", Needs::driver, [&](State& state, Lock&, int) {
    if (!is_device(device)) return kInvalidDevice;
    const std::string& id = state.contexts.at(static_cast<std::size_t>(device)).bus_id;
    if (nbytes <= static_cast<int>(id.size())) return kInvalidValue;
    std::snprintf(text, static_cast<std::size_t>(nbytes), "%s", id.c_str());
    return kSuccess;
  });
}

// ---- contexts ----

FAKE_CUDA_EXPORT int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
  return call("cuDevicePrimaryCtxGetState", Needs::driver, [&](State& state, Lock&, int) {
    if (!is_device(device)) return kInvalidDevice;
    *flags = 0;
    *active = state.contexts.at(static_cast<std::size_t>(device)).active() ? 1 : 0;
    return kSuccess;
  });
}

FAKE_CUDA_EXPORT int cuDevicePrimaryCtxRetain(void** context, int device) {
  return call("cuDevicePrimaryCtxRetain", Needs::driver, [&](State& state, Lock&, int) {
    if (!is_device(device)) return kInvalidDevice;
    Context& retained = state.contexts.at(static_cast<std::size_t>(device));
    if (!retained.active())
      state.violated("a primary context was made, not retained: nobody had initialised the device");
    ++retained.retained;
    *context = &retained;
    return kSuccess;
  });
}

FAKE_CUDA_EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
  return call("cuDevicePrimaryCtxRelease_v2", Needs::driver, [&](State& state, Lock&, int) {
    if (!is_device(device)) return kInvalidDevice;
    Context& released = state.contexts.at(static_cast<std::size_t>(device));
    if (released.retained == 0) {
      state.violated("a primary context was released more often than it was retained");
      return kInvalidContext;
    }
    --released.retained;
    return kSuccess;
  });
}

FAKE_CUDA_EXPORT int cuCtxPushCurrent_v2(void* context) {
  return call("cuCtxPushCurrent_v2", Needs::driver, [&](State& state, Lock&, int) {
    for (int device = 0; device < kDevices; ++device) {
      const Context& known = state.contexts.at(static_cast<std::size_t>(device));
      if (context != &known || !known.active()) continue;
      ContextStack& contexts = current_contexts(state);
      if (contexts.depth == contexts.devices.size()) {
        state.violated("contexts are pushed and not popped");
        return kInvalidValue;
      }
      contexts.devices.at(contexts.depth++) = device;
      return kSuccess;
    }
    return kInvalidContext;
  });
}

FAKE_CUDA_EXPORT int cuCtxPopCurrent_v2(void** context) {
  return call("cuCtxPopCurrent_v2", Needs::driver, [&](State& state, Lock&, int device) {
    if (device < 0) return kInvalidContext;
    if (context != nullptr) *context = &state.contexts.at(static_cast<std::size_t>(device));
    --current_contexts(state).depth;
    return kSuccess;
  });
}

// ---- errors ----

FAKE_CUDA_EXPORT int cuGetErrorName(int code, const char** text) {
  const Code* known = find_code(code);
  *text = known != nullptr ? known->name : nullptr;
  return known != nullptr ? kSuccess : kInvalidValue;
}

FAKE_CUDA_EXPORT int cuGetErrorString(int code, const char** text) {
  const Code* known = find_code(code);
  *text = known != nullptr ? known->text : nullptr;
  return known != nullptr ? kSuccess : kInvalidValue;
}

}  // extern "C"

}  // namespace fake_cuda
