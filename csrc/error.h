// Failures, as values and as exceptions. The one place that reads errno.
//
// Set-up and the Python boundary throw IoError; completions carry Failure values, because an error
// must never unwind through a lane. Everything here is immutable after construction and safe to
// share between threads.
#pragma once

#include <cstdint>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>

namespace fastio {

// One failed operation on one file or device: which call, where, and what the kernel or the driver
// said.
struct Failure {
  enum class Kind { read, write, device };

  int error = 0;                        // an errno value; of a device its driver's code
  std::string operation;                // the call or step, "open", "read", "mmap"
  std::string path;                     // or the device, "cuda:0"; empty where none is concerned
  std::optional<std::uint64_t> offset;  // in bytes from the start of the file
  std::string detail;                   // details beyond strerror, such as what was expected
  Kind kind = Kind::read;
  std::uint64_t asked_bytes = 0;  // of memory, where there was none; 0: not known

  [[nodiscard]] std::string message() const;
};

class IoError : public std::runtime_error {
 public:
  explicit IoError(Failure failure)
      : std::runtime_error(failure.message()), failure_(std::move(failure)) {}
  [[nodiscard]] const Failure& failure() const { return failure_; }

 private:
  Failure failure_;
};

// Memory that the system did not give, with how much was asked for.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::uint64_t asked) : asked_bytes(asked) {}
  std::uint64_t asked_bytes;
};

// Of whatever allocation; 0 where it does not say.
[[nodiscard]] std::uint64_t asked_of(const std::bad_alloc& error);

// More memory was asked for than the caller's limit leaves.
class MemoryLimitExceeded : public std::runtime_error {
 public:
  MemoryLimitExceeded(std::uint64_t asked, std::uint64_t limit, std::uint64_t held);
  std::uint64_t asked_bytes, limit_bytes, held_bytes;
};

// The errno of the call that failed last on this thread.
[[nodiscard]] int last_error();

// The text of an errno value: "Input/output error"; and with its name: "EIO (Input/output error)".
[[nodiscard]] std::string text_of_error(int error);
[[nodiscard]] std::string describe_error(int error);

// The same error, of a step that knows no file, as one of the file that it was needed for.
[[nodiscard]] IoError concerning(const std::string& path, Failure::Kind kind, const IoError& error);

// Throws IoError with the errno of the call that has just failed.
[[noreturn]] void throw_last_error(std::string operation, std::string path,
                                   std::optional<std::uint64_t> offset = std::nullopt);

}  // namespace fastio
