// The Python boundary: convert arguments, release the GIL, raise the right exception. One register
// function a concept; nothing here moves bytes.
#pragma once

#include <pybind11/pybind11.h>

#include <cxxabi.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "answers.h"
#include "checksum.h"
#include "error.h"
#include "loader.h"

namespace fastio {

void register_errors();
void register_feeds(pybind11::module_& module);
void register_files(pybind11::module_& module);
void register_checksums(pybind11::module_& module);
void register_columns(pybind11::module_& module);
void register_copies(pybind11::module_& module);
void register_devices(pybind11::module_& module);
void register_engines(pybind11::module_& module);
void register_loading(pybind11::module_& module);
void register_streams(pybind11::module_& module);
void register_fills(pybind11::module_& module);
void register_saving(pybind11::module_& module);
void register_mapped_files(pybind11::module_& module);
void register_defaults(pybind11::module_& module);
// fastio._native.testing, in builds with FASTIO_TESTING.
void register_testing(pybind11::module_& module);

// The result of load(): regions, and the extent of each tensor in them.
class Loaded;
void register_tensors(pybind11::class_<Loaded, std::shared_ptr<Loaded>>& loaded);

// Paths as Python has them, as os.fsencode and os.fsdecode do; null bytes are refused. Nothing is
// imported for them, which cannot be done any more when the interpreter ends.
[[nodiscard]] std::string encoded_path(const pybind11::object& path);
[[nodiscard]] pybind11::str shown_path(const std::string& path);

// The contiguous bytes of any object with the buffer protocol, held while this lives.
class Bytes {
 public:
  explicit Bytes(const pybind11::handle& object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0)
      throw pybind11::error_already_set();
  }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  ~Bytes() { PyBuffer_Release(&view_); }

  [[nodiscard]] std::span<const std::byte> span() const {
    return {static_cast<const std::byte*>(view_.buf), static_cast<std::size_t>(view_.len)};
  }

 private:
  Py_buffer view_{};
};

// Bytes that are to be filled; MemoryError where there is no memory for them, which names the path
// that they are of.
[[nodiscard]] pybind11::bytes blank_bytes(std::size_t nbytes, const std::string& path);
[[nodiscard]] pybind11::bytes as_bytes(const Digests& digests);

// Raises the Python exception for a failed operation.
[[noreturn]] void raise_failure(const Failure& failure);

// The GIL, given away for as long as this lives. A daemon thread may want it back when the
// interpreter is already on its way out: Python before 3.14 ends such a thread by unwinding it,
// which no destructor survives. Here the thread stops for good instead, as later ones have it.
class GilReleased {
 public:
  GilReleased() : state_(PyEval_SaveThread()) {}
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;
  ~GilReleased() {
    try {
      PyEval_RestoreThread(state_);
    } catch (const abi::__forced_unwind&) {
      for (;;) pause();
    }
  }

 private:
  PyThreadState* state_;
};

// Runs Python's signal handlers now and then in a long loop that holds the GIL; throws what one of
// them raised.
inline void answer_signals(std::size_t turn) {
  constexpr std::size_t kTurns = 1024;
  if (turn % kTurns == kTurns - 1 && PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
}

// Waits with the GIL released until done(timeout) says true, and runs Python's signal handlers in
// between, so that Ctrl-C is answered at once. Throws what a handler raised. `tick` is called with
// the GIL held.
template <typename Done, typename Tick>
void wait_for_python(Done&& done, Tick&& tick) {
  constexpr std::chrono::milliseconds kTurn{20};
  for (;;) {
    bool finished = false;
    {
      const GilReleased released;
      finished = done(kTurn);
    }
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
    tick();
    if (finished) return;
  }
}

// How long a call may take, and what it has failed with then; of reads that come later, the disk
// (st_dev) that owes the answer, where it is known.
struct TimeLimit {
  std::optional<std::chrono::nanoseconds> timeout = {};
  Failure failure = {};
  std::optional<std::uint64_t> disk = {};
};

// For a replica on a root: how long it is waited for. Throws IoError where an earlier request has
// been waited for in vain.
[[nodiscard]] TimeLimit time_limit(const char* operation, const std::string& path,
                                   std::optional<double> seconds,
                                   std::optional<std::uint64_t> disk);

// Calls `work` on a thread of its own and waits for its result as above: whoever presses Ctrl-C
// abandons a call that a disk may never answer, and so does a limit, by throwing IoError.
// `work` keeps what it needs; what it brings too late goes to `too_late`. If no thread can be
// started, the caller's does the work, and both wait for it.
template <typename Work, typename TooLate>
auto call_detached(Work work, TooLate too_late, const TimeLimit& limit = {}) {
  struct Call {
    std::mutex mutex;
    std::condition_variable finished;
    std::optional<decltype(work())> result;
    std::exception_ptr error;
    bool done = false, abandoned = false, late = false;
  };
  auto call = std::make_shared<Call>();
  auto run = [call, work = std::move(work), too_late, disk = limit.disk]() mutable {
    std::optional<decltype(work())> result;
    std::exception_ptr error;
    try {
      result = work();
    } catch (...) {
      error = std::current_exception();
    }
    const std::lock_guard lock(call->mutex);
    if (call->abandoned && result) too_late(*result);
    if (call->late && disk) note_answer(*disk);
    call->result = std::move(result);
    call->error = error;
    call->done = true;
    call->finished.notify_all();
  };
  try {
    std::thread(run).detach();
  } catch (const std::system_error&) {
    const GilReleased released;
    run();
  }
  try {
    std::chrono::nanoseconds waited{};  // in turns: not while this process was stopped
    wait_for_python(
        [&](std::chrono::milliseconds turn) {
          std::unique_lock lock(call->mutex);
          if (call->finished.wait_for(lock, turn, [&] { return call->done; })) return true;
          waited += turn;
          call->late = limit.timeout && waited >= *limit.timeout;
          if (call->late && limit.disk) note_debt(*limit.disk);
          return call->late;
        },
        [] {});
    if (call->late) throw IoError(limit.failure);
  } catch (...) {
    const std::lock_guard lock(call->mutex);
    call->abandoned = true;
    if (call->result) too_late(*call->result);
    throw;
  }
  if (call->error) std::rethrow_exception(call->error);
  return std::move(*call->result);
}

}  // namespace fastio
