#include "error.h"

#include <cerrno>
#include <cstring>
#include <utility>

namespace fastio {

int last_error() { return errno; }

std::string text_of_error(int error) {
  const char* text = strerrordesc_np(error);
  return text != nullptr ? text : "unknown error";
}

std::string describe_error(int error) {
  const char* name = strerrorname_np(error);
  return std::string(name != nullptr ? name : std::to_string(error)) + " (" + text_of_error(error) +
         ")";
}

std::string Failure::message() const {
  std::string text = operation + " failed";
  if (!path.empty()) text += ": " + path;
  if (offset) text += " at offset " + std::to_string(*offset);
  if (kind != Kind::device) text += ": " + describe_error(error);
  if (asked_bytes != 0) text += ": " + std::to_string(asked_bytes) + " bytes were asked for";
  if (!detail.empty()) text += ": " + detail;
  return text;
}

std::uint64_t asked_of(const std::bad_alloc& error) {
  const auto* known = dynamic_cast<const OutOfMemory*>(&error);
  return known != nullptr ? known->asked_bytes : 0;
}

IoError concerning(const std::string& path, Failure::Kind kind, const IoError& error) {
  Failure failure = error.failure();
  if (!failure.path.empty()) return error;
  failure.path = path;
  failure.kind = kind;
  return IoError(std::move(failure));
}

MemoryLimitExceeded::MemoryLimitExceeded(std::uint64_t asked, std::uint64_t limit,
                                         std::uint64_t held)
    : std::runtime_error("memory limit exceeded"),
      asked_bytes(asked),
      limit_bytes(limit),
      held_bytes(held) {}

void throw_last_error(std::string operation, std::string path,
                      std::optional<std::uint64_t> offset) {
  throw IoError(Failure{last_error(), std::move(operation), std::move(path), offset, {}});
}

}  // namespace fastio
