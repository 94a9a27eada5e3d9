#include "bindings.h"

#include <fcntl.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <vector>

#include "bindings_jobs.h"
#include "defaults.h"
#include "engine.h"
#include "file.h"

namespace py = pybind11;

namespace fastio {

std::string encoded_path(const py::object& path) {
  PyObject* encoded = nullptr;
  if (PyUnicode_FSConverter(path.ptr(), &encoded) == 0) throw py::error_already_set();
  return static_cast<std::string>(py::reinterpret_steal<py::bytes>(encoded));
}

py::str shown_path(const std::string& path) {
  PyObject* shown = PyUnicode_DecodeFSDefaultAndSize(path.data(), std::ssize(path));
  if (shown == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(shown);
}

namespace {

IoError no_memory(const std::string& path, std::size_t nbytes) {
  return IoError(Failure{ENOMEM, "allocate", path, {}, {}, Failure::Kind::read, nbytes});
}

}  // namespace

TimeLimit time_limit(const char* operation, const std::string& path, std::optional<double> seconds,
                     std::optional<std::uint64_t> disk) {
  if (!seconds) return {};
  const auto timeout = parse_timeout(*seconds);
  if (!timeout) return {};
  if (disk && owes_answer(*disk))
    throw IoError(Failure{ETIMEDOUT, operation, path, {}, kOwesAnswer});
  return {timeout, {ETIMEDOUT, operation, path, {}, no_answer_for(*timeout)}, disk};
}

py::bytes blank_bytes(std::size_t nbytes, const std::string& path) {
  PyObject* made = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(nbytes));
  if (made == nullptr) {
    PyErr_Clear();
    throw no_memory(path, nbytes);
  }
  return py::reinterpret_steal<py::bytes>(made);
}

namespace {

std::vector<std::byte> blank(const std::string& path, std::size_t nbytes) {
  try {
    return std::vector<std::byte>(nbytes);
  } catch (const std::bad_alloc&) {
    throw no_memory(path, nbytes);
  }
}

py::bytes read_file(const std::shared_ptr<File>& file, std::uint64_t offset, std::uint64_t nbytes,
                    std::optional<double> timeout_s) {
  if (offset > file->nbytes() || nbytes > file->nbytes() - offset) {
    throw IoError(ended_early(*file, file->nbytes(), offset + nbytes));
  }
  py::bytes answer = blank_bytes(nbytes, file->path());
  const std::span out(reinterpret_cast<std::byte*>(PyBytes_AS_STRING(answer.ptr())), nbytes);
  {
    const GilReleased released;
    if (file->read_cached(offset, out)) return answer;
  }
  const auto read = call_detached(
      [file, offset, nbytes] {
        std::vector<std::byte> bytes = blank(file->path(), nbytes);
        file->read(offset, bytes);
        return bytes;
      },
      [](const std::vector<std::byte>&) {},
      time_limit("read", file->path(), timeout_s, file->mount().disk));
  std::memcpy(out.data(), read.data(), nbytes);
  return answer;
}

py::dict status_dict(const EngineStatus& status) {
  py::dict answer;
  answer["available"] = status.available;
  answer["reason"] = status.reason;
  answer["features"] = status.features;
  return answer;
}

std::shared_ptr<File> open_in(int folder_fd, const py::object& name, const py::object& shown_as,
                              std::optional<double> timeout_s) {
  const std::string encoded = encoded_path(name);
  const std::string shown = encoded_path(shown_as);
  if (on_known_local_mount(folder_fd)) {
    const GilReleased released;
    const auto open = timeout_s ? &File::open_in_cached : &File::open_in_at_once;
    if (auto file = open(folder_fd, encoded, shown)) return file;
  }
  // After Ctrl-C the caller may close the folder while the call goes on.
  const auto folder = std::make_shared<Descriptor>(fcntl(folder_fd, F_DUPFD_CLOEXEC, 0));
  if (!folder->valid()) throw_last_error("open", shown);
  return call_detached(
      [folder, encoded, shown] { return File::open_in(folder->get(), encoded, shown); },
      [](const std::shared_ptr<File>&) {},
      time_limit("open", shown, timeout_s, disk_under(folder->get())));
}

}  // namespace

void register_files(py::module_& module) {
  module.def("note_debt", &note_debt, py::arg("disk"));
  module.def("note_answer", &note_answer, py::arg("disk"));
  module.def("owes_answer", &owes_answer, py::arg("disk"));
  py::class_<File, std::shared_ptr<File>>(module, "File")
      .def(py::init([](const py::object& path) {
             const std::string encoded = encoded_path(path);
             if (on_known_local_mount(encoded)) {
               const GilReleased released;
               if (auto file = File::open_at_once(encoded)) return file;
             }
             return call_detached([encoded] { return File::open(encoded); },
                                  [](const std::shared_ptr<File>&) {});
           }),
           py::arg("path"))
      .def_static("open_in", &open_in, py::arg("folder_fd"), py::arg("name"), py::arg("shown_path"),
                  py::kw_only(), py::arg("timeout_s") = py::none())
      .def_property_readonly("path", [](const File& file) { return shown_path(file.path()); })
      .def_property_readonly("nbytes", &File::nbytes)
      .def_property_readonly("filesystem", [](const File& file) { return file.mount().filesystem; })
      .def_property_readonly("disk", [](const File& file) { return file.mount().disk; })
      .def("read", &read_file, py::arg("offset"), py::arg("nbytes"), py::kw_only(),
           py::arg("timeout_s") = py::none())
      .def("resident_bytes", [](const File& file) {
        const GilReleased released;
        return file.resident_bytes(0, file.nbytes());
      });
}

void register_engines(py::module_& module) {
  module.def("engine_statuses", [] {
    py::dict answer;
    answer["uring"] = status_dict(uring_status());
    answer["pread"] = status_dict(pread_status());
    return answer;
  });
}

// fastio.Options takes its defaults from here.
void register_defaults(py::module_& module) {
  module.attr("DEFAULT_BLOCK_BYTES") = kDefaultBlockBytes;
  module.attr("DEFAULT_QUEUE_DEPTH") = kDefaultQueueDepth;
  module.attr("DEFAULT_PINNED_LIMIT_BYTES") = kDefaultPinnedLimitBytes;
}

namespace {

// Not in another interpreter than the main one: its callers' thread states (PyGILState_Ensure) are
// not those of the threads here, and each would wait for the other's lock.
constexpr const char* kMainInterpreterOnly =
    "fastio works in the main interpreter of a process only: import it there, or in another "
    "process";

bool in_main_interpreter() { return PyInterpreterState_Get() == PyInterpreterState_Main(); }

}  // namespace
}  // namespace fastio

// Up to Python 3.12 the interpreter calls what is below, which looks before pybind11 hangs. Later
// ones call it in the main interpreter for all, and the body here in each.
#define PyInit__native made_by_pybind11
PYBIND11_MODULE(_native, module) {
  if (!fastio::in_main_interpreter()) throw py::import_error(fastio::kMainInterpreterOnly);
  module.attr("__version__") = FASTIO_VERSION;
  fastio::register_errors();
  fastio::register_files(module);
  fastio::register_feeds(module);
  fastio::register_checksums(module);
  fastio::register_columns(module);
  fastio::register_copies(module);
  fastio::register_engines(module);
  fastio::register_devices(module);
  fastio::register_loading(module);
  fastio::register_streams(module);
  fastio::register_fills(module);
  fastio::register_mapped_files(module);
  fastio::register_saving(module);
  fastio::register_defaults(module);
#ifdef FASTIO_TESTING
  fastio::register_testing(module);
#endif
}
#undef PyInit__native

// The name is the interpreter's.
extern "C" PYBIND11_EXPORT PyObject* PyInit__native() {
  if (fastio::in_main_interpreter()) return made_by_pybind11();
  PyErr_SetString(PyExc_ImportError, fastio::kMainInterpreterOnly);
  return nullptr;
}
