// Chunk checksums: XXH3-64 with seed 0, the fastest code that this processor has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace fastio {

[[nodiscard]] std::uint64_t xxh3_64(std::span<const std::byte> data);

// The variant in use, for reports: "avx2" or "portable".
[[nodiscard]] const char* checksum_variant();

}  // namespace fastio
