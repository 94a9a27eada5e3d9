#include "bindings_parts.h"

#include <pybind11/pybind11.h>

#include <algorithm>
#include <span>
#include <utility>

namespace py = pybind11;

namespace fastio {
namespace {

constexpr std::size_t kNumpyDimensionsMax = 32;  // numpy 1 holds no more

// Along one axis: the first position, how many, and the step between them.
struct Taken {
  py::ssize_t first = 0, count = 0, step = 1;
};

// Calls no code of Python's: None and exact ints only.
bool is_bound(PyObject* bound) { return bound == Py_None || PyLong_CheckExact(bound) != 0; }

std::optional<Taken> taken_by_slice(PyObject* item, py::ssize_t length) {
  const auto* slice = reinterpret_cast<PySliceObject*>(item);
  if (!is_bound(slice->start) || !is_bound(slice->stop) || !is_bound(slice->step)) return {};
  Taken taken;
  py::ssize_t stop = 0;
  if (PySlice_Unpack(item, &taken.first, &stop, &taken.step) != 0) {
    PyErr_Clear();  // a step of 0
    return {};
  }
  taken.count = PySlice_AdjustIndices(length, &taken.first, &stop, taken.step);
  return taken;
}

std::optional<py::ssize_t> position(PyObject* item, py::ssize_t length) {
  int overflow = 0;
  const long long given = PyLong_AsLongLongAndOverflow(item, &overflow);
  if (overflow != 0 || given < -length || given >= length) return {};
  return static_cast<py::ssize_t>(given < 0 ? given + length : given);
}

// The axes of a tensor, taken one after the other by the items of an index.
class Parser {
 public:
  Parser(const py::tuple& shape, std::uint64_t item_bytes, std::uint64_t begin)
      : lengths_(shape.size()) {
    strides_.resize(shape.size());
    auto stride = static_cast<std::int64_t>(item_bytes);
    for (std::size_t axis = lengths_.size(); axis-- > 0;) {
      PyObject* const length = PyTuple_GET_ITEM(shape.ptr(), static_cast<Py_ssize_t>(axis));
      lengths_[axis] = PyLong_AsSsize_t(length);
      if (PyErr_Occurred() != nullptr) throw py::error_already_set();
      strides_[axis] = stride;
      stride *= lengths_[axis];
    }
    part_.nbytes = part_.bytes.item_bytes = item_bytes;
    part_.bytes.first = part_.bytes.span.begin = begin;
    part_.bytes.span.end = begin + item_bytes;
  }

  [[nodiscard]] std::size_t axes_left() const { return strides_.size() - next_; }

  bool take(PyObject* item) {
    if (item == Py_None) {
      part_.shape.push_back(1);
      return true;
    }
    if (axes_left() == 0) return false;
    if (PyLong_CheckExact(item) != 0) {
      const auto at = position(item, lengths_[next_]);
      if (at) add({*at, 1, 1});
      return at.has_value();
    }
    if (PySlice_Check(item) == 0) return false;
    const auto taken = taken_by_slice(item, lengths_[next_]);
    if (!taken || taken->count == 0) return false;
    part_.shape.push_back(taken->count);
    add(*taken);
    return true;
  }

  bool take_whole_axes(std::size_t count) {
    for (; count > 0; --count) {
      if (lengths_[next_] == 0) return false;
      part_.shape.push_back(lengths_[next_]);
      add({0, lengths_[next_], 1});
    }
    return true;
  }

  std::optional<TensorPart> finish() {
    if (!take_whole_axes(axes_left()) || part_.shape.size() > kNumpyDimensionsMax) return {};
    return std::move(part_);
  }

 private:
  void add(const Taken& taken) {
    const std::int64_t stride = strides_[next_++];
    const py::ssize_t last =
        taken.count == 1 ? taken.first : taken.first + (taken.count - 1) * taken.step;
    const auto offset = [stride](py::ssize_t at) {
      return static_cast<std::uint64_t>(at * stride);
    };
    part_.bytes.first += offset(taken.first);
    part_.bytes.span.begin += offset(std::min(taken.first, last));
    part_.bytes.span.end += offset(std::max(taken.first, last));
    part_.nbytes *= static_cast<std::uint64_t>(taken.count);
    // A single position may have any step, also one beyond what strides hold.
    if (taken.count > 1)
      part_.bytes.axes.push_back({static_cast<std::uint64_t>(taken.count), taken.step * stride});
  }

  std::vector<py::ssize_t> lengths_;  // of the tensor's axes
  std::vector<std::int64_t> strides_;
  TensorPart part_;
  std::size_t next_ = 0;  // axis of the tensor
};

bool is_dots(PyObject* item) { return item == Py_Ellipsis; }

}  // namespace

std::optional<TensorPart> part_of(const py::handle& index, const py::tuple& shape,
                                  std::uint64_t item_bytes, std::uint64_t begin) {
  Parser parser(shape, item_bytes, begin);
  PyObject* single = index.ptr();
  PyObject* const* items = &single;
  std::size_t count = 1;
  if (PyTuple_CheckExact(single) != 0) {
    items = reinterpret_cast<PyTupleObject*>(single)->ob_item;
    count = static_cast<std::size_t>(PyTuple_GET_SIZE(single));
  }
  const auto dots = static_cast<std::size_t>(std::find_if(items, items + count, is_dots) - items);
  const auto behind = std::span(items, count).subspan(std::min(dots + 1, count));
  for (std::size_t i = 0; i < dots; ++i) {
    if (!parser.take(items[i])) return {};
  }
  const auto axes_behind = static_cast<std::size_t>(
      std::count_if(behind.begin(), behind.end(), [](PyObject* item) { return item != Py_None; }));
  if (axes_behind > parser.axes_left()) return {};
  if (dots < count && !parser.take_whole_axes(parser.axes_left() - axes_behind)) return {};
  for (PyObject* item : behind) {
    if (!parser.take(item)) return {};
  }
  return parser.finish();
}

}  // namespace fastio
