#include "populate.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <utility>
#include <vector>

namespace fastio {
namespace {

// The same number on every architecture; older headers lack it (linux/mman.h).
constexpr int kPopulateRead = 22;
constexpr std::uint64_t kPieceBytes = std::uint64_t{64} << 10;

// 0, or an errno value.
int bring_in(const Region& region, std::uint64_t begin, std::uint64_t end) {
  const std::uint64_t page = begin / page_bytes() * page_bytes();
  return madvise(region.at(page), end - page, kPopulateRead) == 0 ? 0 : last_error();
}

bool try_to_populate() {
  const std::size_t nbytes = page_bytes();
  void* page = mmap(nullptr, nbytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return false;
  const bool populated = madvise(page, nbytes, kPopulateRead) == 0;
  munmap(page, nbytes);
  return populated;
}

// Why the bytes [begin, end) cannot be read; nothing if they can.
std::optional<Failure> ask_file(const File& file, std::uint64_t begin, std::uint64_t end) {
  std::vector<std::byte> piece(std::min(kPieceBytes, end - begin));
  for (std::uint64_t at = begin; at < end; at += piece.size()) {
    try {
      file.read(at, std::span(piece).first(std::min<std::uint64_t>(piece.size(), end - at)));
    } catch (const IoError& error) {
      const Failure& failure = error.failure();
      if (failure.error == ENODATA) return ended_early(file, failure.offset.value_or(at), end);
      return failure;
    }
  }
  return std::nullopt;
}

}  // namespace

bool can_populate() {
  static const bool can = try_to_populate();
  return can;
}

std::optional<Failure> populate(const File& file, const Region& region, std::uint64_t begin,
                                std::uint64_t end) {
  if (!can_populate() || begin == end) return std::nullopt;
  if (bring_in(region, begin, end) != 0) {
    if (auto failure = ask_file(file, begin, end)) return failure;
    // All of it was read: the failure has passed, or is one of memory.
    if (const int error = bring_in(region, begin, end); error != 0)
      return Failure{error, "read from a mapping", file.path(), begin, {}};
  }
  // What was cut off inside the last page reads as zeros there.
  if (file.current_nbytes() < end) return ended_early(file, end, end);
  return std::nullopt;
}

}  // namespace fastio
