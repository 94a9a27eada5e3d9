// fastio._native.testing: what the tests ask of the core and users do not. Wheels have none of it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "bindings_load.h"
#include "engine_faults.h"
#include "memory.h"

namespace py = pybind11;

namespace fastio {
namespace {

FaultKind fault_kind(const std::string& name) {
  if (name == "error") return FaultKind::error;
  if (name == "short") return FaultKind::cut;
  if (name == "zero") return FaultKind::zero;
  if (name == "flip") return FaultKind::flip;
  if (name == "change") return FaultKind::change;
  if (name == "waver") return FaultKind::waver;
  if (name == "late") return FaultKind::late;
  if (name == "reorder") return FaultKind::reorder;
  if (name == "never") return FaultKind::never;
  if (name == "kill") return FaultKind::kill;
  throw py::value_error("no such completion fault: " + name);
}

}  // namespace

void register_testing(py::module_& parent) {
  py::module_ module = parent.def_submodule("testing");
  module.def(
      "set_completion_faults",
      [](const std::vector<std::tuple<std::uint64_t, std::string, std::int64_t>>& faults) {
        std::vector<Fault> parsed;
        parsed.reserve(faults.size());
        for (const auto& [at, kind, value] : faults)
          parsed.push_back({at, fault_kind(kind), value});
        set_completion_faults(std::move(parsed));
      },
      py::arg("faults"));
  module.def("release_held_completions", &release_held_completions);
  module.def("abandoned_bytes", &abandoned_bytes);
  module.def(
      "plan",
      [](const Offsets& begins, const Offsets& ends, std::uint64_t file_nbytes,
         std::optional<std::pair<std::uint64_t, std::uint64_t>> grid, std::uint64_t alignment,
         std::uint64_t block_bytes, std::uint64_t region_bytes) {
        std::vector<Extent> extents;
        for (py::ssize_t i = 0; i < begins.size(); ++i) {
          extents.push_back(
              {static_cast<std::uint64_t>(begins.at(i)), static_cast<std::uint64_t>(ends.at(i))});
        }
        PlanRequest request{extents, file_nbytes, {}, alignment, block_bytes, region_bytes, false};
        if (grid) request.grid = ChunkGrid{grid->first, grid->second};
        const Plan plan = make_plan(request);
        py::list regions, blocks;
        for (const auto& r : plan.regions) {
          regions.append(py::make_tuple(r.begin, r.end, r.first_extent, r.last_extent));
        }
        for (const auto& b : plan.blocks) blocks.append(py::make_tuple(b.region, b.begin, b.end));
        return py::make_tuple(regions, blocks);
      },
      py::arg("begins"), py::arg("ends"), py::arg("file_nbytes"), py::kw_only(), py::arg("grid"),
      py::arg("alignment"), py::arg("block_bytes"), py::arg("region_bytes"));
}

}  // namespace fastio
