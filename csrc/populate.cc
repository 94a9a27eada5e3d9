#include "populate.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

#include "rounding.h"

namespace fastio {
namespace {

// The same number on every architecture; older headers lack it (linux/mman.h).
constexpr int kPopulateRead = 22;
constexpr std::uint64_t kPieceBytes = std::uint64_t{64} << 10;
// Each lane that brings in a part of the same huge page may have made it once more.
constexpr unsigned kTries = 4;

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

// Why the bytes [begin, end) cannot be read from the disk; nothing if they can.
std::optional<Failure> ask_disk(File& file, std::uint64_t begin, std::uint64_t end) {
  const DirectAccess direct = file.direct_access();
  const int fd = direct.possible ? file.direct_fd() : file.buffered_fd();
  const std::uint64_t unit = direct.possible ? direct.alignment : 1;
  if (!direct.possible) file.drop_cached(begin, end);
  const auto memory = Region::allocate(0, kPieceBytes, HugePages::off);
  std::uint64_t at = begin / unit * unit;
  while (at < end) {
    const ssize_t got = pread(fd, memory->at(0), kPieceBytes, static_cast<off_t>(at));
    const int error = got < 0 ? last_error() : 0;
    if (error == EINTR) continue;
    if (error == EINVAL && direct.possible) {
      file.forbid_direct("a direct read was refused with EINVAL");
      return ask_disk(file, begin, end);
    }
    if (error != 0) return Failure{error, "read", file.path(), std::max(at, begin), {}};
    const std::uint64_t reached = at + static_cast<std::uint64_t>(got);
    if (reached >= end) break;
    // Asked, because direct I/O never gets to the end of a file that shrank inside a unit.
    if (reached / unit * unit == at || file.current_nbytes() <= reached)
      return ended_early(file, reached, end);
    at = reached / unit * unit;
  }
  return std::nullopt;
}

}  // namespace

bool can_populate() {
  static const bool can = try_to_populate();
  return can;
}

std::optional<Failure> populate(File& file, const Region& region, std::uint64_t begin,
                                std::uint64_t end) {
  if (!can_populate() || begin == end) return std::nullopt;
  int error = bring_in(region, begin, end);
  if (error != 0) {
    if (auto failure = ask_disk(file, begin, end)) return failure;
    // The bytes are there. Some others of a huge page may not be, and make all of it unreadable.
    const std::uint64_t from = begin / kHugePageBytes * kHugePageBytes;
    const std::uint64_t to = round_up(end, kHugePageBytes);
    region.ask_for_single_pages(std::max(from, region.file_offset()),
                                std::min(to, region.file_offset() + region.nbytes()));
    for (unsigned tried = 0; tried < kTries && error != 0; ++tried) {
      file.drop_cached(from, to);
      error = bring_in(region, begin, end);
    }
    if (error != 0) return Failure{error, "read from a mapping", file.path(), begin, {}};
  }
  // Bytes that were cut off inside the last page read as zeros there.
  if (file.current_nbytes() < end) return ended_early(file, end, end);
  return std::nullopt;
}

}  // namespace fastio
