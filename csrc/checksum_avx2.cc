// XXH3-64 with AVX2; compiled with -mavx2, called only where the processor has it.
#define XXH_INLINE_ALL
#define XXH_VECTOR 2  // XXH_AVX2
#include <xxhash.h>

#include <cstddef>
#include <cstdint>

namespace fastio {

std::uint64_t xxh3_64_avx2(const void* data, std::size_t nbytes);
std::uint64_t xxh3_64_avx2(const void* data, std::size_t nbytes) {
  return XXH3_64bits(data, nbytes);
}

}  // namespace fastio
