// Origins: what the bytes of one file come from, tensor by tensor. Pure arithmetic and copies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "device.h"
#include "placement.h"
#include "plan.h"

namespace fastio {

struct Origins {
  std::vector<Extent> extents;      // in the file: ascending, without holes
  std::vector<Placement> memories;  // of each
  // Bytes of each value that is stored the other way round; 1: none is.
  std::vector<std::uint8_t> swapped;
  // Of each: the device it is on, an index of the job's, or kHost; empty: the host's, all of them.
  std::vector<int> devices = {};

  [[nodiscard]] bool on_host(std::size_t i) const { return devices.empty() || devices[i] == kHost; }

  // Throws std::invalid_argument where these do not belong together, or where a value that is
  // swapped may be cut: ranges are gathered that begin at multiples of 64 KiB behind the first
  // byte.
  void check() const;

  // All of it, from the first byte to the one behind the last.
  [[nodiscard]] Extent range() const;

  // Fills `out` with the bytes [range.begin, range.end) of the file, but for those that are on
  // devices.
  void gather(const Extent& range, std::byte* out) const;

  // Where these bytes lie on the host if they lie one behind the other, as they are in the file;
  // else null.
  [[nodiscard]] std::byte* contiguous(const Extent& range) const;
};

// Puts all bytes one behind the other; throws std::invalid_argument where `out` has not that size.
void gather(const Origins& origins, std::span<std::byte> out);

}  // namespace fastio
