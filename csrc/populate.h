// Pages of a mapped file, brought in before they are touched: what cannot be read is told, and is
// no signal.
//
// The functions may be called from any thread.
#pragma once

#include <cstdint>
#include <optional>

#include "error.h"
#include "file.h"
#include "memory.h"

namespace fastio {

// Whether this kernel brings in pages of a mapping, and reports those that cannot be read
// (MADV_POPULATE_READ, Linux 5.14). A trial decides it, once in a process.
[[nodiscard]] bool can_populate();

// Brings the bytes [begin, end) of a mapping in at once. The kernel does not say what it could not
// bring in, and why. So the file is then read there, and the failure is that of the read: an error
// of the disk, or a file that ends before. Does nothing where the kernel cannot populate. Throws
// OutOfMemory.
[[nodiscard]] std::optional<Failure> populate(File& file, const Region& region, std::uint64_t begin,
                                              std::uint64_t end);

}  // namespace fastio
