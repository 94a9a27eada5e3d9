#include "replica.h"

#include <cerrno>

namespace fastio {

Failure ended_early(const Feed& feed, std::uint64_t end, std::uint64_t expected_end) {
  return Failure{ENODATA, "read", feed.path(), end,
                 "nothing came from here on, and bytes up to " + std::to_string(expected_end) +
                     " were expected"};
}

}  // namespace fastio
