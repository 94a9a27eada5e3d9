// Algorithms of checksums for Python, and digests of what lies in a buffer.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <span>
#include <string>

#include "bindings.h"
#include "checksum.h"

namespace py = pybind11;

namespace fastio {
namespace {

py::bytes digests_in(const Algorithm& algorithm, const py::object& data,
                     std::uint64_t chunk_bytes) {
  if (chunk_bytes == 0) throw py::value_error("chunk_bytes must be positive");
  const Bytes bytes(data);
  const Digests digests = [&] {
    const GilReleased released;
    return digests_of(algorithm, bytes.span(), chunk_bytes);
  }();
  return as_bytes(digests);
}

}  // namespace

py::bytes as_bytes(const Digests& digests) {
  const std::span<const std::byte> bytes = digests.bytes();
  py::bytes answer = blank_bytes(bytes.size(), "checksums");
  if (!bytes.empty()) std::memcpy(PyBytes_AS_STRING(answer.ptr()), bytes.data(), bytes.size());
  return answer;
}

void register_checksums(py::module_& module) {
  // They are the core's own, and never destroyed.
  py::class_<Algorithm, std::unique_ptr<Algorithm, py::nodelete>>(module, "Algorithm")
      .def_property_readonly("name", [](const Algorithm& self) { return std::string(self.name); })
      .def_readonly("digest_bytes", &Algorithm::digest_bytes)
      .def("digests", &digests_in, py::arg("data"), py::arg("chunk_bytes"), py::pos_only())
      .def(
          "text",
          [](const Algorithm& self, const py::object& digest) {
            const Bytes bytes(digest);
            return Digest::of_table(self, bytes.span()).text();
          },
          py::arg("digest"), py::pos_only())
      .def("__repr__", [](const Algorithm& self) {
        return "<fastio checksum algorithm " + std::string(self.name) + ">";
      });
  py::dict known;
  for (const Algorithm& algorithm : algorithms()) {
    known[py::str(std::string(algorithm.name))] =
        py::cast(&algorithm, py::return_value_policy::reference);
  }
  module.attr("ALGORITHMS") = known;
  module.def(
      "xxh3_64",
      [](const py::object& data) {
        const Bytes bytes(data);
        const GilReleased released;
        return xxh3_64(bytes.span());
      },
      py::arg("data"), py::pos_only());
  module.def("checksum_variant", &checksum_variant);
}

}  // namespace fastio
