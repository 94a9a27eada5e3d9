// The defaults of options, for C++ and for fastio.Options.
#pragma once

#include <cstdint>

namespace fastio {

constexpr std::uint64_t kDefaultBlockBytes = std::uint64_t{4} << 20;
// Of a save they are half as large: one is gathered while others are written (bench/README.md).
constexpr std::uint64_t kSaveBlocksInOne = 2;
// Of a cached file: a lane copies and then verifies a block, which stays in the second-level cache
// of its core meanwhile (bench/README.md).
constexpr std::uint64_t kCachedBlockBytes = std::uint64_t{2} << 20;
constexpr unsigned kDefaultQueueDepth = 8;
constexpr std::uint64_t kDefaultPinnedLimitBytes = std::uint64_t{512} << 20;

}  // namespace fastio
