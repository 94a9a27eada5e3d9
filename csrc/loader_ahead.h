// Reads ahead of the lanes that bring cold files into their mappings.
//
// A mapping that may have huge pages is read 2 MiB at a time and ahead, since Linux 5.18: then
// nothing is to be asked for. Elsewhere a page that is missing brings as much as the device reads
// ahead, often 128 KiB, and the lanes would wait for each of these reads. So the kernel is asked
// for the blocks that come next. A trial decides it, with the first cold block.
//
// Members may be called from any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "loader_layout.h"
#include "memory.h"
#include "plan.h"

namespace fastio {

class MappingAhead {
 public:
  // A lane is about to bring in this block of the layout, which lies in `region`.
  void come_to(const LoadLayout& layout, std::size_t block, const Region& region);

  // Whether the kernel has to be asked for blocks.
  [[nodiscard]] bool asks() const { return kernel_.load() == Kernel::is_asked; }

 private:
  enum class Kernel : std::uint8_t { untried, reads_ahead, is_asked };

  void try_on(File& file, const Region& region, std::uint64_t begin);
  void ask(const LoadLayout& layout, std::size_t block);

  std::atomic<Kernel> kernel_{Kernel::untried};
  std::atomic<std::size_t> asked_{0};  // blocks before this one need no more asking
};

}  // namespace fastio
