// Columns out of many small Python objects, in one pass. A file may have a hundred thousand
// tensors. A line of Python for each of their fields would take as long as parsing the header.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>

#include "bindings.h"

namespace py = pybind11;

namespace fastio {
namespace {

constexpr std::int64_t kNone = -1;  // "no such size": what no file can have
constexpr std::int64_t kCountMax = std::int64_t{1}
                                   << 56;  // keeps the bits of a tensor within 64-bit integers
constexpr Py_ssize_t kDimensionsMax = 64;  // the most that numpy and torch hold

std::int64_t size_of(PyObject* number) {
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
  if (value == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return overflow != 0 || value < 0 ? kNone : value;
}

// The number of values of a shape. Sizes of 0 do not hide others that overflow: no array could be
// made of them.
std::int64_t count_of(PyObject* shape) {
  if (!PyTuple_Check(shape)) throw py::type_error("a shape must be a tuple of int");
  if (PyTuple_GET_SIZE(shape) > kDimensionsMax) return kNone;
  std::int64_t count = 1;
  bool empty = false;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(shape); ++i) {
    const std::int64_t size = size_of(PyTuple_GET_ITEM(shape, i));
    if (size == kNone || (size != 0 && count > kCountMax / size)) return kNone;
    if (size == 0) empty = true;
    if (size != 0) count *= size;
  }
  return empty ? 0 : count;
}

py::object field(PyObject* entry, const py::str& name) {
  PyObject* value = PyObject_GetAttr(entry, name.ptr());
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

// Null where there is none. Borrowed.
PyObject* value_of(const py::dict& values, const py::object& key) {
  PyObject* found = PyDict_GetItemWithError(values.ptr(), key.ptr());
  if (found == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return found;
}

py::tuple tensor_columns(const py::list& entries, const py::dict& bits, std::int64_t data_bytes) {
  const py::str dtype_name("dtype"), shape_name("shape"), offsets_name("data_offsets");
  const auto n = static_cast<py::ssize_t>(entries.size());
  py::list dtypes(n), shapes(n);
  py::array_t<std::int64_t> begins(n), ends(n), counts(n);
  bool sound = true;
  std::int64_t covered = 0;
  for (py::ssize_t i = 0; i < n; ++i) {
    answer_signals(static_cast<std::size_t>(i));
    PyObject* entry = PyList_GET_ITEM(entries.ptr(), i);
    py::object shape = field(entry, shape_name);
    const py::object offsets = field(entry, offsets_name);
    if (!PyTuple_Check(offsets.ptr()) || PyTuple_GET_SIZE(offsets.ptr()) != 2) {
      throw py::type_error("data_offsets must be a tuple of two int");
    }
    const std::int64_t begin = begins.mutable_data()[i] =
        size_of(PyTuple_GET_ITEM(offsets.ptr(), 0));
    const std::int64_t end = ends.mutable_data()[i] = size_of(PyTuple_GET_ITEM(offsets.ptr(), 1));
    const std::int64_t count = counts.mutable_data()[i] = count_of(shape.ptr());
    py::object dtype = field(entry, dtype_name);
    PyObject* const item = value_of(bits, dtype);  // the bits of one value
    const std::int64_t item_bits = item == nullptr ? kNone : size_of(item);
    const bool sizes =
        begin == covered && begin <= end && end <= data_bytes && count >= 0 && item_bits > 0;
    sound = sound && sizes && count * item_bits % 8 == 0 && count * item_bits / 8 == end - begin;
    covered = end;
    PyList_SET_ITEM(dtypes.ptr(), i, dtype.release().ptr());
    PyList_SET_ITEM(shapes.ptr(), i, shape.release().ptr());
  }
  return py::make_tuple(dtypes, shapes, begins, ends, counts, sound && covered == data_bytes);
}

// An array of a class of its own may say more than its memory does, as a masked one.
bool is_plain(PyObject* object) {
  return Py_IS_TYPE(object,
                    reinterpret_cast<PyTypeObject*>(py::detail::npy_api::get().PyArray_Type_)) &&
         (py::reinterpret_borrow<py::array>(object).flags() & py::array::c_style) != 0;
}

py::tuple shape_of(const py::array& array) {
  py::tuple shape(array.ndim());
  for (py::ssize_t i = 0; i < array.ndim(); ++i) {
    PyTuple_SET_ITEM(shape.ptr(), i, py::int_(array.shape(i)).release().ptr());
  }
  return shape;
}

py::tuple array_columns(const py::list& arrays, const py::dict& names) {
  const auto n = static_cast<py::ssize_t>(arrays.size());
  py::list dtypes(n), shapes(n);
  py::array_t<std::uint64_t> addresses(n);
  py::array_t<std::int64_t> nbytes(n);
  for (py::ssize_t i = 0; i < n; ++i) {
    answer_signals(static_cast<std::size_t>(i));
    PyObject* const object = PyList_GET_ITEM(arrays.ptr(), i);
    py::object dtype = py::str(), shape = py::tuple();
    addresses.mutable_data()[i] = 0;
    nbytes.mutable_data()[i] = 0;
    if (is_plain(object)) {
      const auto array = py::reinterpret_borrow<py::array>(object);
      if (PyObject* const name = value_of(names, array.dtype())) {
        dtype = py::reinterpret_borrow<py::object>(name);
        shape = shape_of(array);
        addresses.mutable_data()[i] = reinterpret_cast<std::uintptr_t>(array.data());
        nbytes.mutable_data()[i] = array.nbytes();
      }
    }
    PyList_SET_ITEM(dtypes.ptr(), i, dtype.release().ptr());
    PyList_SET_ITEM(shapes.ptr(), i, shape.release().ptr());
  }
  return py::make_tuple(dtypes, shapes, addresses, nbytes);
}

}  // namespace

void register_columns(py::module_& module) {
  // NumPy's C functions are looked up at first use, which may be too late: in a finalizer, when the
  // interpreter ends.
  py::detail::npy_api::get();
  module.def("array_columns", &array_columns, py::arg("arrays"), py::arg("names"), py::pos_only());
  module.def("tensor_columns", &tensor_columns, py::arg("entries"), py::arg("bits"),
             py::arg("data_bytes"), py::pos_only());
}

}  // namespace fastio
