// A part of a tensor by ints and slices, as most of them are asked for.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "placement.h"
#include "plan.h"

namespace fastio {

struct TensorPart {
  std::int64_t first = 0;                // byte of the tensor: the first element of the part
  Extent span;                           // bytes of the tensor, of which the part is made
  std::vector<Axis> axes;                // of the part in the tensor, outermost first
  std::vector<pybind11::ssize_t> shape;  // of the part
  std::uint64_t nbytes = 0;              // of the part
};

// None where there is any doubt: for another kind of index, for a wrong one, and for a part of no
// bytes. fastio/slicing.py knows all of them.
[[nodiscard]] std::optional<TensorPart> part_of(const pybind11::handle& index,
                                                const pybind11::tuple& shape,
                                                std::uint64_t item_bytes);

}  // namespace fastio
