// FASTIO_ASSERT: invariants of the core, checked in the builds of tests and sanitizers.
//
// A wheel evaluates none of them. The CMake option FASTIO_ASSERTIONS turns them on. A failed
// assertion ends the process, as no lane may go on with a state that cannot be.
#pragma once

#ifdef FASTIO_ASSERTIONS

#include <cstdio>
#include <cstdlib>

namespace fastio {

[[noreturn]] inline void fail_assertion(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: fastio: it does not hold that %s\n", file, line, condition);
  std::abort();
}

}  // namespace fastio

#define FASTIO_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::fastio::fail_assertion(#condition, __FILE__, __LINE__))

#else

// The condition is compiled, so that it stays valid, and never evaluated.
#define FASTIO_ASSERT(condition) static_cast<void>(sizeof((condition) ? 1 : 0))

#endif
