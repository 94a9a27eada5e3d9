// Feeds that are written in Python: a callable that brings bytes.
#include <Python.h>
#include <cxxabi.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "mutex.h"
#include "replica.h"

namespace py = pybind11;

namespace fastio {
namespace {

// The GIL, for a thread of the core. When the interpreter ends, the thread stops for good, for the
// reason that GilReleased has.
class GilHeld {
 public:
  GilHeld() : state_(held()) {}
  GilHeld(const GilHeld&) = delete;
  GilHeld& operator=(const GilHeld&) = delete;
  ~GilHeld() { PyGILState_Release(state_); }

 private:
  static PyGILState_STATE held() {
    try {
      return PyGILState_Ensure();
    } catch (const abi::__forced_unwind&) {
      for (;;) pause();
    }
  }

  PyGILState_STATE state_;
};

class PythonFeed final : public Feed {
 public:
  PythonFeed(std::string path, std::uint64_t nbytes, std::uint64_t disk, py::object read)
      : path_(std::move(path)), nbytes_(nbytes), disk_(disk), read_(std::move(read)) {}
  PythonFeed(const PythonFeed&) = delete;
  PythonFeed& operator=(const PythonFeed&) = delete;

  // The last one to let go of it may be a thread of the core.
  ~PythonFeed() override {
    if (Py_IsInitialized() == 0) {
      read_.release();
      return;
    }
    const GilHeld held;
    read_ = py::object();
  }

  [[nodiscard]] const std::string& path() const override { return path_; }
  [[nodiscard]] std::uint64_t nbytes() const override { return nbytes_; }
  [[nodiscard]] std::uint64_t disk() const override { return disk_; }

  std::int32_t read(std::uint64_t offset, std::span<std::byte> out) override {
    const GilHeld held;
    try {
      return bring(offset, out);
    } catch (const py::error_already_set& error) {
      return refuse(offset, errno_of(error), text_of(error));
    } catch (const std::exception& error) {
      return refuse(offset, EIO, error.what());
    }
  }

  std::string why(std::uint64_t offset) override {
    const MutexLock lock(mutex_);
    const auto found = reasons_.extract(offset);
    return found.empty() ? "" : std::move(found.mapped());
  }

 private:
  std::int32_t bring(std::uint64_t offset, std::span<std::byte> out) {
    const auto wanted =
        std::min<std::uint64_t>(out.size(), offset < nbytes_ ? nbytes_ - offset : 0);
    const Bytes came(read_(offset, wanted));
    const std::size_t count = came.span().size();
    if (count > wanted) {
      return refuse(offset, EIO,
                    "it brought " + std::to_string(count) + " bytes where " +
                        std::to_string(wanted) + " were asked for");
    }
    const GilReleased released;
    std::ranges::copy(came.span(), out.begin());
    return static_cast<std::int32_t>(count);
  }

  static int errno_of(const py::error_already_set& error) {
    if (!error.matches(PyExc_OSError)) return EIO;
    const py::object number = py::getattr(error.value(), "errno", py::none());
    return py::isinstance<py::int_>(number) ? number.cast<int>() : EIO;
  }

  // In one line, without a traceback.
  static std::string text_of(const py::error_already_set& error) {
    auto name = error.type().attr("__name__").cast<std::string>();
    try {
      return name + ": " + py::str(error.value()).cast<std::string>();
    } catch (const std::exception&) {  // its own __str__ raises, or has no text
      return name;
    }
  }

  std::int32_t refuse(std::uint64_t offset, int error, const std::string& reason) {
    const MutexLock lock(mutex_);
    reasons_[offset] = reason;
    // These two would be tried again at once, without end as it seems to the callable.
    const bool is_transient = error == EINTR || error == EAGAIN;
    return -(error <= 0 || is_transient ? EIO : error);
  }

  const std::string path_;
  const std::uint64_t nbytes_, disk_;
  py::object read_;
  Mutex mutex_;
  std::map<std::uint64_t, std::string> reasons_ FASTIO_GUARDED_BY(mutex_);  // by offset
};

// Brings all of them, or throws IoError.
std::vector<std::byte> bring_all(Feed& feed, std::uint64_t offset, std::uint64_t nbytes) {
  std::vector<std::byte> bytes(nbytes);
  for (std::uint64_t done = 0; done < nbytes;) {
    const std::int32_t came = feed.read(offset + done, std::span(bytes).subspan(done));
    if (came < 0)
      throw IoError(Failure{-came, "read", feed.path(), offset + done, feed.why(offset + done)});
    if (came == 0) throw IoError(ended_early(feed, offset + done, offset + nbytes));
    done += static_cast<std::uint32_t>(came);
  }
  return bytes;
}

py::bytes read_feed(const std::shared_ptr<Feed>& feed, std::uint64_t offset, std::uint64_t nbytes,
                    std::optional<double> timeout_s) {
  if (offset > feed->nbytes() || nbytes > feed->nbytes() - offset)
    throw IoError(ended_early(*feed, feed->nbytes(), offset + nbytes));
  const auto came =
      call_detached([feed, offset, nbytes] { return bring_all(*feed, offset, nbytes); },
                    [](const std::vector<std::byte>&) {},
                    time_limit("read", feed->path(), timeout_s, feed->disk()));
  py::bytes answer = blank_bytes(nbytes, feed->path());
  if (nbytes != 0) std::memcpy(PyBytes_AS_STRING(answer.ptr()), came.data(), nbytes);
  return answer;
}

}  // namespace

void register_feeds(py::module_& module) {
  py::class_<Feed, std::shared_ptr<Feed>>(module, "Feed")
      .def(py::init([](const py::object& path, std::uint64_t nbytes, py::object read,
                       std::uint64_t disk) -> std::shared_ptr<Feed> {
             return std::make_shared<PythonFeed>(encoded_path(path), nbytes, disk, std::move(read));
           }),
           py::arg("path"), py::arg("nbytes"), py::arg("read"), py::kw_only(), py::arg("disk"))
      .def_property_readonly("path", [](const Feed& feed) { return shown_path(feed.path()); })
      .def_property_readonly("nbytes", &Feed::nbytes)
      .def_property_readonly("disk", &Feed::disk)
      .def("read", &read_feed, py::arg("offset"), py::arg("nbytes"), py::kw_only(),
           py::arg("timeout_s") = py::none());
}

}  // namespace fastio
