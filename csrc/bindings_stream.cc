// A load that is taken region by region while it goes on, within a window of memory.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <stdexcept>
#include <utility>
#include <vector>

#include "bindings.h"
#include "bindings_load.h"

namespace py = pybind11;

namespace fastio {
namespace {

class RegionStream {
 public:
  explicit RegionStream(std::shared_ptr<LoadJob> job) : job_(std::move(job)), process_(getpid()) {
    const std::vector<Plan>& plans = job_->layout().plans;
    for (std::size_t shard = 0; shard < plans.size(); ++shard) {
      for (std::size_t r = 0; r < plans[shard].regions.size(); ++r) {
        regions_.push_back({shard, r});
      }
    }
  }
  RegionStream(const RegionStream&) = delete;
  RegionStream& operator=(const RegionStream&) = delete;
  ~RegionStream() { close(); }

  [[nodiscard]] const LoadJob& job() const { return *job_; }

  // (shard, first extent, last extent) of each, in order.
  [[nodiscard]] std::vector<std::tuple<std::size_t, std::size_t, std::size_t>> regions() const {
    std::vector<std::tuple<std::size_t, std::size_t, std::size_t>> answer;
    for (const RegionId& id : regions_) {
      const PlannedRegion& planned = job_->layout().region(id);
      answer.emplace_back(id.shard, planned.first_extent, planned.last_extent);
    }
    return answer;
  }

  std::shared_ptr<Loaded> take(std::size_t index) {
    const RegionId id = regions_.at(index);
    if (process_ != getpid()) throw std::runtime_error("a stream does not outlive a fork");
    const auto job = job_;  // another thread may close meanwhile
    RegionDelivery& delivery = job->delivery();
    if (!delivery.wait_for(id, std::chrono::milliseconds::zero())) {
      wait_for_python([&](std::chrono::milliseconds turn) { return delivery.wait_for(id, turn); },
                      [] {});
    }
    auto memory = delivery.take(id);
    if (memory == nullptr) {
      raise_if_failed(*job);
      throw py::value_error("this region was released, or the stream is closed");
    }
    return std::make_shared<Loaded>(job, id, std::move(memory));
  }

  void release(std::size_t index) {
    const RegionId id = regions_.at(index);
    if (process_ == getpid()) job_->delivery().release(id);
  }

  [[nodiscard]] py::list incidents() {
    return process_ == getpid() ? take_incidents(*job_) : py::list();
  }

  // In a child the job's threads are not there, and whatever they held at the fork is held for
  // good: the child leaves it alone.
  void close() {
    if (process_ == getpid()) {
      const GilReleased released;  // a read that is out may be a feed's, which takes the GIL
      job_->cancel();
    } else {
      static auto* const left = new std::vector<std::shared_ptr<LoadJob>>();
      left->push_back(job_);
    }
  }

 private:
  std::shared_ptr<LoadJob> job_;
  pid_t process_;
  std::vector<RegionId> regions_;
};

}  // namespace

void register_streams(py::module_& module) {
  py::class_<RegionStream, std::shared_ptr<RegionStream>>(module, "Stream")
      .def(py::init([](const std::vector<ShardArgument>& shards, const py::object& options,
                       std::uint64_t window_bytes, bool keep_cold, bool persistent) {
             LoadOptions parsed = parse_options(options, keep_cold);
             parsed.window_bytes = window_bytes;
             parsed.persistent = persistent;
             return std::make_shared<RegionStream>(start_job(parse_shards(shards), parsed));
           }),
           py::arg("shards"), py::arg("options"), py::kw_only(), py::arg("window_bytes"),
           py::arg("keep_cold") = false, py::arg("persistent") = false)
      .def_property_readonly("statistics",
                             [](const RegionStream& self) { return statistics(self.job()); })
      .def("regions", &RegionStream::regions)
      .def("take", &RegionStream::take, py::arg("region"))
      .def("release", &RegionStream::release, py::arg("region"))
      .def("incidents", &RegionStream::incidents)
      .def("close", &RegionStream::close);
}

}  // namespace fastio
