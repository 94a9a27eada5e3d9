#include "checksum.h"

namespace fastio {

// One translation unit a variant, each with its own compiler flags.
std::uint64_t xxh3_64_portable(const void* data, std::size_t nbytes);
#ifdef FASTIO_HAVE_AVX2
std::uint64_t xxh3_64_avx2(const void* data, std::size_t nbytes);
#endif

namespace {

struct Variant {
  const char* name;
  std::uint64_t (*hash)(const void*, std::size_t);
};

Variant choose_variant() {
#ifdef FASTIO_HAVE_AVX2
  if (__builtin_cpu_supports("avx2") != 0) return {"avx2", xxh3_64_avx2};
#endif
  return {"portable", xxh3_64_portable};
}

const Variant& variant() {
  static const Variant chosen = choose_variant();
  return chosen;
}

}  // namespace

std::uint64_t xxh3_64(std::span<const std::byte> data) {
  return variant().hash(data.data(), data.size());
}

const char* checksum_variant() { return variant().name; }

}  // namespace fastio
