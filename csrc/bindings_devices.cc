// Devices for Python: their state, pinned memory, and tensors that lie on them.
#include <pybind11/pybind11.h>

#include "bindings.h"
#include "bindings_tensors.h"
#include "device.h"
#include "pinned.h"

namespace py = pybind11;

namespace fastio {
namespace {

py::dict driver_dict() {
  DriverStatus status;
  {
    const GilReleased released;
    status = find_driver();
  }
  py::dict answer;
  answer["available"] = status.available;
  answer["reason"] = status.reason;
  answer["version"] = status.version;
  return answer;
}

py::dict pinned_dict() {
  const PinnedAccount account = pinned_account();
  py::dict answer;
  answer["nbytes"] = account.bytes;
  answer["leased_bytes"] = account.leased_bytes;
  answer["unpinned_bytes"] = account.unpinned_bytes;
  answer["seconds"] = account.seconds;
  answer["refusal"] = account.refusal;
  return answer;
}

}  // namespace

void register_devices(py::module_& module) {
  module.def("find_driver", &driver_dict);
  module.def("pinned_account", &pinned_dict);
  module.def("trim_pinned", [] {
    const GilReleased released;
    return trim_pinned();
  });
  module.def("device_dlpack", &make_device_capsule, py::arg("owner"), py::arg("ordinal"),
             py::arg("address"), py::arg("code"), py::arg("bits"), py::arg("shape"),
             py::arg("nbytes"));
}

}  // namespace fastio
