#include "placement.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

namespace fastio {

Placement::Placement(std::byte* data, std::uint64_t item_bytes, std::vector<Axis> axes)
    : data_(data), run_bytes_(item_bytes) {
  std::erase_if(axes, [](const Axis& axis) { return axis.length == 1; });
  // From the innermost outwards: what continues the run joins it, what continues the axis outside
  // of it joins that one.
  for (; !axes.empty(); axes.pop_back()) {
    const Axis& axis = axes.back();
    if (outer_.empty() && axis.stride_bytes == static_cast<std::int64_t>(run_bytes_)) {
      run_bytes_ *= axis.length;
    } else if (!outer_.empty() &&
               axis.stride_bytes ==
                   outer_.front().stride_bytes * static_cast<std::int64_t>(outer_.front().length)) {
      outer_.front().length *= axis.length;
    } else {
      outer_.insert(outer_.begin(), axis);
    }
  }
}

template <typename Copy>
void Placement::walk(std::uint64_t at, std::uint64_t nbytes, Copy&& copy) const {
  if (nbytes == 0) return;  // an axis may be without elements: there is no run to begin at
  if (outer_.empty()) {
    copy(data_ + at, std::uint64_t{0}, nbytes);
    return;
  }
  // The indices of the run that holds byte `at`, and where it lies.
  std::vector<std::uint64_t> indices(outer_.size());
  std::uint64_t run = at / run_bytes_;
  std::byte* place = data_;
  for (std::size_t axis = outer_.size(); axis-- > 0;) {
    indices[axis] = run % outer_[axis].length;
    run /= outer_[axis].length;
    place += static_cast<std::int64_t>(indices[axis]) * outer_[axis].stride_bytes;
  }
  const Axis& last = outer_.back();
  std::uint64_t skipped = at % run_bytes_;
  for (std::uint64_t done = 0; done < nbytes;) {
    const std::uint64_t taken = std::min(run_bytes_ - skipped, nbytes - done);
    copy(place + skipped, done, taken);
    done += taken;
    skipped = 0;
    place += last.stride_bytes;
    if (++indices.back() < last.length) continue;
    for (std::size_t axis = outer_.size(); axis-- > 0;) {
      if (indices[axis] < outer_[axis].length) break;
      place -= static_cast<std::int64_t>(outer_[axis].length) * outer_[axis].stride_bytes;
      indices[axis] = 0;
      if (axis == 0) break;
      ++indices[axis - 1];
      place += outer_[axis - 1].stride_bytes;
    }
  }
}

// Calls copy(place, offset in the bytes, nbytes) for each run; nbytes is a constant for the sizes
// that single values have, since a copy of such a size is one instruction.
template <typename Copy>
void Placement::copy_runs(std::uint64_t at, std::uint64_t nbytes, Copy&& copy) const {
  const auto of_items = [&]<std::size_t kBytes>() {
    walk(at, nbytes, [&](std::byte* place, std::uint64_t offset, std::uint64_t run_bytes) {
      if (run_bytes == kBytes) {
        copy(place, offset, std::integral_constant<std::size_t, kBytes>());
      } else {
        copy(place, offset, run_bytes);
      }
    });
  };
  switch (outer_.empty() ? 0 : run_bytes_) {
    case 1:
      return of_items.template operator()<1>();
    case 2:
      return of_items.template operator()<2>();
    case 4:
      return of_items.template operator()<4>();
    case 8:
      return of_items.template operator()<8>();
    default:
      walk(at, nbytes, copy);
  }
}

void Placement::put(std::uint64_t at, std::span<const std::byte> bytes) const {
  copy_runs(at, bytes.size(), [&](std::byte* place, std::uint64_t offset, auto nbytes) {
    std::memcpy(place, bytes.data() + offset, nbytes);
  });
}

void Placement::each_run(
    std::uint64_t at, std::uint64_t nbytes,
    const std::function<void(std::byte*, std::uint64_t, std::uint64_t)>& visit) const {
  walk(at, nbytes, visit);
}

void Placement::take(std::uint64_t at, std::span<std::byte> bytes) const {
  copy_runs(at, bytes.size(), [&](const std::byte* place, std::uint64_t offset, auto nbytes) {
    std::memcpy(bytes.data() + offset, place, nbytes);
  });
}

}  // namespace fastio
