// A load into memory that exists.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "bindings_jobs.h"
#include "bindings_load.h"

namespace py = pybind11;

namespace fastio {
namespace {

std::uint64_t bytes_of(const Extent& extent) { return extent.end - extent.begin; }

class Fill {
 public:
  Fill(const std::vector<ShardArgument>& shards,
       const std::vector<std::vector<PlaceArgument>>& places, const py::object& options,
       bool keep_cold, bool persistent, bool joins_places, const DeviceArguments& devices,
       py::object keep)
      : requests_(parse_shards(shards)),
        options_(parse_options(options, keep_cold)),
        keep_(std::move(keep)) {
    options_.persistent = persistent;
    options_.joins_places = joins_places;
    options_.devices = parse_devices(devices);
    if (places.size() != requests_.size())
      throw py::value_error("places are needed for each shard");
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      if (places[i].size() != requests_[i].extents.size())
        throw py::value_error("a place is needed for each extent");
      for (std::size_t e = 0; e < places[i].size(); ++e) {
        requests_[i].places.push_back(parse_place(places[i][e], bytes_of(requests_[i].extents[e])));
        requests_[i].devices.push_back(index_of(options_.devices, std::get<4>(places[i][e])));
      }
    }
  }
  Fill(const Fill&) = delete;
  Fill& operator=(const Fill&) = delete;

  // The memory that is filled is kept until nothing is written there any more; after follow(),
  // streams see to it.
  ~Fill() {
    if (!job_ || followed_ || process_ != getpid() ||
        job_->wait_for(std::chrono::milliseconds::zero()))
      return;
    const GilReleased released;  // a read that is out may be a feed's, which takes the GIL
    job_->cancel();
    while (!job_->wait_until_released(std::chrono::milliseconds(20))) {
    }
  }

  void start() {
    if (job_) throw py::value_error("it was started before");
    job_ = start_job(requests_, options_);
  }

  void wait(const py::object& progress) { come(progress, &LoadJob::wait_for); }

  // Returns when all is verified and on its way. Later work in these streams, and in those that the
  // load came behind, waits on the device for the copies.
  void follow(const DeviceArguments& streams, const py::object& progress) {
    come(progress, &LoadJob::wait_until_queued);
    std::vector<DeviceTarget> behind = parse_devices(streams);
    behind.insert(behind.end(), options_.devices.begin(), options_.devices.end());
    const auto refused = [&]() -> std::optional<Failure> {
      const GilReleased released;
      for (const DeviceTarget& target : behind) {
        if (auto failure = job_->hold_back(target)) return failure;
      }
      return std::nullopt;
    }();
    if (refused) raise_failure(*refused);
    followed_ = true;
  }

  // Starts and waits: nobody can be interrupted in between. Once more, it says what it said before.
  void run(const py::object& progress) {
    if (!job_) start();
    wait(progress);
  }

  // Whether it has ended, well or not.
  [[nodiscard]] bool done() const { return started()->wait_for(std::chrono::milliseconds::zero()); }

  // Or was cancelled. When `wait` or `follow` has raised that, nothing is written to the places any
  // more, and `keep` was released.
  [[nodiscard]] bool failed() const {
    return job_ && (job_->has_failed() || job_->outcome().cancelled());
  }

  // Of each extent of a shard: whether all its bytes are at their place.
  [[nodiscard]] std::vector<bool> placed(std::size_t shard) const {
    std::vector<bool> answer(requests_.at(shard).extents.size());
    for (std::size_t e = 0; job_ && e < answer.size(); ++e) answer[e] = job_->is_placed(shard, e);
    return answer;
  }

  [[nodiscard]] py::list incidents() { return job_ ? take_incidents(*job_) : py::list(); }

  [[nodiscard]] py::dict counted() const {
    if (!job_) throw py::value_error("it has not run");
    return statistics(*job_);
  }

 private:
  void come(const py::object& progress, bool (LoadJob::*so_far)(std::chrono::milliseconds)) {
    const std::shared_ptr<LoadJob> job = started();
    try {
      attend(*job, progress, so_far);
    } catch (...) {
      if (failed()) {
        {
          const GilReleased released;
          while (!job->wait_until_released(std::chrono::milliseconds(20))) {
          }
        }
        keep_ = py::none();
      }
      throw;
    }
  }

  [[nodiscard]] const std::shared_ptr<LoadJob>& started() const {
    if (!job_) throw py::value_error("it was not started");
    if (process_ != getpid()) throw std::runtime_error("a load does not outlive a fork");
    return job_;
  }

  std::vector<ShardRequest> requests_;
  LoadOptions options_;
  py::object keep_;
  pid_t process_ = getpid();
  std::shared_ptr<LoadJob> job_;
  bool followed_ = false;
};

}  // namespace

void register_fills(py::module_& module) {
  py::class_<Fill>(module, "Fill")
      .def(py::init<const std::vector<ShardArgument>&,
                    const std::vector<std::vector<PlaceArgument>>&, const py::object&, bool, bool,
                    bool, const DeviceArguments&, py::object>(),
           py::arg("shards"), py::arg("places"), py::arg("options"), py::kw_only(),
           py::arg("keep_cold") = false, py::arg("persistent") = false,
           py::arg("joins_places") = false, py::arg("devices") = DeviceArguments(),
           py::arg("keep") = py::none())
      .def_property_readonly("statistics", &Fill::counted)
      .def("start", &Fill::start)
      .def("wait", &Fill::wait, py::arg("progress") = py::none())
      .def("follow", &Fill::follow, py::arg("streams"), py::arg("progress") = py::none())
      .def("done", &Fill::done)
      .def("run", &Fill::run, py::arg("progress") = py::none())
      .def("failed", &Fill::failed)
      .def("incidents", &Fill::incidents)
      .def("placed", &Fill::placed, py::arg("shard"));
}

}  // namespace fastio
