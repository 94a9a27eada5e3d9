// A part of a tensor by ints and slices, as most of them are asked for.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "mapped.h"

namespace fastio {

struct TensorPart {
  StridedPart bytes;
  std::vector<pybind11::ssize_t> shape;
  std::uint64_t nbytes = 0;
};

// `begin` is where the tensor does in its file. None where there is any doubt: for another kind of
// index, for a wrong one, and for a part of no bytes. fastio/slicing.py knows all of them.
[[nodiscard]] std::optional<TensorPart> part_of(const pybind11::handle& index,
                                                const pybind11::tuple& shape,
                                                std::uint64_t item_bytes, std::uint64_t begin);

}  // namespace fastio
