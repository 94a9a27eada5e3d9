// Memory of the caller that a tensor is put into or taken from, in any layout with strides. Pure
// arithmetic and copies. It does not check what the memory holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace fastio {

struct Axis {
  std::uint64_t length = 0;
  std::int64_t stride_bytes = 0;
};

class Placement {
 public:
  // `data` is the address of the element whose indices are all 0; `axes` are the tensor's,
  // outermost first.
  Placement(std::byte* data, std::uint64_t item_bytes, std::vector<Axis> axes);

  // The address of the bytes, if they are contiguous.
  [[nodiscard]] std::byte* contiguous() const { return outer_.empty() ? data_ : nullptr; }

  // Puts the bytes [at, at + bytes.size()) of the tensor, counted row by row, to their places.
  void put(std::uint64_t at, std::span<const std::byte> bytes) const;

  // Calls visit(place, offset, nbytes) for each run of the bytes [at, at + nbytes): where the bytes
  // from `offset` on, counted from `at`, lie together.
  void each_run(std::uint64_t at, std::uint64_t nbytes,
                const std::function<void(std::byte*, std::uint64_t, std::uint64_t)>& visit) const;

  // Fills `bytes` with the bytes [at, at + bytes.size()) of the tensor, counted row by row.
  void take(std::uint64_t at, std::span<std::byte> bytes) const;

 private:
  template <typename Copy>
  void walk(std::uint64_t at, std::uint64_t nbytes, Copy&& copy) const;
  template <typename Copy>
  void copy_runs(std::uint64_t at, std::uint64_t nbytes, Copy&& copy) const;

  std::byte* data_;
  std::uint64_t run_bytes_;  // that lie together: a run; all of them where outer_ is empty
  std::vector<Axis> outer_;  // of runs, outermost first
};

}  // namespace fastio
