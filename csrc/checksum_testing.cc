// XXH3-128: a second algorithm, with which tests see that one fits. Wheels have none of it.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstddef>
#include <cstring>
#include <span>

namespace fastio {

void xxh3_128_portable(std::span<const std::byte> data, std::byte* out);
void xxh3_128_portable(std::span<const std::byte> data, std::byte* out) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(data.data(), data.size()));
  std::memcpy(out, canonical.digest, sizeof canonical.digest);
}

}  // namespace fastio
