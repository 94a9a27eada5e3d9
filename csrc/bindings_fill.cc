// A load into memory that exists.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "bindings_load.h"

namespace py = pybind11;

namespace fastio {
namespace {

// (address, bytes of an element, shape, strides in bytes)
using PlaceArgument =
    std::tuple<py::int_, std::uint64_t, std::vector<std::uint64_t>, std::vector<std::int64_t>>;

Placement parse_place(const PlaceArgument& argument, const Extent& extent) {
  const auto& [address, item_bytes, shape, strides] = argument;
  if (shape.size() != strides.size()) throw py::value_error("a stride is needed for each axis");
  std::uint64_t nbytes = item_bytes;
  std::vector<Axis> axes;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    nbytes *= shape[i];
    axes.push_back({shape[i], strides[i]});
  }
  if (nbytes != extent.end - extent.begin)
    throw py::value_error("a place has other bytes than its extent");
  void* data = PyLong_AsVoidPtr(address.ptr());
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  return {static_cast<std::byte*>(data), item_bytes, std::move(axes)};
}

class Fill {
 public:
  Fill(const std::vector<ShardArgument>& shards,
       const std::vector<std::vector<PlaceArgument>>& places, const py::object& options,
       bool keep_cold)
      : requests_(parse_shards(shards)), options_(parse_options(options, keep_cold)) {
    if (places.size() != requests_.size())
      throw py::value_error("places are needed for each shard");
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      if (places[i].size() != requests_[i].extents.size())
        throw py::value_error("a place is needed for each extent");
      for (std::size_t e = 0; e < places[i].size(); ++e) {
        requests_[i].places.push_back(parse_place(places[i][e], requests_[i].extents[e]));
      }
    }
  }

  void run(const py::object& progress) {
    job_ = start_job(requests_, options_);
    attend(*job_, progress);
  }

  // Of each extent of a shard: whether all its bytes are at their place.
  [[nodiscard]] std::vector<bool> placed(std::size_t shard) const {
    std::vector<bool> answer(requests_.at(shard).extents.size());
    for (std::size_t e = 0; job_ && e < answer.size(); ++e) answer[e] = job_->placed(shard, e);
    return answer;
  }

  [[nodiscard]] py::dict counted() const {
    if (!job_) throw py::value_error("it has not run");
    return statistics(*job_);
  }

 private:
  std::vector<ShardRequest> requests_;
  LoadOptions options_;
  std::shared_ptr<LoadJob> job_;
};

}  // namespace

void register_fills(py::module_& module) {
  py::class_<Fill>(module, "Fill")
      .def(py::init<const std::vector<ShardArgument>&,
                    const std::vector<std::vector<PlaceArgument>>&, const py::object&, bool>(),
           py::arg("shards"), py::arg("places"), py::arg("options"), py::kw_only(),
           py::arg("keep_cold") = false)
      .def_property_readonly("statistics", &Fill::counted)
      .def("run", &Fill::run, py::arg("progress") = py::none())
      .def("placed", &Fill::placed, py::arg("shard"));
}

}  // namespace fastio
