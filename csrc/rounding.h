// Rounding up to whole units: pages, chunks, blocks.
#pragma once

#include <cstdint>

namespace fastio {

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace fastio
