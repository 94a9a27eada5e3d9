#include "origins.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

namespace fastio {
namespace {

void swap_values(std::byte* data, std::uint64_t nbytes, std::uint8_t value_bytes) {
  for (std::byte* value = data; value < data + nbytes; value += value_bytes) {
    std::reverse(value, value + value_bytes);
  }
}

}  // namespace

void Origins::check() const {
  if (memories.size() != extents.size() || swapped.size() != extents.size())
    throw std::invalid_argument("memory is needed for each extent");
  if (!devices.empty() && devices.size() != extents.size())
    throw std::invalid_argument("a device is needed for each extent, or for none");
  for (std::size_t i = 0; i < extents.size(); ++i) {
    if (extents[i].end < extents[i].begin || (i > 0 && extents[i].begin != extents[i - 1].end))
      throw std::invalid_argument("extents must follow each other without holes");
    if (!std::has_single_bit(swapped[i]) || swapped[i] > 16 ||
        (extents[i].begin - extents.front().begin) % swapped[i] != 0 ||
        (extents[i].end - extents[i].begin) % swapped[i] != 0 || (swapped[i] != 1 && !on_host(i))) {
      throw std::invalid_argument("values that are swapped must lie at multiples of their size");
    }
  }
}

Extent Origins::range() const {
  return extents.empty() ? Extent{} : Extent{extents.front().begin, extents.back().end};
}

void Origins::gather(const Extent& range, std::byte* out) const {
  each_part(extents, range, [&](std::size_t i, std::uint64_t begin, std::uint64_t end) {
    if (!on_host(i)) return;
    std::byte* const place = out + (begin - range.begin);
    memories[i].take(begin - extents[i].begin, {place, end - begin});
    if (swapped[i] > 1) swap_values(place, end - begin, swapped[i]);
  });
}

std::byte* Origins::contiguous(const Extent& range) const {
  std::byte* found = nullptr;
  each_part(extents, range, [&](std::size_t i, std::uint64_t begin, std::uint64_t end) {
    std::byte* const data = memories[i].contiguous();
    const bool whole = begin == range.begin && end == range.end;
    if (whole && on_host(i) && data != nullptr && swapped[i] == 1)
      found = data + (begin - extents[i].begin);
  });
  return found;
}

void gather(const Origins& origins, std::span<std::byte> out) {
  origins.check();
  const Extent all = origins.range();
  if (out.size() != all.end - all.begin) throw std::invalid_argument("out has another size");
  origins.gather(all, out.data());
}

}  // namespace fastio
