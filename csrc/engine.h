// An engine submits reads and writes and waits for completions. One belongs to one lane and is used
// by its thread alone.
//
// engine_uring.cc (a ring), engine_pread.cc (threads), engine_choice.cc (which one, found by
// trying), and engine_faults.h: the seam at the completion queue, for tests.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace fastio {

class Feed;

enum class Operation : std::uint8_t { read, write };

struct IoRequest {
  int fd = -1;
  std::uint64_t offset = 0;
  std::byte* data = nullptr;  // a write leaves it as it is
  std::uint32_t nbytes = 0;
  std::uint32_t tag = 0;  // below the queue depth, one request at a time
  Operation operation = Operation::read;
  Feed* feed = nullptr;  // a read of it, and of no descriptor; only threads serve these
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

}  // namespace fastio
