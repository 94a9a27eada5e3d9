// XXH3-64 with what every processor of this architecture has (SSE2, NEON).
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstddef>
#include <cstdint>

namespace fastio {

std::uint64_t xxh3_64_portable(const void* data, std::size_t nbytes);
std::uint64_t xxh3_64_portable(const void* data, std::size_t nbytes) {
  return XXH3_64bits(data, nbytes);
}

}  // namespace fastio
