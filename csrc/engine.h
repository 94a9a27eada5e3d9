// An engine submits reads and writes and waits for completions. One belongs to one lane and is used
// by its thread alone.
//
// engine_uring.cc (a ring), engine_pread.cc (threads), engine_choice.cc (which one, found by
// trying), and engine_faults.cc: the seam at the completion queue where tests put what devices do
// once in a million reads.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace fastio {

enum class Operation : std::uint8_t { read, write };

struct IoRequest {
  int fd = -1;
  std::uint64_t offset = 0;
  std::byte* data = nullptr;  // a write leaves it as it is
  std::uint32_t nbytes = 0;
  std::uint32_t tag = 0;  // below the queue depth, one request at a time
  Operation operation = Operation::read;
};

struct Completion {
  std::uint32_t tag = 0;
  std::int32_t result = 0;  // bytes read or written, or -errno
};

class Engine {
 public:
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Requires that nothing is in flight: memory under a read must not be freed, so the lane waits
  // first.
  virtual ~Engine() = default;

  // Never more in flight than the queue depth. A request that cannot be submitted comes back as a
  // failed completion.
  virtual void submit(std::span<const IoRequest> requests) = 0;

  // Takes what has completed; waits up to `timeout` for the first. Zero only after the timeout.
  virtual std::size_t wait(std::span<Completion> completions,
                           std::chrono::milliseconds timeout) = 0;
};

enum class EngineKind { uring, pread };
enum class EnginePreference { automatic, uring, pread };

[[nodiscard]] const char* name_of(EngineKind kind);

// The result of trying it, once per process.
struct EngineStatus {
  EngineKind kind = EngineKind::pread;
  bool available = false;
  std::string reason;                 // why, or why not
  std::vector<std::string> features;  // beyond plain reads, each with why not where it is missing
};

[[nodiscard]] const EngineStatus& uring_status();
// False where liburing was missing when this was compiled.
[[nodiscard]] bool uring_is_built();
[[nodiscard]] const EngineStatus& pread_status();

// The engines of one job, all of one kind.
struct EngineSet {
  EngineKind kind = EngineKind::pread;
  std::string reason;
  std::vector<std::unique_ptr<Engine>> engines;
};

// Makes `count` engines. With `automatic`, a ring that the kernel refuses now (a limit, a filter)
// leads to preadv threads and the reason says so; with `uring` it throws IoError.
[[nodiscard]] EngineSet make_engines(EnginePreference preference, std::size_t count,
                                     unsigned queue_depth);

// The factories behind it. Throw IoError.
[[nodiscard]] std::unique_ptr<Engine> make_uring_engine(unsigned queue_depth);
[[nodiscard]] std::unique_ptr<Engine> make_pread_engine(unsigned queue_depth);
[[nodiscard]] EngineStatus probe_uring();

// ---- the seam ----

enum class FaultKind {
  error,    // the result is -value; what was read is overwritten, what was written is gone
  cut,      // the result is at most `value` bytes; what lies behind is overwritten, or gone
  zero,     // the result is 0: the end of the file
  flip,     // a bit of byte `value` is flipped, the result stays; reads only
  change,   // a bit of byte `value` of the memory changes before the device reads it; writes only
  waver,    // the same, and it changes back before the completion comes
  late,     // comes `value` milliseconds late
  reorder,  // comes after the next completion of its engine
  never,    // is held until release_held_completions()
  kill,     // the process is killed
};

struct Fault {
  // The completion it applies to, counted over all engines since the faults were set.
  std::uint64_t at = 0;
  FaultKind kind = FaultKind::error;
  std::int64_t value = 0;
};

// Applies to engines that are made from now on, in this process. Empty: none. For tests.
void set_completion_faults(std::vector<Fault> faults);
void release_held_completions();
[[nodiscard]] std::uint64_t held_completions();  // how many wait for that
[[nodiscard]] bool completion_faults_set();
[[nodiscard]] std::unique_ptr<Engine> with_completion_faults(std::unique_ptr<Engine> engine,
                                                             unsigned queue_depth);

}  // namespace fastio
