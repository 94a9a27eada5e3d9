// The driver of accelerators: opened at run time, by a table of the names that its library exports.
//
// No header of a driver is needed to build, no library to start. Types and constants are those of
// the CUDA Driver API reference manual (cuda.h). A driver whose calls mean the same, as those of
// HIP do, is one more row of known_drivers(). All of it may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "error.h"

namespace fastio {

using DeviceAddress = std::uint64_t;

struct DriverStatus {
  bool available = false;
  std::string reason;    // why not, or what it is: "libcuda.so.1, CUDA 13.0"
  int version = 0;       // 12040 for 12.4
  int device_count = 0;  // once it is initialised
};

using DriverResult = int;    // CUresult
using DriverHandle = void*;  // CUcontext, CUstream, CUevent
constexpr DriverResult kDriverSuccess = 0;
constexpr DriverResult kDriverNotInitialized = 3;  // CUDA_ERROR_NOT_INITIALIZED
constexpr DriverResult kDriverNotReady = 600;      // CUDA_ERROR_NOT_READY
constexpr unsigned kStreamNonBlocking = 1;
constexpr unsigned kEventBlockingSync = 1, kEventDisableTiming = 2;
constexpr unsigned kHostPortable = 1;  // CU_MEMHOSTREGISTER_PORTABLE, CU_MEMHOSTALLOC_PORTABLE

struct DriverCalls {
  DriverResult (*init)(unsigned flags);
  DriverResult (*driver_version)(int* version);
  DriverResult (*device_count)(int* count);
  DriverResult (*device)(int* device, int ordinal);
  DriverResult (*bus_id)(char* text, int nbytes, int device);
  DriverResult (*context_state)(int device, unsigned* flags, int* active);
  DriverResult (*retain_context)(DriverHandle* context, int device);
  DriverResult (*release_context)(int device);
  DriverResult (*push_context)(DriverHandle context);
  DriverResult (*pop_context)(DriverHandle* context);
  DriverResult (*host_register)(void* data, std::size_t nbytes, unsigned flags);
  DriverResult (*host_unregister)(void* data);
  DriverResult (*host_allocate)(void** data, std::size_t nbytes, unsigned flags);
  DriverResult (*host_free)(void* data);
  DriverResult (*copy_in)(DeviceAddress to, const void* from, std::size_t nbytes,
                          DriverHandle stream);
  DriverResult (*copy_out)(void* to, DeviceAddress from, std::size_t nbytes, DriverHandle stream);
  DriverResult (*make_stream)(DriverHandle* stream, unsigned flags);
  DriverResult (*destroy_stream)(DriverHandle stream);
  DriverResult (*stream_wait)(DriverHandle stream, DriverHandle event, unsigned flags);
  DriverResult (*stream_synchronize)(DriverHandle stream);
  DriverResult (*make_event)(DriverHandle* event, unsigned flags);
  DriverResult (*destroy_event)(DriverHandle event);
  DriverResult (*record_event)(DriverHandle event, DriverHandle stream);
  DriverResult (*query_event)(DriverHandle event);
  DriverResult (*event_synchronize)(DriverHandle event);
  DriverResult (*error_name)(DriverResult error, const char** text);
  DriverResult (*error_text)(DriverResult error, const char** text);
};

// The same by name, as a library exports them. Messages leave out a version such as "_v2".
struct DriverNames {
  const char* kind = nullptr;      // "CUDA"
  const char* library = nullptr;   // that is opened
  const char* variable = nullptr;  // of the environment: names another library; null: none does
  int dlpack_device = 0;           // DLDeviceType of its memory, in dlpack.h
  int version_major = 1000;        // of its number: 12040 is 12.4
  int version_minor = 10;
  int version_least = 0;  // the oldest whose names all are here

  const char* init = nullptr;
  const char* driver_version = nullptr;
  const char* device_count = nullptr;
  const char* device = nullptr;
  const char* bus_id = nullptr;
  const char* context_state = nullptr;
  const char* retain_context = nullptr;
  const char* release_context = nullptr;
  const char* push_context = nullptr;
  const char* pop_context = nullptr;
  const char* host_register = nullptr;
  const char* host_unregister = nullptr;
  const char* host_allocate = nullptr;
  const char* host_free = nullptr;
  const char* copy_in = nullptr;
  const char* copy_out = nullptr;
  const char* make_stream = nullptr;
  const char* destroy_stream = nullptr;
  const char* stream_wait = nullptr;
  const char* stream_synchronize = nullptr;
  const char* make_event = nullptr;
  const char* destroy_event = nullptr;
  const char* record_event = nullptr;
  const char* query_event = nullptr;
  const char* event_synchronize = nullptr;
  const char* error_name = nullptr;
  const char* error_text = nullptr;
};

// The first one that this host has is used.
[[nodiscard]] std::span<const DriverNames> known_drivers();

class Driver {
 public:
  enum class Initialisation : std::uint8_t { none, full };

  // Opens a library; what keeps it from that is in its status.
  Driver(const DriverNames& names, std::string library, Initialisation initialisation);

  [[nodiscard]] const DriverStatus& status() const { return status_; }
  [[nodiscard]] const DriverCalls& calls() const { return calls_; }
  [[nodiscard]] const DriverNames& names() const { return names_; }

  using Call = const char* DriverNames::*;
  // None for success.
  [[nodiscard]] std::optional<Failure> failure_of(Call call, const std::string& device,
                                                  DriverResult result) const;

 private:
  void open(Initialisation initialisation);
  void refuse(Call call, DriverResult result);
  [[nodiscard]] std::string describe(DriverResult result) const;

  const DriverNames& names_;
  std::string library_;
  DriverCalls calls_{};
  DriverStatus status_;
};

// The driver of this process, initialised; opened when it is first asked for.
[[nodiscard]] const Driver& driver();

// Looks for it, and leaves it as it is: a process that initialised it could not be forked any more
// into ones that use devices.
[[nodiscard]] DriverStatus find_driver();

}  // namespace fastio
