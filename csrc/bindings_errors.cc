// Failures of the core as exceptions of fastio and of Python.
#include <pybind11/pybind11.h>
#include <sys/resource.h>

#include <cerrno>
#include <string>

#include "bindings.h"

namespace py = pybind11;

namespace fastio {
namespace {

py::object error_class(const char* name) { return py::module_::import("fastio.errors").attr(name); }

void set_error(const py::object& type, const py::object& instance) {
  PyErr_SetObject(type.ptr(), instance.ptr());
}

py::object optional_text(const std::string& text) {
  return text.empty() ? py::none() : py::object(py::str(text));
}

// A limit of locked memory is none of these: there is memory, and a ring may not have it.
bool of_memory(const Failure& failure) {
  return failure.kind != Failure::Kind::device && failure.error == ENOMEM &&
         failure.operation != "io_uring_setup";
}

void set_memory_error(const std::string& subject, std::uint64_t asked_bytes,
                      const std::string& more) {
  std::string text = subject + "there is no memory";
  if (asked_bytes != 0) text += " for " + std::to_string(asked_bytes) + " bytes";
  PyErr_SetString(PyExc_MemoryError, (text + more).c_str());
}

// Details that the error number alone lacks.
std::string detail_of(const Failure& failure) {
  if (failure.error != EMFILE || !failure.detail.empty()) return failure.detail;
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return "RLIMIT_NOFILE is " + std::to_string(limit.rlim_cur) +
         ", and too few; `ulimit -n` sets more for a new process";
}

void set_failure(const Failure& failure) {
  // A failed open() raises the same error as Python's own open().
  const bool of_path = failure.kind == Failure::Kind::read && failure.operation == "open" &&
                       (failure.error == ENOENT || failure.error == EISDIR);
  if (of_path) {
    errno = failure.error;
    PyErr_SetFromErrnoWithFilename(PyExc_OSError, failure.path.c_str());
    return;
  }
  if (of_memory(failure)) {
    const std::string call =
        failure.operation == "allocate" ? "" : " (" + failure.operation + " failed)";
    const std::string detail = failure.detail.empty() ? "" : ": " + failure.detail;
    return set_memory_error(shown_path(failure.path).cast<std::string>() + ": ",
                            failure.asked_bytes, call + detail);
  }
  if (failure.kind == Failure::Kind::device) {
    const py::object type = error_class("DeviceError");
    set_error(type, type(failure.path, failure.operation, failure.error, failure.detail));
    return;
  }
  const bool of_write = failure.kind == Failure::Kind::write;
  const py::object type = error_class(of_write ? "WriteError" : "ReadError");
  set_error(type, type(failure.error, failure.operation, failure.path,
                       failure.offset ? py::object(py::int_(*failure.offset)) : py::none(),
                       optional_text(detail_of(failure))));
}

// What a signal handler raises while an error is made comes in its place. pybind11 would lose both.
template <typename Make>
void told(Make&& make) {
  try {
    make();
  } catch (py::error_already_set& interrupted) {
    interrupted.restore();
  }
}

// pybind11 sets the signature.
// NOLINTNEXTLINE(performance-unnecessary-value-param)
void translate(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const IoError& error) {
    told([&] { set_failure(error.failure()); });
  } catch (const MemoryLimitExceeded& error) {
    told([&] {
      const py::object type = error_class("MemoryLimitError");
      set_error(type, type(error.asked_bytes, error.limit_bytes, error.held_bytes));
    });
  } catch (const OutOfMemory& error) {
    set_memory_error({}, error.asked_bytes, {});
  }
}

}  // namespace

void raise_failure(const Failure& failure) {
  set_failure(failure);
  throw py::error_already_set();
}

void register_errors() { py::register_local_exception_translator(&translate); }

}  // namespace fastio
