// The double of the CUDA driver: the functions by which a test controls and inspects it.
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "fake_cuda_state.h"

namespace fake_cuda {
namespace {

template <typename Body>
auto with_state(Body&& body) {
  State& now = state();
  const Lock lock(now.mutex);
  return body(now);
}

Context& context_of(State& state, int ordinal) {
  return state.contexts.at(static_cast<std::size_t>(ordinal));
}

std::byte* on_any_device(State& state, Address address, std::size_t nbytes) {
  for (int device = 0; device < kDevices; ++device) {
    if (std::byte* data = in_device(state, device, address, nbytes)) return data;
  }
  state.violated("a test looked outside of device memory");
  return nullptr;
}

}  // namespace

// Each process counts resets from another number: a child's thread begins with the contexts that
// were current in its parent's.
State::State() : resets(static_cast<std::uint64_t>(getpid()) << 32U) {
  contexts[0].bus_id = "0000:17:00.0";
  contexts[1].bus_id = "0000:CA:00.0";
  clear();
}

void State::clear() {
  version = 12040;
  device_bytes = std::uint64_t{1} << 30U;
  delay_max_us = 2000;
  random.seed(0);
  refuse_registration = refuse_host_allocation = kSuccess;
  faults.clear();
  for (Context& context : contexts) context.lost = kSuccess;
  held = false;
  for (auto& [handle, stream] : streams) release_holds(*this, *stream);
  violations = 0;
  first_violation.clear();
  calls.clear();
  copies_executed = bytes_in = bytes_out = 0;
}

void State::violated(std::string text) {
  if (++violations == 1) first_violation = std::move(text);
}

}  // namespace fake_cuda

using namespace fake_cuda;

extern "C" {

// ---- between tests ----

void fake_cuda_reset() {
  with_state([](State& state) {
    for (int device = 0; device < kDevices; ++device) drop_pending(state, device);
    state.streams.clear();
    state.defaults = {};
    state.events.clear();
    free_everything(state);
    for (Context& context : state.contexts) context.of_framework = false, context.retained = 0;
    ++state.resets;
    state.clear();
    state.changed.notify_all();
  });
}

void fake_cuda_clear() {
  with_state([](State& state) { state.clear(); });
}

// ---- the part of a framework ----

int fake_cuda_activate(int ordinal) {
  return with_state([&](State& state) {
    if (state.ended) return kDeinitialized;
    if (!initialise(state)) return kNotInitialized;
    if (ordinal < 0 || ordinal >= kDevices) return kInvalidDevice;
    context_of(state, ordinal).of_framework = true;
    return kSuccess;
  });
}

void fake_cuda_set_current(int ordinal) {
  with_state([&](State& state) {
    ContextStack& contexts = current_contexts(state);
    contexts.depth = ordinal < 0 ? 0 : 1;
    contexts.devices[0] = ordinal;
  });
}

int fake_cuda_current() {
  return with_state([](State& state) { return current_contexts(state).current(); });
}

int fake_cuda_current_depth() {
  return with_state([](State& state) { return static_cast<int>(current_contexts(state).depth); });
}

std::uint64_t fake_cuda_allocate(int ordinal, std::uint64_t nbytes) {
  return with_state([&](State& state) -> std::uint64_t {
    Address address = 0;
    return allocate(state, ordinal, nbytes, address) == kSuccess ? address : 0;
  });
}

void fake_cuda_free(std::uint64_t address) {
  with_state([&](State& state) { free_device(state, address); });
}

void fake_cuda_read(void* to, std::uint64_t from, std::uint64_t nbytes) {
  with_state([&](State& state) {
    const std::byte* data = on_any_device(state, from, nbytes);
    if (data != nullptr) std::memcpy(to, data, nbytes);
  });
}

void fake_cuda_write(std::uint64_t to, const void* from, std::uint64_t nbytes) {
  with_state([&](State& state) {
    std::byte* data = on_any_device(state, to, nbytes);
    if (data != nullptr) std::memcpy(data, from, nbytes);
  });
}

std::uintptr_t fake_cuda_make_stream(int ordinal) {
  return with_state([&](State& state) {
    const auto stream = make_stream(state, ordinal);
    stream->counted = false;
    return reinterpret_cast<std::uintptr_t>(stream->handle);
  });
}

std::uintptr_t fake_cuda_default_stream(int ordinal) {
  return with_state([&](State& state) {
    return reinterpret_cast<std::uintptr_t>(default_stream(state, ordinal)->handle);
  });
}

void fake_cuda_fill(std::uintptr_t stream, std::uint64_t address, int value, std::uint64_t nbytes) {
  with_state([&](State& state) {
    const auto into = any_stream(state, stream);
    if (into == nullptr) return;
    std::byte* data = in_device(state, into->device, address, nbytes);
    if (data == nullptr) return state.violated("a fill is not within one allocation of its device");
    put(state, *into,
        {Operation::Kind::fill, std::make_shared<Point>(), data, nullptr, nbytes, value});
  });
}

// ---- properties of the driver ----

void fake_cuda_set_version(int version) {
  with_state([&](State& state) { state.version = version; });
}

void fake_cuda_set_bus_id(int ordinal, const char* text) {
  with_state([&](State& state) { context_of(state, ordinal).bus_id = text; });
}

void fake_cuda_set_device_bytes(std::uint64_t nbytes) {
  with_state([&](State& state) { state.device_bytes = nbytes; });
}

void fake_cuda_set_delay(unsigned max_us, std::uint64_t seed) {
  with_state([&](State& state) {
    state.delay_max_us = max_us;
    state.random.seed(seed);
  });
}

// ---- faults ----

void fake_cuda_fail(const char* name, int nth, int code, int lost) {
  with_state([&](State& state) {
    state.faults.push_back({std::string(plain_name(name)), nth, code, lost != 0});
  });
}

void fake_cuda_refuse_registration(int code) {
  with_state([&](State& state) { state.refuse_registration = code; });
}

void fake_cuda_refuse_host_allocation(int code) {
  with_state([&](State& state) { state.refuse_host_allocation = code; });
}

void fake_cuda_hold_stream(std::uintptr_t stream) {
  with_state([&](State& state) {
    const auto held = any_stream(state, stream);
    if (held == nullptr) return;
    const auto point = std::make_shared<Point>();
    held->holds.push_back(point);
    put(state, *held, {Operation::Kind::wait, point});
  });
}

void fake_cuda_release_stream(std::uintptr_t stream) {
  with_state([&](State& state) {
    if (const auto held = any_stream(state, stream)) release_holds(state, *held);
  });
}

void fake_cuda_hold_all(int held) {
  with_state([&](State& state) {
    state.held = held != 0;
    state.changed.notify_all();
  });
}

// ---- records ----

int fake_cuda_violations() {
  return with_state([](State& state) { return state.violations; });
}

const char* fake_cuda_first_violation() {
  return with_state([](State& state) { return state.first_violation.c_str(); });
}

int fake_cuda_calls(const char* name) {
  return with_state([&](State& state) {
    const auto found = state.calls.find(plain_name(name));
    return found != state.calls.end() ? found->second : 0;
  });
}

std::uint64_t fake_cuda_pinned_bytes() {
  return with_state([](State& state) {
    std::uint64_t nbytes = 0;
    for (const auto& [begin, memory] : state.host) nbytes += memory.nbytes;
    return nbytes;
  });
}

std::uint64_t fake_cuda_device_bytes() {
  return with_state([](State& state) {
    std::uint64_t nbytes = 0;
    for (const auto& [begin, memory] : state.device) nbytes += memory.nbytes;
    return nbytes;
  });
}

int fake_cuda_contexts_retained() {
  return with_state([](State& state) {
    int retained = 0;
    for (const Context& context : state.contexts) retained += context.retained;
    return retained;
  });
}

int fake_cuda_streams_alive() {
  return with_state([](State& state) {
    return static_cast<int>(std::ranges::count_if(state.streams, [](const auto& entry) {
      return entry.second->counted && !entry.second->destroyed;
    }));
  });
}

int fake_cuda_events_alive() {
  return with_state([](State& state) { return static_cast<int>(state.events.size()); });
}

std::uint64_t fake_cuda_copies_executed() {
  return with_state([](State& state) { return state.copies_executed; });
}

std::uint64_t fake_cuda_copies_pending() {
  return with_state([](State& state) {
    std::uint64_t pending = 0;
    for (const auto& [handle, stream] : state.streams)
      pending += static_cast<std::uint64_t>(
          std::ranges::count_if(stream->operations, &Operation::is_copy));
    return pending;
  });
}

std::uint64_t fake_cuda_bytes_in() {
  return with_state([](State& state) { return state.bytes_in; });
}

std::uint64_t fake_cuda_bytes_out() {
  return with_state([](State& state) { return state.bytes_out; });
}

}  // extern "C"
