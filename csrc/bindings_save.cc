// A save: a file that is written, and the job that writes tensors into it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bindings.h"
#include "bindings_jobs.h"
#include "saver.h"

namespace py = pybind11;

namespace fastio {
namespace {

using Addresses = py::array_t<std::uint64_t, py::array::c_style | py::array::forcecast>;
using Bounds = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;
// (place, bytes of each value that is stored the other way round, or 1), by position
using Layouts = std::unordered_map<std::size_t, std::tuple<PlaceArgument, std::uint8_t>>;

// Tensor i lies at addresses[i] in one piece and goes to [bounds[i], bounds[i + 1]) of the file,
// unless `layouts` has it.
Origins parse_origins(const Addresses& addresses, const Bounds& bounds, const Layouts& layouts) {
  if (addresses.ndim() != 1 || bounds.ndim() != 1 || bounds.size() != addresses.size() + 1)
    throw py::value_error("addresses must be (n,) uint64 and bounds (n + 1,) int64");
  const auto count = static_cast<std::size_t>(addresses.size());
  const auto address = addresses.unchecked<1>();
  const auto bound = bounds.unchecked<1>();
  Origins origins;
  origins.extents.reserve(count);
  origins.memories.reserve(count);
  origins.swapped.assign(count, 1);
  for (std::size_t i = 0; i < count; ++i) {
    const auto at = static_cast<py::ssize_t>(i);
    const Extent extent{static_cast<std::uint64_t>(bound(at)),
                        static_cast<std::uint64_t>(bound(at + 1))};
    const auto layout = layouts.empty() ? layouts.end() : layouts.find(i);
    origins.extents.push_back(extent);
    if (layout == layouts.end()) {
      // NOLINTNEXTLINE(performance-no-int-to-ptr): memory of arrays comes as addresses
      auto* const data = reinterpret_cast<std::byte*>(address(at));
      origins.memories.emplace_back(data, extent.end - extent.begin, std::vector<Axis>{});
    } else {
      origins.memories.push_back(
          parse_place(std::get<0>(layout->second), extent.end - extent.begin));
      origins.swapped[i] = std::get<1>(layout->second);
    }
  }
  return origins;
}

SaveOptions parse_save_options(const py::object& options, std::uint64_t chunk_bytes,
                               const Algorithm& algorithm) {
  SaveOptions parsed;
  parsed.engine = parse_engine(options);
  parsed.huge_pages = parse_huge_pages(options);
  parsed.block_bytes = std::max<std::uint64_t>(
      options.attr("block_bytes").cast<std::uint64_t>() / kSaveBlocksInOne, 1);
  parsed.queue_depth = options.attr("queue_depth").cast<unsigned>();
  parsed.lanes = options.attr("lanes").cast<unsigned>();
  parsed.memory_limit_bytes =
      options.attr("memory_limit_bytes").cast<std::optional<std::uint64_t>>();
  parsed.pinned_limit_bytes = options.attr("pinned_limit_bytes").cast<std::uint64_t>();
  parsed.chunk_bytes = chunk_bytes;
  parsed.algorithm = &algorithm;
  return parsed;
}

// `on`: which of the devices an origin is on, by position.
void put_on_devices(Origins& origins, SaveOptions& options, const DeviceArguments& devices,
                    const std::map<std::size_t, int>& on) {
  if (on.empty()) return;
  options.devices = parse_devices(devices);
  origins.devices.assign(origins.extents.size(), kHost);
  for (const auto& [at, ordinal] : on) {
    if (at >= origins.devices.size()) throw py::value_error("there is no such origin");
    origins.devices[at] = index_of(options.devices, ordinal);
  }
}

// Runs a call that a disk may never answer. It keeps the file open, whoever abandons it.
template <typename Work>
void detached(Work work) {
  call_detached(
      [work] {
        work();
        return true;
      },
      [](bool) {});
}

Leg parse_leg(const std::string& name) {
  if (name == "direct") return Leg::direct;
  if (name == "buffered") return Leg::buffered;
  if (name == "in_order") return Leg::in_order;
  if (name == "copied") return Leg::copied;
  if (name == "summed") return Leg::summed;
  throw py::value_error("no such leg: " + name);
}

void run_leg(const std::shared_ptr<SaveJob>& job, const std::string& leg, std::size_t first,
             std::size_t last, const py::object& progress) {
  {
    const GilReleased released;
    job->start(parse_leg(leg), first, last);
  }
  attend_job(*job, progress);
  if (const auto failure = job->outcome().failure()) raise_failure(*failure);
}

py::dict save_statistics(const SaveJob& job) {
  const SaveCounters& counters = job.counters();
  py::dict answer;
  answer["engine"] = job.report().engine;
  answer["engine_reason"] = job.report().engine_reason;
  answer["lanes"] = job.report().lanes;
  answer["nbytes"] = job.bytes_total();
  answer["bytes_direct"] = counters.bytes_direct.load();
  answer["bytes_buffered"] = counters.bytes_buffered.load();
  answer["bytes_gathered"] = counters.bytes_gathered.load();
  answer["bytes_rewritten"] = counters.bytes_rewritten.load();
  answer["chunks"] = job.digests().size();
  answer["fallbacks"] = job.outcome().fallbacks();
  return answer;
}

void register_target(py::module_& module) {
  py::class_<TargetFile, std::shared_ptr<TargetFile>>(module, "TargetFile")
      .def(py::init([](int fd, const py::object& path, const py::object& reopened_as) {
             return TargetFile::adopt(fd, encoded_path(path), encoded_path(reopened_as));
           }),
           py::arg("fd"), py::arg("path"), py::arg("reopened_as"))
      .def_property_readonly("filesystem",
                             [](const TargetFile& file) { return file.mount().filesystem; })
      .def_property_readonly("disk", [](const TargetFile& file) { return file.mount().disk; })
      .def("direct_refusal",
           [](TargetFile& file) {
             const DirectAccess direct = file.direct_access();
             return direct.possible ? std::string() : direct.reason;
           })
      .def(
          "reserve",
          [](const std::shared_ptr<TargetFile>& file, std::uint64_t nbytes) {
            return call_detached([file, nbytes] { return file->reserve(nbytes); }, [](bool) {});
          },
          py::arg("nbytes"))
      .def(
          "write",
          [](const std::shared_ptr<TargetFile>& file, std::uint64_t offset, const py::bytes& data) {
            detached([file, offset, bytes = data.cast<std::string>()] {
              file->write(offset, std::as_bytes(std::span(bytes)));
            });
          },
          py::arg("offset"), py::arg("data"))
      .def(
          "truncate",
          [](const std::shared_ptr<TargetFile>& file, std::uint64_t nbytes) {
            detached([file, nbytes] { file->truncate(nbytes); });
          },
          py::arg("nbytes"))
      .def("sync",
           [](const std::shared_ptr<TargetFile>& file) { detached([file] { file->sync(); }); });
}

}  // namespace

void register_saving(py::module_& module) {
  register_target(module);
  py::class_<SaveJob, std::shared_ptr<SaveJob>>(module, "Save")
      .def(py::init([](std::shared_ptr<TargetFile> file, const Addresses& addresses,
                       const Bounds& bounds, const Layouts& layouts, std::uint64_t chunk_bytes,
                       const Algorithm& algorithm, const py::object& options,
                       const DeviceArguments& devices, const std::map<std::size_t, int>& on) {
             Origins origins = parse_origins(addresses, bounds, layouts);
             SaveOptions parsed = parse_save_options(options, chunk_bytes, algorithm);
             put_on_devices(origins, parsed, devices, on);
             return SaveJob::make(std::move(file), std::move(origins), parsed);
           }),
           py::arg("file"), py::arg("addresses"), py::arg("bounds"), py::arg("layouts"),
           py::kw_only(), py::arg("chunk_bytes"), py::arg("algorithm"), py::arg("options"),
           py::arg("devices") = DeviceArguments(), py::arg("on") = std::map<std::size_t, int>())
      .def_property_readonly("file", &SaveJob::file)
      .def("write_to", &SaveJob::write_to, py::arg("file"))
      .def_property_readonly("block_bytes", &SaveJob::block_bytes)
      .def_property_readonly("block_count", &SaveJob::block_count)
      .def_property_readonly("digests", [](const SaveJob& job) { return as_bytes(job.digests()); })
      .def_property_readonly("statistics", &save_statistics)
      .def("run", &run_leg, py::arg("leg"), py::arg("first"), py::arg("last"),
           py::arg("progress") = py::none());
  module.def(
      "exchange",
      [](const py::object& one, const py::object& other) {
        return exchange_names(encoded_path(one), encoded_path(other));
      },
      py::arg("one"), py::arg("other"));
  module.def(
      "address_of",
      [](const py::array& array) { return reinterpret_cast<std::uintptr_t>(array.data()); },
      py::arg("array"), py::pos_only());
  module.def(
      "gather",
      [](const Addresses& addresses, const Bounds& bounds, const Layouts& layouts,
         const py::buffer& out) {
        const Origins origins = parse_origins(addresses, bounds, layouts);
        const py::buffer_info memory = out.request(true);
        const auto nbytes = static_cast<std::uint64_t>(memory.size * memory.itemsize);
        const GilReleased released;
        gather(origins, {static_cast<std::byte*>(memory.ptr), nbytes});
      },
      py::arg("addresses"), py::arg("bounds"), py::arg("layouts"), py::arg("out"));
}

}  // namespace fastio
