// Memory handed out as tensors: numpy arrays, and DLPack capsules for everybody else. Each tensor
// owns exactly its own bytes; a region goes with the last of its tensors.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "bindings.h"
#include "bindings_load.h"
#include "bindings_tensors.h"
#include "driver.h"

namespace py = pybind11;

namespace fastio {

TensorMemory::TensorMemory(const std::shared_ptr<Region>& region, const Extent& extent,
                           std::size_t alignment)
    : share_(std::in_place, region, extent.begin, extent.end), data_(share_->data()) {
  if (reinterpret_cast<std::uintptr_t>(data_) % alignment == 0) return;
  copy({data_, extent.end - extent.begin});
  share_.reset();  // the place that was read into gives its pages back now, not with the tensor
}

void TensorMemory::make(std::size_t nbytes) {
  copy_.reset(new (std::align_val_t{kCopyAlignment}) std::byte[nbytes]);
  data_ = copy_.get();
}

void TensorMemory::copy(std::span<const std::byte> bytes) {
  const std::byte* const from = bytes.data();  // of memory that data_ may be the address of
  make(bytes.size());
  std::memcpy(data_, from, bytes.size());
}

namespace {

std::vector<py::ssize_t> parse_shape(PyObject* shape) {
  if (!PyTuple_Check(shape)) throw py::type_error("a shape must be a tuple of int");
  const Py_ssize_t ndim = PyTuple_GET_SIZE(shape);
  std::vector<py::ssize_t> parsed(static_cast<std::size_t>(ndim));
  for (Py_ssize_t i = 0; i < ndim; ++i) {
    parsed[static_cast<std::size_t>(i)] = PyLong_AsSsize_t(PyTuple_GET_ITEM(shape, i));
  }
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  return parsed;
}

void check_lengths(std::size_t count, std::initializer_list<std::size_t> given) {
  for (const std::size_t length : given) {
    if (length != count) throw py::value_error("one dtype and one shape are needed a tensor");
  }
}

void check_size(const std::vector<py::ssize_t>& shape, std::uint64_t item_bits,
                const Extent& extent) {
  std::uint64_t nbits = item_bits;
  for (const py::ssize_t length : shape) nbits *= static_cast<std::uint64_t>(length);
  if (nbits != (extent.end - extent.begin) * 8)
    throw py::value_error("dtype and shape do not fit the extent");
}

}  // namespace

py::array make_array(std::unique_ptr<TensorMemory> memory, const py::dtype& dtype,
                     const py::handle& shape, const Extent& extent) {
  const auto parsed = parse_shape(shape.ptr());
  check_size(parsed, static_cast<std::uint64_t>(dtype.itemsize()) * 8, extent);
  return make_array(std::move(memory), dtype, parsed);
}

py::array make_array(std::unique_ptr<TensorMemory> memory, const py::dtype& dtype,
                     const std::vector<py::ssize_t>& shape) {
  if (memory == nullptr) return {dtype, shape};
  void* data = memory->data();
  const py::capsule owner(memory.release(),
                          [](void* held) { delete static_cast<TensorMemory*>(held); });
  return {dtype, shape, data, owner};
}

namespace {

py::list numpy_arrays(const Loaded& loaded, std::size_t shard, const py::list& dtypes,
                      const py::list& shapes, std::size_t first) {
  check_lengths(shapes.size(), {dtypes.size()});
  const auto regions = loaded.regions_of_extents(shard, first, shapes.size());
  py::list arrays(dtypes.size());
  for (std::size_t i = 0; i < regions.size(); ++i) {
    answer_signals(i);
    const Extent& extent = loaded.job().layout().shards[shard].extents[first + i];
    const auto dtype = py::reinterpret_borrow<py::dtype>(
        PyList_GET_ITEM(dtypes.ptr(), static_cast<Py_ssize_t>(i)));
    std::unique_ptr<TensorMemory> memory;
    if (regions[i] != nullptr) {
      memory = std::make_unique<TensorMemory>(regions[i], extent,
                                              static_cast<std::size_t>(dtype.alignment()));
    }
    py::array array = make_array(std::move(memory), dtype,
                                 PyList_GET_ITEM(shapes.ptr(), static_cast<Py_ssize_t>(i)), extent);
    PyList_SET_ITEM(arrays.ptr(), static_cast<Py_ssize_t>(i), array.release().ptr());
  }
  return arrays;
}

// Of bytes that are in memory: what each tensor is a copy of. Null for a tensor of no bytes.
std::unique_ptr<TensorMemory> copy_of(std::string_view bytes, const Extent& extent) {
  if (extent.begin > extent.end || extent.end > bytes.size())
    throw std::out_of_range("no such bytes");
  if (extent.begin == extent.end) return nullptr;
  return std::make_unique<TensorMemory>(
      std::as_bytes(std::span(bytes).subspan(extent.begin, extent.end - extent.begin)));
}

std::vector<Extent> parse_extents(const Offsets& begins, const Offsets& ends) {
  check_lengths(static_cast<std::size_t>(begins.size()), {static_cast<std::size_t>(ends.size())});
  std::vector<Extent> extents(static_cast<std::size_t>(begins.size()));
  for (std::size_t i = 0; i < extents.size(); ++i) {
    extents[i] = {static_cast<std::uint64_t>(begins.data()[i]),
                  static_cast<std::uint64_t>(ends.data()[i])};
  }
  return extents;
}

py::list numpy_copies(const py::bytes& bytes, const Offsets& begins, const Offsets& ends,
                      const py::list& dtypes, const py::list& shapes) {
  const auto extents = parse_extents(begins, ends);
  check_lengths(extents.size(), {dtypes.size(), shapes.size()});
  py::list arrays(extents.size());
  for (std::size_t i = 0; i < extents.size(); ++i) {
    const auto at = static_cast<Py_ssize_t>(i);
    const auto dtype = py::reinterpret_borrow<py::dtype>(PyList_GET_ITEM(dtypes.ptr(), at));
    py::array array = make_array(copy_of(static_cast<std::string_view>(bytes), extents[i]), dtype,
                                 PyList_GET_ITEM(shapes.ptr(), at), extents[i]);
    PyList_SET_ITEM(arrays.ptr(), at, array.release().ptr());
  }
  return arrays;
}

// ---- DLPack 0.8, https://dmlc.github.io/dlpack/latest/c_api.html: the layout that every framework
// takes ----

struct DlDevice {
  std::int32_t type = 1;  // kDLCPU
  std::int32_t id = 0;
};

struct DlDataType {
  std::uint8_t code = 0;
  std::uint8_t bits = 0;
  std::uint16_t lanes = 1;
};

struct DlTensor {
  void* data = nullptr;
  DlDevice device;
  std::int32_t ndim = 0;
  DlDataType dtype;
  std::int64_t* shape = nullptr;
  std::int64_t* strides = nullptr;  // none: row-major
  std::uint64_t byte_offset = 0;
};

struct DlManagedTensor {
  DlTensor tensor;
  void* manager = nullptr;
  void (*deleter)(DlManagedTensor*) = nullptr;
};

struct OwnedDlTensor {
  DlManagedTensor managed;
  std::unique_ptr<TensorMemory> memory;  // none for a tensor of no bytes, or on a device
  std::vector<std::int64_t> shape;
  PyObject* owner = nullptr;  // of memory on a device
};

// Called by whoever holds the tensor last, on any thread, with or without the GIL.
void delete_owned(DlManagedTensor* managed) {
  const std::unique_ptr<OwnedDlTensor> owned(static_cast<OwnedDlTensor*>(managed->manager));
  if (owned->owner == nullptr || Py_IsInitialized() == 0) return;
  const PyGILState_STATE state = PyGILState_Ensure();
  Py_DECREF(owned->owner);
  PyGILState_Release(state);
}

// A capsule that nobody took over still owns its tensor; a taken one was renamed "used_dltensor".
void delete_capsule(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, "dltensor") == 0) return;
  auto* managed = static_cast<DlManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
  managed->deleter(managed);
}

py::object capsule_of(std::unique_ptr<OwnedDlTensor> owned, void* data, DlDataType dtype,
                      const std::vector<py::ssize_t>& shape) {
  owned->shape.assign(shape.begin(), shape.end());
  DlManagedTensor& managed = owned->managed;
  managed.tensor.data = data;
  managed.tensor.ndim = static_cast<std::int32_t>(shape.size());
  managed.tensor.dtype = dtype;
  managed.tensor.shape = owned->shape.data();
  managed.manager = owned.get();
  managed.deleter = delete_owned;
  PyObject* capsule = PyCapsule_New(&managed, "dltensor", delete_capsule);
  if (capsule == nullptr) throw py::error_already_set();
  static_cast<void>(owned.release());
  return py::reinterpret_steal<py::object>(capsule);
}

}  // namespace

py::object make_capsule(std::unique_ptr<TensorMemory> memory, std::uint8_t code, std::uint8_t bits,
                        const py::handle& shape, const Extent& extent) {
  const auto parsed = parse_shape(shape.ptr());
  check_size(parsed, bits, extent);
  return make_capsule(std::move(memory), code, bits, parsed);
}

py::object make_capsule(std::unique_ptr<TensorMemory> memory, std::uint8_t code, std::uint8_t bits,
                        const std::vector<py::ssize_t>& shape) {
  auto owned = std::make_unique<OwnedDlTensor>();
  owned->memory = std::move(memory);
  std::byte* data = owned->memory ? owned->memory->data() : nullptr;
  return capsule_of(std::move(owned), data, {code, bits, 1}, shape);
}

py::object make_device_capsule(const py::object& owner, int ordinal, std::uintptr_t address,
                               std::uint8_t code, std::uint8_t bits, const py::handle& shape,
                               std::uint64_t nbytes) {
  const auto parsed = parse_shape(shape.ptr());
  check_size(parsed, bits, {0, nbytes});
  auto owned = std::make_unique<OwnedDlTensor>();
  owned->managed.tensor.device = {driver().names().dlpack_device, ordinal};
  owned->owner = py::object(owner).release().ptr();
  return capsule_of(std::move(owned), std::bit_cast<void*>(address), {code, bits, 1}, parsed);
}

namespace {

py::list dlpack_capsules(const Loaded& loaded, std::size_t shard, const py::bytes& codes,
                         const py::bytes& bits, const py::list& shapes, std::size_t first) {
  const auto code = static_cast<std::string_view>(codes);
  const auto width = static_cast<std::string_view>(bits);
  check_lengths(shapes.size(), {code.size(), width.size()});
  const auto regions = loaded.regions_of_extents(shard, first, shapes.size());
  py::list capsules(shapes.size());
  for (std::size_t i = 0; i < regions.size(); ++i) {
    answer_signals(i);
    const Extent& extent = loaded.job().layout().shards[shard].extents[first + i];
    const auto item_bits = static_cast<std::uint8_t>(width[i]);
    std::unique_ptr<TensorMemory> memory;
    if (regions[i] != nullptr) {
      memory = std::make_unique<TensorMemory>(regions[i], extent,
                                              std::max<std::size_t>(item_bits / 8U, 1));
    }
    py::object capsule =
        make_capsule(std::move(memory), static_cast<std::uint8_t>(code[i]), item_bits,
                     PyList_GET_ITEM(shapes.ptr(), static_cast<Py_ssize_t>(i)), extent);
    PyList_SET_ITEM(capsules.ptr(), static_cast<Py_ssize_t>(i), capsule.release().ptr());
  }
  return capsules;
}

py::list dlpack_copies(const py::bytes& bytes, const Offsets& begins, const Offsets& ends,
                       const py::bytes& codes, const py::bytes& bits, const py::list& shapes) {
  const auto code = static_cast<std::string_view>(codes);
  const auto width = static_cast<std::string_view>(bits);
  const auto extents = parse_extents(begins, ends);
  check_lengths(extents.size(), {code.size(), width.size(), shapes.size()});
  py::list capsules(extents.size());
  for (std::size_t i = 0; i < extents.size(); ++i) {
    const auto at = static_cast<Py_ssize_t>(i);
    py::object capsule =
        make_capsule(copy_of(static_cast<std::string_view>(bytes), extents[i]),
                     static_cast<std::uint8_t>(code[i]), static_cast<std::uint8_t>(width[i]),
                     PyList_GET_ITEM(shapes.ptr(), at), extents[i]);
    PyList_SET_ITEM(capsules.ptr(), at, capsule.release().ptr());
  }
  return capsules;
}

}  // namespace

void register_copies(py::module_& module) {
  module.def("numpy_copies", &numpy_copies, py::arg("data"), py::arg("begins"), py::arg("ends"),
             py::arg("dtypes"), py::arg("shapes"));
  module.def("dlpack_copies", &dlpack_copies, py::arg("data"), py::arg("begins"), py::arg("ends"),
             py::arg("codes"), py::arg("bits"), py::arg("shapes"));
}

void register_tensors(py::class_<Loaded, std::shared_ptr<Loaded>>& loaded) {
  loaded
      .def("numpy", &numpy_arrays, py::arg("shard"), py::arg("dtypes"), py::arg("shapes"),
           py::arg("first") = 0)
      .def("dlpack", &dlpack_capsules, py::arg("shard"), py::arg("codes"), py::arg("bits"),
           py::arg("shapes"), py::arg("first") = 0)
      .def("release", &Loaded::release);
}

}  // namespace fastio
