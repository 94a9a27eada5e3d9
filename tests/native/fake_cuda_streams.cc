// The double of the CUDA driver: streams and events, and the thread that runs their operations.
#include <algorithm>

#include "fake_cuda_state.h"

namespace fake_cuda {
namespace {

Address address_of(const void* handle) { return reinterpret_cast<Address>(handle); }

constexpr Address kLegacyStream = 1;  // CU_STREAM_LEGACY

// Whether the stream advanced by one operation; otherwise the time of the next look, if it waits
// for time only.
bool advance(State& state, Stream& stream, Clock::time_point& next) {
  if (stream.operations.empty()) return false;
  Operation& head = stream.operations.front();
  if (head.kind == Operation::Kind::wait) {
    if (!head.point->reached) return false;
    stream.operations.pop_front();
    return true;
  }
  const auto now = Clock::now();
  if (!head.due) {
    std::uniform_int_distribution<unsigned> delay_us(0, state.delay_max_us);
    head.due = now + std::chrono::microseconds(delay_us(state.random));
    begin_copy(head);
  }
  if (now < *head.due) {
    next = std::min(next, *head.due);
    return false;
  }
  execute_copy(state, head);
  head.point->reached = true;
  stream.operations.pop_front();
  return true;
}

void work(State& state) {
  Lock lock(state.mutex);
  while (!state.stopping) {
    auto next = Clock::time_point::max();
    bool moved = false;
    if (!state.held) {
      for (auto& [handle, stream] : state.streams) moved |= advance(state, *stream, next);
    }
    std::erase_if(state.streams, [](const auto& entry) {
      return entry.second->destroyed && entry.second->operations.empty();
    });
    if (moved) {
      state.changed.notify_all();
    } else if (next == Clock::time_point::max()) {
      state.changed.wait(lock);
    } else {
      state.changed.wait_until(lock, next);
    }
  }
}

// A call at the exit returns "driver shutting down", as the driver's own does.
struct AtExit {
  AtExit() = default;
  AtExit(const AtExit&) = delete;
  AtExit& operator=(const AtExit&) = delete;
  ~AtExit() {
    State& now = state();
    {
      const Lock lock(now.mutex);
      now.ended = true;
      now.stopping = true;
      now.changed.notify_all();
    }
    if (now.worker.joinable()) now.worker.join();
  }
};
const AtExit at_exit;

// A live event; one of another context only if the call permits it.
Event* find_event(State& state, void* handle) {
  const auto found = state.events.find(address_of(handle));
  if (found == state.events.end()) {
    state.violated("an event was used that does not live");
    return nullptr;
  }
  return &found->second;
}

Event* find_event(State& state, void* handle, int device) {
  Event* event = find_event(state, handle);
  return event != nullptr && event->device == device ? event : nullptr;
}

std::shared_ptr<Point> last_point(State& state, Stream& stream) {
  Operation mark{Operation::Kind::record, std::make_shared<Point>()};
  auto point = mark.point;
  put(state, stream, std::move(mark));
  return point;
}

}  // namespace

std::shared_ptr<Stream> make_stream(State& state, int device) {
  auto stream = std::make_shared<Stream>();
  stream->device = device;
  stream->handle = state.fresh_handle();
  state.streams[address_of(stream->handle)] = stream;
  return stream;
}

std::shared_ptr<Stream> default_stream(State& state, int device) {
  auto& made = state.defaults.at(static_cast<std::size_t>(device));
  if (made == nullptr) {
    made = make_stream(state, device);
    made->counted = false;
  }
  return made;
}

std::shared_ptr<Stream> any_stream(State& state, Address stream) {
  const auto found = state.streams.find(stream);
  if (found != state.streams.end() && !found->second->destroyed) return found->second;
  state.violated("a stream was used that does not live");
  return nullptr;
}

std::shared_ptr<Stream> find_stream(State& state, Address stream, int device) {
  if (stream == 0 || stream == kLegacyStream) return default_stream(state, device);
  auto found = any_stream(state, stream);
  return found != nullptr && found->device == device ? found : nullptr;
}

void put(State& state, Stream& stream, Operation operation) {
  if (!state.worker.joinable()) state.worker = std::thread([&state] { work(state); });
  stream.operations.push_back(std::move(operation));
  state.changed.notify_all();
}

int wait_for(State& state, Lock& lock, const Point& point, int device) {
  state.changed.wait(lock, [&] { return point.reached || state.stopping; });
  if (state.ended) return kDeinitialized;
  return state.contexts.at(static_cast<std::size_t>(device)).lost;
}

void drop_pending(State& state, int device) {
  for (auto& [handle, stream] : state.streams) {
    if (stream->device != device) continue;
    for (Operation& operation : stream->operations) {
      if (operation.kind != Operation::Kind::wait) operation.point->reached = true;
    }
    stream->operations.clear();
  }
  state.changed.notify_all();
}

void release_holds(State& state, Stream& stream) {
  for (const auto& point : stream.holds) point->reached = true;
  stream.holds.clear();
  state.changed.notify_all();
}

extern "C" {

// ---- streams ----

FAKE_CUDA_EXPORT int cuStreamCreate(void** stream, unsigned) {
  return call("cuStreamCreate", Needs::context, [&](State& state, Lock&, int device) {
    *stream = make_stream(state, device)->handle;
    return kSuccess;
  });
}

// Its pending operations still happen.
FAKE_CUDA_EXPORT int cuStreamDestroy_v2(void* stream) {
  return call("cuStreamDestroy_v2", Needs::release, [&](State& state, Lock&, int device) {
    const auto destroyed = find_stream(state, address_of(stream), device);
    if (destroyed == nullptr || !destroyed->counted) return kInvalidHandle;
    destroyed->destroyed = true;
    if (destroyed->operations.empty()) state.streams.erase(address_of(stream));
    return kSuccess;
  });
}

FAKE_CUDA_EXPORT int cuStreamWaitEvent(void* stream, void* event, unsigned flags) {
  return call("cuStreamWaitEvent", Needs::context, [&](State& state, Lock&, int device) {
    if (flags != 0) return kInvalidValue;
    const auto waiting = find_stream(state, address_of(stream), device);
    const Event* awaited = find_event(state, event);  // of whichever device
    if (waiting == nullptr || awaited == nullptr) return kInvalidHandle;
    if (awaited->latest != nullptr) put(state, *waiting, {Operation::Kind::wait, awaited->latest});
    return kSuccess;
  });
}

FAKE_CUDA_EXPORT int cuStreamSynchronize(void* stream) {
  return call("cuStreamSynchronize", Needs::context,
              [&](State& state, Lock& lock, int device) -> int {
                const auto awaited = find_stream(state, address_of(stream), device);
                if (awaited == nullptr) return kInvalidHandle;
                return wait_for(state, lock, *last_point(state, *awaited), device);
              });
}

FAKE_CUDA_EXPORT int cuCtxSynchronize() {
  return call("cuCtxSynchronize", Needs::context, [&](State& state, Lock& lock, int device) -> int {
    state.violated("a whole device was waited for");
    std::vector<std::shared_ptr<Point>> points;
    for (auto& [handle, stream] : state.streams) {
      if (stream->device == device) points.push_back(last_point(state, *stream));
    }
    int result = kSuccess;
    for (const auto& point : points) result = wait_for(state, lock, *point, device);
    return result;
  });
}

// ---- events ----

FAKE_CUDA_EXPORT int cuEventCreate(void** event, unsigned) {
  return call("cuEventCreate", Needs::context, [&](State& state, Lock&, int device) {
    *event = state.fresh_handle();
    state.events[address_of(*event)] = {device, nullptr};
    return kSuccess;
  });
}

FAKE_CUDA_EXPORT int cuEventDestroy_v2(void* event) {
  return call("cuEventDestroy_v2", Needs::release, [&](State& state, Lock&, int device) {
    if (find_event(state, event, device) == nullptr) return kInvalidHandle;
    state.events.erase(address_of(event));
    return kSuccess;
  });
}

FAKE_CUDA_EXPORT int cuEventRecord(void* event, void* stream) {
  return call("cuEventRecord", Needs::context, [&](State& state, Lock&, int device) {
    const auto recorded = find_stream(state, address_of(stream), device);
    Event* found = find_event(state, event, device);
    if (recorded == nullptr || found == nullptr) return kInvalidHandle;
    found->latest = last_point(state, *recorded);
    return kSuccess;
  });
}

FAKE_CUDA_EXPORT int cuEventQuery(void* event) {
  return call("cuEventQuery", Needs::context, [&](State& state, Lock&, int device) {
    const Event* asked = find_event(state, event, device);
    if (asked == nullptr) return kInvalidHandle;
    return asked->latest == nullptr || asked->latest->reached ? kSuccess : kNotReady;
  });
}

FAKE_CUDA_EXPORT int cuEventSynchronize(void* event) {
  return call("cuEventSynchronize", Needs::context,
              [&](State& state, Lock& lock, int device) -> int {
                const Event* awaited = find_event(state, event, device);
                if (awaited == nullptr) return kInvalidHandle;
                const auto latest = awaited->latest;  // another record may follow meanwhile
                if (latest == nullptr) return kSuccess;
                return wait_for(state, lock, *latest, device);
              });
}

}  // extern "C"

}  // namespace fake_cuda
