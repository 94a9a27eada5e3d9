// The state of the double of the CUDA driver, under one lock, and the common start of its calls.
// Contexts are in fake_cuda.cc, streams and events in fake_cuda_streams.cc, memory in
// fake_cuda_memory.cc, controls for tests in fake_cuda_control.cc.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "fake_cuda.h"

namespace fake_cuda {

// CUresult, of cuda.h.
enum Result : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kDeinitialized = 4,
  kInvalidDevice = 101,
  kInvalidContext = 201,
  kInvalidHandle = 400,
  kNotReady = 600,
  kAlreadyRegistered = 712,
  kNotRegistered = 713,
};

constexpr int kDevices = 2;
constexpr int kPoison = 0xDB;

using Clock = std::chrono::steady_clock;
using Address = std::uintptr_t;

// Reached once, and then for good.
struct Point {
  bool reached = false;
};

struct Operation {
  enum class Kind { copy_in, copy_out, fill, record, wait };

  Kind kind;
  std::shared_ptr<Point> point;  // the one that it records, or waits for
  std::byte* to = nullptr;
  const std::byte* from = nullptr;
  std::size_t nbytes = 0;
  int value = 0;                               // of a fill
  std::optional<std::uint64_t> source_hash{};  // the time of the call
  bool touches_nothing = false;                // its memory is freed
  std::optional<Clock::time_point> due{};      // set when it is at the head

  [[nodiscard]] bool is_copy() const { return kind == Kind::copy_in || kind == Kind::copy_out; }
};

struct Stream {
  int device = 0;
  void* handle = nullptr;
  bool counted = true;  // made by the tested code, not by the test
  bool destroyed = false;
  std::deque<Operation> operations;
  std::vector<std::shared_ptr<Point>> holds;
};

struct Event {
  int device = 0;
  std::shared_ptr<Point> latest;  // record
};

struct Context {
  bool of_framework = false;
  int retained = 0;
  int lost = kSuccess;
  std::string bus_id;

  [[nodiscard]] bool active() const { return of_framework || retained > 0; }
};

struct HostMemory {
  std::byte* data = nullptr;
  std::size_t nbytes = 0;
  bool of_driver = false;
};

struct DeviceMemory {
  std::byte* data = nullptr;
  std::size_t nbytes = 0;
  int device = 0;
};

struct Fault {
  std::string name;
  int calls_left = 0;
  int code = 0;
  bool loses_device = false;
};

struct State {
  std::mutex mutex;
  std::condition_variable changed;

  bool initialised = false, ended = false, held = false;
  std::array<Context, kDevices> contexts;
  std::map<Address, std::shared_ptr<Stream>> streams;
  std::array<std::shared_ptr<Stream>, kDevices> defaults;
  std::map<Address, Event> events;
  std::map<Address, HostMemory> host;
  std::map<Address, DeviceMemory> device;
  std::deque<char> handles;  // one per object, never reused: a stale handle is recognised
  std::uint64_t resets = 0;

  int version = 0;
  std::uint64_t device_bytes = 0;
  unsigned delay_max_us = 0;
  int refuse_registration = 0, refuse_host_allocation = 0;
  std::vector<Fault> faults;
  std::mt19937_64 random;

  int violations = 0;
  std::string first_violation;
  std::map<std::string, int, std::less<>> calls;
  std::uint64_t copies_executed = 0, bytes_in = 0, bytes_out = 0;

  std::thread worker;
  bool stopping = false;

  State();
  void clear();
  void violated(std::string text);
  void* fresh_handle() { return &handles.emplace_back(); }
};

using Lock = std::unique_lock<std::mutex>;

State& state();  // of this process
// Whether this process was forked off one that had initialised the driver.
bool is_forked_off();
bool initialise(State& state);

// Of the calling thread. Has no destructor: contexts are pushed until the very end of a process.
struct ContextStack {
  std::array<int, 16> devices{};
  std::size_t depth = 0;
  std::uint64_t resets = 0;

  [[nodiscard]] int current() const { return depth == 0 ? -1 : devices.at(depth - 1); }
};
ContextStack& current_contexts(const State& state);

std::string_view plain_name(std::string_view name);  // without "_v2"

// ---- the start of a call ----

enum class Needs { nothing, driver, context, release };

// The device whose context is current, or the error that the call returns.
int begin(State& state, const char* name, Needs needs, int& device);

template <typename Body>
int call(const char* name, Needs needs, Body&& body) {
  State& now = state();
  Lock lock(now.mutex);
  int device = -1;
  try {
    const int refused = begin(now, name, needs, device);
    return refused != kSuccess ? refused : body(now, lock, device);
  } catch (const std::bad_alloc&) {  // in an executable whose operator new fails on purpose
    return kOutOfMemory;
  }
}

// ---- streams ----

std::shared_ptr<Stream> make_stream(State& state, int device);
std::shared_ptr<Stream> default_stream(State& state, int device);
// Null if this device has no such stream.
std::shared_ptr<Stream> find_stream(State& state, Address stream, int device);
std::shared_ptr<Stream> any_stream(State& state, Address stream);
void put(State& state, Stream& stream, Operation operation);
int wait_for(State& state, Lock& lock, const Point& point, int device);
// No pending operation of the device happens any more.
void drop_pending(State& state, int device);
void release_holds(State& state, Stream& stream);

// ---- memory ----

// The allocation of this device that has the whole range, as a pointer to the start of the range;
// null if there is none.
std::byte* in_device(State& state, int device, Address address, std::size_t nbytes);
void begin_copy(const Operation& operation);
void execute_copy(State& state, const Operation& operation);
int allocate(State& state, int device, std::size_t nbytes, Address& address);
int free_device(State& state, Address address);
void free_everything(State& state);

}  // namespace fake_cuda
