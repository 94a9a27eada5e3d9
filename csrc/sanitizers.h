// Memory that the kernel writes for a ring, told to the sanitizers, which cannot see it.
// Empty in an ordinary build.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_write_range(void* address, unsigned long size);
#endif

namespace fastio {

// Before a request is handed to the kernel.
inline void sanitize_submission([[maybe_unused]] void* request, [[maybe_unused]] std::byte* data,
                                [[maybe_unused]] std::size_t nbytes) {
#if defined(__SANITIZE_ADDRESS__)
  if (__asan_region_is_poisoned(data, nbytes) != nullptr) __builtin_trap();
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_release(request);
#endif
}

// liburing maps and unmaps rings by system calls of its own, which TSan does not see either:
// without these two, a ring at the address of an earlier one would look like a race between their
// lanes.
#if defined(__SANITIZE_THREAD__)
inline char ring_memory;
#endif
inline void sanitize_ring_made() {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(&ring_memory);
#endif
}
inline void sanitize_ring_gone() {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(&ring_memory);
#endif
}

// After its completion was taken: the kernel has written `nbytes` at `data`.
inline void sanitize_completion([[maybe_unused]] void* request, [[maybe_unused]] std::byte* data,
                                [[maybe_unused]] std::size_t nbytes) {
#if defined(__SANITIZE_ADDRESS__)
  if (__asan_region_is_poisoned(data, nbytes) != nullptr) __builtin_trap();
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(request);
  __tsan_write_range(data, nbytes);
#endif
}

}  // namespace fastio
