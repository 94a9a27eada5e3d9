#include "replica.h"

#include <cerrno>

namespace fastio {

Failure Replica::ended_early(std::uint64_t end, std::uint64_t expected_end) const {
  if (file_) return fastio::ended_early(*file_, end, expected_end);
  return Failure{ENODATA, "read", path(), end,
                 "nothing came from here on, and bytes up to " + std::to_string(expected_end) +
                     " were expected"};
}

}  // namespace fastio
