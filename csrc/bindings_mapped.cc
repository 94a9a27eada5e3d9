// Single tensors out of a file that is in the page cache.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "active_time.h"
#include "bindings.h"
#include "bindings_load.h"
#include "bindings_tensors.h"
#include "mapped.h"

namespace py = pybind11;

namespace fastio {
namespace {

// Up to here a copy is cheaper than a mapping of one's own, and a process has only some 65,000 of
// those (vm.max_map_count).
constexpr std::uint64_t kCopiedBytes = std::uint64_t{64} << 10;

const Extent& extent_of(const MappedFile& file, std::size_t row) {
  if (row >= file.shard().extents.size()) throw std::out_of_range("no such extent");
  return file.shard().extents[row];
}

// Verified, and nobody else's; null for a tensor of no bytes.
std::unique_ptr<TensorMemory> memory_of(MappedFile& file, const Extent& extent,
                                        std::size_t alignment) {
  const std::uint64_t nbytes = extent.end - extent.begin;
  if (nbytes == 0) return nullptr;
  const Active active(file.active_time());
  if (!file.verified(extent)) {
    std::optional<DamagedChunk> damage;
    {
      const GilReleased released;
      damage = file.verify(extent);
    }
    if (damage) raise_damage(*file.shard().copies.front(), *damage);
  }
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
            if (begin >= end || end > file.shard().nbytes())
              throw std::out_of_range("no such bytes");
            const Extent extent{begin, end};
            const auto nbytes = static_cast<py::ssize_t>(end - begin);
            return make_array(memory_of(file, extent, 1), py::dtype::of<std::uint8_t>(),
                              py::make_tuple(nbytes), extent);
          },
          py::arg("begin"), py::arg("end"))
      .def_property_readonly("chunks_verified", &MappedFile::chunks_verified)
      .def_property_readonly("bytes_taken", &MappedFile::bytes_taken)
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
