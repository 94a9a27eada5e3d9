// Single tensors out of a file that is in the page cache.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "active_time.h"
#include "bindings.h"
#include "bindings_load.h"
#include "bindings_parts.h"
#include "bindings_tensors.h"
#include "mapped.h"

namespace py = pybind11;

namespace fastio {
namespace {

// Up to here a copy is cheaper than a mapping of one's own, and a process has only some 65,000 of
// those (vm.max_map_count).
constexpr std::uint64_t kCopiedBytes = std::uint64_t{64} << 10;

// The GIL is held while a part with a span of at most so many bytes is copied.
constexpr std::uint64_t kShortBytes = std::uint64_t{1} << 20;

const Extent& extent_of(const MappedFile& file, std::size_t row) {
  if (row >= file.shard().extents.size()) throw std::out_of_range("no such extent");
  return file.shard().extents[row];
}

void require_sound(MappedFile& file, const Extent& extent) {
  if (file.verified(extent)) return;
  std::optional<DamagedChunk> damage;
  {
    const GilReleased released;
    damage = file.verify(extent);
  }
  if (damage) raise_damage(file.shard().replicas.front(), *damage);
}

// Verified, and nobody else's; null for a tensor of no bytes.
std::unique_ptr<TensorMemory> memory_of(MappedFile& file, const Extent& extent,
                                        std::size_t alignment) {
  const std::uint64_t nbytes = extent.end - extent.begin;
  if (nbytes == 0) return nullptr;
  const Active active(file.active_time());
  require_sound(file, extent);
  file.note_taken(nbytes);
  if (nbytes > kCopiedBytes) {
    try {
      return std::make_unique<TensorMemory>(file.map(extent), extent, alignment);
    } catch (const IoError&) {
      // No more mappings for this process: a copy serves as well.
    }
    const GilReleased released;
    return std::make_unique<TensorMemory>(file.bytes(extent));
  }
  return std::make_unique<TensorMemory>(file.bytes(extent));
}

// A part of a tensor, verified, and nobody else's; `wrap` makes it a tensor. None for an index with
// anything but ints and slices.
template <typename Wrap>
py::object part_of_tensor(MappedFile& file, std::size_t row, const py::tuple& shape,
                          std::uint64_t item_bytes, const py::object& index, Wrap&& wrap) {
  const Extent& extent = extent_of(file, row);
  const std::optional<TensorPart> part = part_of(index, shape, item_bytes, extent.begin);
  if (!part) return py::none();
  const auto& [bytes, shape_of_part, nbytes] = *part;
  if (bytes.span.end > extent.end) throw py::value_error("dtype and shape do not fit the extent");
  const bool aligned = bytes.first % item_bytes == 0;
  if (nbytes > kCopiedBytes && aligned && nbytes == bytes.span.end - bytes.span.begin &&
      std::all_of(bytes.axes.begin(), bytes.axes.end(),
                  [](const Axis& axis) { return axis.stride_bytes > 0; })) {
    return wrap(memory_of(file, bytes.span, 1), shape_of_part);
  }
  const Active active(file.active_time());
  auto memory = std::make_unique<TensorMemory>(nbytes);
  std::optional<DamagedChunk> damage;
  {
    const bool is_short = bytes.span.end - bytes.span.begin <= kShortBytes;
    std::optional<GilReleased> released;
    if (!is_short || !file.verified(bytes.span)) released.emplace();
    damage = file.take(bytes, {memory->data(), nbytes});
  }
  if (damage) raise_damage(file.shard().replicas.front(), *damage);
  file.note_taken(nbytes);
  return wrap(std::move(memory), shape_of_part);
}

py::array view_of(const std::shared_ptr<MappedFile>& file, const Extent& extent) {
  require_sound(*file, extent);
  file->note_taken(extent.end - extent.begin);
  const std::span bytes = file->bytes(extent);
  py::array_t<std::uint8_t> view(static_cast<py::ssize_t>(bytes.size()),
                                 reinterpret_cast<const std::uint8_t*>(bytes.data()),
                                 py::cast(file));
  py::detail::array_proxy(view.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return view;
}

Extent checked(const MappedFile& file, std::uint64_t begin, std::uint64_t end) {
  if (begin >= end || end > file.shard().nbytes()) throw std::out_of_range("no such bytes");
  return {begin, end};
}

}  // namespace

void register_mapped_files(py::module_& module) {
  py::class_<ActiveTime, std::shared_ptr<ActiveTime>>(module, "ActiveTime")
      .def(py::init<>())
      .def("start", &ActiveTime::start)
      .def("stop", &ActiveTime::stop)
      .def("stop_all", &ActiveTime::stop_all)
      .def_property_readonly("seconds", &ActiveTime::seconds);
  py::class_<MappedFile, std::shared_ptr<MappedFile>>(module, "MappedFile")
      .def_static(
          "open",
          [](const ShardArgument& shard, const py::object& options,
             std::shared_ptr<ActiveTime> active_time) {
            ShardRequest request = parse_shard(shard);
            const LoadOptions parsed = parse_options(options, false);
            const GilReleased released;
            return MappedFile::open(std::move(request), parsed, std::move(active_time));
          },
          py::arg("shard"), py::arg("options"), py::arg("active_time") = py::none())
      .def(
          "read",
          [](MappedFile& file, std::uint64_t begin, std::uint64_t end) {
            const Extent extent = checked(file, begin, end);
            const auto nbytes = static_cast<py::ssize_t>(end - begin);
            return make_array(memory_of(file, extent, 1), py::dtype::of<std::uint8_t>(),
                              py::make_tuple(nbytes), extent);
          },
          py::arg("begin"), py::arg("end"))
      .def(
          "view",
          [](const std::shared_ptr<MappedFile>& file, std::uint64_t begin, std::uint64_t end) {
            return view_of(file, checked(*file, begin, end));
          },
          py::arg("begin"), py::arg("end"))
      .def(
          "release",
          [](const MappedFile& file, std::uint64_t begin, std::uint64_t end) {
            const Extent extent = checked(file, begin, end);
            const GilReleased released;
            file.release(extent);
          },
          py::arg("begin"), py::arg("end"))
      .def_property_readonly("chunks_verified", &MappedFile::chunks_verified)
      .def_property_readonly("chunks_trusted", &MappedFile::chunks_trusted)
      .def_property_readonly("bytes_taken", &MappedFile::bytes_taken)
      .def(
          "numpy_part",
          [](MappedFile& file, std::size_t row, const py::dtype& dtype, const py::tuple& shape,
             const py::object& index) {
            const auto item_bytes = static_cast<std::uint64_t>(dtype.itemsize());
            return part_of_tensor(
                file, row, shape, item_bytes, index,
                [&](auto memory, const std::vector<py::ssize_t>& of_part) {
                  return py::object(make_array(std::move(memory), dtype, of_part));
                });
          },
          py::arg("row"), py::arg("dtype"), py::arg("shape"), py::arg("index"))
      .def(
          "dlpack_part",
          [](MappedFile& file, std::size_t row, std::uint8_t code, std::uint8_t bits,
             const py::tuple& shape, const py::object& index) {
            return part_of_tensor(file, row, shape, bits / 8U, index,
                                  [&](auto memory, const std::vector<py::ssize_t>& of_part) {
                                    return make_capsule(std::move(memory), code, bits, of_part);
                                  });
          },
          py::arg("row"), py::arg("code"), py::arg("bits"), py::arg("shape"), py::arg("index"))
      .def(
          "numpy",
          [](MappedFile& file, std::size_t row, const py::dtype& dtype, const py::tuple& shape) {
            const Extent& extent = extent_of(file, row);
            return make_array(memory_of(file, extent, static_cast<std::size_t>(dtype.alignment())),
                              dtype, shape, extent);
          },
          py::arg("row"), py::arg("dtype"), py::arg("shape"))
      .def(
          "dlpack",
          [](MappedFile& file, std::size_t row, std::uint8_t code, std::uint8_t bits,
             const py::tuple& shape) {
            const Extent& extent = extent_of(file, row);
            auto memory = memory_of(file, extent, std::max<std::size_t>(bits / 8U, 1));
            return make_capsule(std::move(memory), code, bits, shape, extent);
          },
          py::arg("row"), py::arg("code"), py::arg("bits"), py::arg("shape"));
}

}  // namespace fastio
