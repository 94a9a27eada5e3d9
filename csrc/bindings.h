// The Python boundary: convert arguments, release the GIL, raise the right exception. One register function a
// concept; nothing here moves bytes.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <memory>

#include "error.h"
#include "loader.h"

namespace fastio {

void register_errors();
void register_files(pybind11::module_& module);
void register_checksums(pybind11::module_& module);
void register_columns(pybind11::module_& module);
void register_engines(pybind11::module_& module);
void register_loading(pybind11::module_& module);

// What load() gives back: regions and which extent of them each tensor is.
class Loaded;
void register_tensors(pybind11::class_<Loaded, std::shared_ptr<Loaded>>& loaded);

// Raises the Python exception for a failed operation.
[[noreturn]] void raise_failure(const Failure& failure);

// Waits with the GIL released until done(timeout) says true, and runs Python's signal handlers in between, so
// that Ctrl-C is answered at once. Throws what a handler raised. `tick` is called with the GIL held.
template <typename Done, typename Tick>
void wait_for_python(Done&& done, Tick&& tick) {
  constexpr std::chrono::milliseconds kTurn{20};
  for (;;) {
    bool finished = false;
    {
      const pybind11::gil_scoped_release release;
      finished = done(kTurn);
    }
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
    tick();
    if (finished) return;
  }
}

}  // namespace fastio
