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
  if (!detail.empty()) text += ": " + detail;
  return text;
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
