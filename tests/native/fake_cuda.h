// The double of the CUDA driver: the functions by which a test controls and inspects it.
// libfake_cuda.so also has the driver's own names, as far as fastio looks them up. Its device
// memory is host memory at the same addresses. One thread runs its streams, late and out of order
// among themselves. It finds mistakes; it does not measure speed.
//
// It is stricter than the driver where the driver's manual leaves room. A stream or an event needs
// its own context to be current, and memory is pinned as a whole or not at all. Its default streams
// do not wait for other streams. Simple types only, for Python's ctypes.
#pragma once

#include <cstddef>
#include <cstdint>

#define FAKE_CUDA_EXPORT __attribute__((visibility("default")))

extern "C" {

// ---- between tests ----

// Frees everything and forgets all settings. Contexts are no longer active; a process that had
// initialised the driver still has.
FAKE_CUDA_EXPORT void fake_cuda_reset();
// The same for settings, counts and held streams, while contexts, streams, events and memory live
// on.
FAKE_CUDA_EXPORT void fake_cuda_clear();

// ---- the part of a framework ----

// Initialises the driver and makes the primary context of a device. 0, or the driver's error.
FAKE_CUDA_EXPORT int fake_cuda_activate(int ordinal);
// The calling thread's contexts become this one alone; none for -1.
FAKE_CUDA_EXPORT void fake_cuda_set_current(int ordinal);
FAKE_CUDA_EXPORT int fake_cuda_current();  // the calling thread's; -1 for none
FAKE_CUDA_EXPORT int fake_cuda_current_depth();
// Device memory, full of 0xDB; 0 when none is left.
FAKE_CUDA_EXPORT std::uint64_t fake_cuda_allocate(int ordinal, std::uint64_t nbytes);
FAKE_CUDA_EXPORT void fake_cuda_free(std::uint64_t address);
// Reads the bytes at once, and fills them at once, whatever is pending.
FAKE_CUDA_EXPORT void fake_cuda_read(void* to, std::uint64_t from, std::uint64_t nbytes);
FAKE_CUDA_EXPORT void fake_cuda_write(std::uint64_t to, const void* from, std::uint64_t nbytes);
// A stream that is not counted, and the default stream, which is 0 in its own context.
FAKE_CUDA_EXPORT std::uintptr_t fake_cuda_make_stream(int ordinal);
FAKE_CUDA_EXPORT std::uintptr_t fake_cuda_default_stream(int ordinal);
// A kernel of the caller's: it writes device memory when the stream comes to it.
FAKE_CUDA_EXPORT void fake_cuda_fill(std::uintptr_t stream, std::uint64_t address, int value,
                                     std::uint64_t nbytes);

// ---- properties of the driver ----

FAKE_CUDA_EXPORT void fake_cuda_set_version(int version);  // 12040 at first
FAKE_CUDA_EXPORT void fake_cuda_set_bus_id(int ordinal, const char* text);
FAKE_CUDA_EXPORT void fake_cuda_set_device_bytes(std::uint64_t nbytes);  // of each device
// Each operation begins when its stream comes to it, and is done up to so much later.
FAKE_CUDA_EXPORT void fake_cuda_set_delay(unsigned max_us, std::uint64_t seed);

// ---- faults ----

// The nth call from now of a function, named with or without its "_v2", returns this code. If the
// device is lost with it, its pending operations never happen. Every later call in its context
// returns the code; only destroy, release, push and pop work.
FAKE_CUDA_EXPORT void fake_cuda_fail(const char* name, int nth, int code, int lost);
// Always, until the code is 0.
FAKE_CUDA_EXPORT void fake_cuda_refuse_registration(int code);
FAKE_CUDA_EXPORT void fake_cuda_refuse_host_allocation(int code);
// Operations enqueued from now on wait until the stream is released.
FAKE_CUDA_EXPORT void fake_cuda_hold_stream(std::uintptr_t stream);
FAKE_CUDA_EXPORT void fake_cuda_release_stream(std::uintptr_t stream);
FAKE_CUDA_EXPORT void fake_cuda_hold_all(int held);  // no stream gets on

// ---- records ----

// Violations of rules that the driver cannot enforce: memory changed, freed or not pinned under a
// copy, copies outside the device's memory, stale handles, waits for a whole device.
FAKE_CUDA_EXPORT int fake_cuda_violations();
FAKE_CUDA_EXPORT const char* fake_cuda_first_violation();  // "" for none; valid until a reset
FAKE_CUDA_EXPORT int fake_cuda_calls(const char* name);
FAKE_CUDA_EXPORT std::uint64_t fake_cuda_pinned_bytes();
FAKE_CUDA_EXPORT std::uint64_t fake_cuda_device_bytes();  // allocated on all devices
FAKE_CUDA_EXPORT int fake_cuda_contexts_retained();       // the sum, without frameworks
FAKE_CUDA_EXPORT int fake_cuda_streams_alive();
FAKE_CUDA_EXPORT int fake_cuda_events_alive();
FAKE_CUDA_EXPORT std::uint64_t fake_cuda_copies_executed();
FAKE_CUDA_EXPORT std::uint64_t fake_cuda_copies_pending();
FAKE_CUDA_EXPORT std::uint64_t fake_cuda_bytes_in();   // copied to devices
FAKE_CUDA_EXPORT std::uint64_t fake_cuda_bytes_out();  // copied from devices

// ---- driver functions that fastio does not use ----

FAKE_CUDA_EXPORT int cuMemAlloc_v2(unsigned long long* address, std::size_t nbytes);
FAKE_CUDA_EXPORT int cuMemFree_v2(unsigned long long address);
// Reads device memory at once, whatever is pending.
FAKE_CUDA_EXPORT int cuMemcpyDtoH_v2(void* to, unsigned long long from, std::size_t nbytes);
FAKE_CUDA_EXPORT int cuCtxSynchronize();  // a violation
}
