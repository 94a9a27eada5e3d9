#include "bindings_jobs.h"

#include <algorithm>
#include <utility>

namespace py = pybind11;

namespace fastio {
namespace {

// pip hides what the build says of a missing liburing, so the first job says it again.
void warn_once_without_uring() {
  static bool warned = false;  // under the GIL
  if (std::exchange(warned, true)) return;
  const auto log = py::module_::import("logging").attr("getLogger")("fastio");
  log.attr("warning")("fastio was built without io_uring and uses preadv threads. io_uring is %s",
                      uring_status().reason);
}

}  // namespace

EnginePreference parse_engine(const py::object& options) {
  const auto preference = one_of<EnginePreference>(options, "engine",
                                                   {{"auto", EnginePreference::automatic},
                                                    {"uring", EnginePreference::uring},
                                                    {"pread", EnginePreference::pread}});
  if (preference == EnginePreference::automatic && !uring_is_built()) warn_once_without_uring();
  return preference;
}

HugePages parse_huge_pages(const py::object& options) {
  return one_of<HugePages>(
      options, "huge_pages",
      {{"auto", HugePages::automatic}, {"on", HugePages::on}, {"off", HugePages::off}});
}

std::optional<std::chrono::nanoseconds> parse_timeout(double seconds) {
  constexpr double kMost_s = 1e9;  // a lifetime; far below what nanoseconds can count
  if (!(seconds < kMost_s)) return std::nullopt;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<double>(seconds));
}

std::byte* parse_address(const py::handle& address) {
  void* data = PyLong_AsVoidPtr(address.ptr());
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  return static_cast<std::byte*>(data);
}

std::vector<DeviceTarget> parse_devices(const DeviceArguments& argument) {
  const GilReleased released;  // the driver may have to be opened
  std::vector<DeviceTarget> devices;
  for (const auto& [ordinal, stream] : argument) devices.push_back({Device::of(ordinal), stream});
  return devices;
}

int index_of(const std::vector<DeviceTarget>& devices, int ordinal) {
  if (ordinal == kHost) return kHost;
  const auto found = std::ranges::find_if(
      devices, [&](const DeviceTarget& target) { return target.device->ordinal() == ordinal; });
  if (found == devices.end()) throw py::value_error("memory is on a device that is not given");
  return static_cast<int>(found - devices.begin());
}

Placement parse_place(const PlaceArgument& argument, std::uint64_t nbytes) {
  const auto& [address, item_bytes, shape, strides, device] = argument;
  if (shape.size() != strides.size()) throw py::value_error("a stride is needed for each axis");
  std::uint64_t counted = item_bytes;
  std::vector<Axis> axes;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    counted *= shape[i];
    axes.push_back({shape[i], strides[i]});
  }
  if (counted != nbytes) throw py::value_error("a place has other bytes than its extent");
  return {parse_address(address), item_bytes, std::move(axes)};
}

}  // namespace fastio
