// Shared by the bindings of loads and saves: options and places in, a job attended from Python.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "device.h"
#include "engine.h"
#include "memory.h"
#include "placement.h"

namespace fastio {

// The value that an option is named by.
template <typename Value>
Value one_of(const pybind11::object& options, const char* option,
             std::initializer_list<std::pair<const char*, Value>> values) {
  const auto name = options.attr(option).cast<std::string>();
  for (const auto& [known, value] : values) {
    if (name == known) return value;
  }
  throw pybind11::value_error(std::string(option) + " cannot be " + name);
}

// From any object with the attributes of fastio.Options.
[[nodiscard]] EnginePreference parse_engine(const pybind11::object& options);
[[nodiscard]] HugePages parse_huge_pages(const pybind11::object& options);

// Seconds; none for those that are never over.
[[nodiscard]] std::optional<std::chrono::nanoseconds> parse_timeout(double seconds);

// (address, bytes of an element, shape, strides in bytes, the device's ordinal or kHost)
using PlaceArgument = std::tuple<pybind11::int_, std::uint64_t, std::vector<std::uint64_t>,
                                 std::vector<std::int64_t>, int>;

// Throws where it does not come to `nbytes`.
[[nodiscard]] Placement parse_place(const PlaceArgument& argument, std::uint64_t nbytes);
[[nodiscard]] std::byte* parse_address(const pybind11::handle& address);

// By ordinal, the caller's stream.
using DeviceArguments = std::map<int, StreamHandle>;

// Throws IoError.
[[nodiscard]] std::vector<DeviceTarget> parse_devices(const DeviceArguments& argument);
// Which of them has the ordinal; kHost for kHost. Throws where none has.
[[nodiscard]] int index_of(const std::vector<DeviceTarget>& devices, int ordinal);

// Cancels the job when Python leaves before it is done: Ctrl-C, an error in the progress callback,
// a failure beside a request that hangs.
template <typename Job>
class Attendance {
 public:
  explicit Attendance(Job& job) : job_(job) {}
  Attendance(const Attendance&) = delete;
  Attendance& operator=(const Attendance&) = delete;
  ~Attendance() {
    if (finished_) return;
    const GilReleased released;  // a read that is out may be a feed's, which takes the GIL
    job_.cancel();
    // The caller's memory: nobody leaves while it is in use.
    while (!job_.wait_until_released(std::chrono::milliseconds(20))) {
    }
  }
  void finished() { finished_ = true; }

 private:
  Job& job_;
  bool finished_ = false;
};

// Waits until a job has come so far, or has failed; raises what Python raised meanwhile.
template <typename Job>
void attend_job(Job& job, const pybind11::object& progress,
                bool (Job::*so_far)(std::chrono::milliseconds) = &Job::wait_for) {
  Attendance<Job> attendance(job);
  bool finished = false;
  bool failed_before = false;
  wait_for_python(
      [&](std::chrono::milliseconds turn) {
        finished = (job.*so_far)(turn);
        // A failed job gets one more turn to bring its requests home; a hung one does not hold the
        // error back.
        return finished || std::exchange(failed_before, job.has_failed());
      },
      [&] {
        if (!progress.is_none()) progress(job.bytes_done(), job.bytes_total());
      });
  if (finished) attendance.finished();
}

}  // namespace fastio
