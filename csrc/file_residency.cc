// Asks the kernel how much of a file is in the page cache, and believes it only where it tells the
// truth.
//
// 1. cachestat (Linux 6.5) is exact and cheap. It is EPERM for users who neither own the file nor
//    may write it. On overlayfs it always answers "nothing": it looks at the overlay's inode, while
//    the pages belong to the file below.
// 2. mincore is right on overlayfs, since a mapping is one of the file below. For users who neither
//    own the file nor may write it, mincore answers "all resident", so they do not ask it.
// 3. Otherwise some bytes are read with RWF_NOWAIT, which succeeds only from the cache. Samples can
//    show that a file is cold or partly cached; if all samples are resident, the file counts as
//    resident.
//
// A refused read brings its page in all the same, so each question samples other places. On a busy
// machine the page may arrive before the kernel looks again, and the read succeeds. The thread's
// count of blocks read from disks tells the two apart (getrusage(2), ru_inblock).
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <random>
#include <string_view>
#include <vector>

#include "error.h"
#include "file.h"

namespace fastio {
namespace {

constexpr long kCachestatSyscall = 451;  // the same number on every architecture
constexpr std::uint64_t kPageBytes = 4096;
constexpr std::uint64_t kSamples = 64;
constexpr std::string_view kOverlay = "overlayfs";  // as file_mount.cc calls it

struct CachestatRange {
  std::uint64_t offset, nbytes;
};

struct Cachestat {
  std::uint64_t cached, dirty, writeback, evicted, recently_evicted;  // pages
};

std::uint64_t page_size() {
  static const auto size = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  return size;
}

// Resident pages as bytes of a range. A range that begins or ends inside a page is all there only
// when all the pages that it touches are.
std::uint64_t bytes_of_range(std::uint64_t pages, std::uint64_t offset, std::uint64_t nbytes) {
  const std::uint64_t page = page_size();
  const std::uint64_t touched = (offset + nbytes - 1) / page - offset / page + 1;
  return pages >= touched ? nbytes : std::min(pages * page, nbytes - 1);
}

std::optional<std::uint64_t> ask_cachestat(int fd, std::uint64_t offset, std::uint64_t nbytes) {
  CachestatRange range{offset, nbytes};
  Cachestat answer{};
  if (syscall(kCachestatSyscall, fd, &range, &answer, 0U) != 0) return std::nullopt;
  return bytes_of_range(answer.cached, offset, nbytes);
}

// The kernel's own condition for a truthful mincore: the owner, CAP_FOWNER, or someone who may
// write the file.
bool mincore_is_truthful(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return false;
  return status.st_uid == geteuid() || geteuid() == 0 ||
         faccessat(fd, "", W_OK, AT_EACCESS | AT_EMPTY_PATH) == 0;
}

std::optional<std::uint64_t> ask_mincore(int fd, std::uint64_t offset, std::uint64_t nbytes) {
  const std::uint64_t page = page_size();
  const std::uint64_t begin = offset / page * page;
  const auto length = static_cast<std::size_t>(offset + nbytes - begin);
  void* mapped = mmap(nullptr, length, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(begin));
  if (mapped == MAP_FAILED) return std::nullopt;
  std::vector<unsigned char> pages((length + page - 1) / page);
  const int answer = mincore(mapped, length, pages.data());
  munmap(mapped, length);
  if (answer != 0) return std::nullopt;
  const auto resident =
      std::count_if(pages.begin(), pages.end(), [](unsigned char p) { return (p & 1U) != 0; });
  return bytes_of_range(static_cast<std::uint64_t>(resident), offset, nbytes);
}

long blocks_read_by_this_thread() {
  rusage usage{};
  return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_inblock : 0;
}

}  // namespace

std::optional<std::uint64_t> File::resident_bytes(std::uint64_t offset,
                                                  std::uint64_t nbytes) const {
  if (nbytes == 0 || mount_.memory_backed) return nbytes;
  if (mount_.filesystem != kOverlay) {
    if (auto answer = ask_cachestat(buffered_.get(), offset, nbytes)) return answer;
  }
  if (mincore_is_truthful(buffered_.get())) {
    if (auto answer = ask_mincore(buffered_.get(), offset, nbytes)) return answer;
  }
  const std::uint64_t samples = std::min(kSamples, (nbytes + kPageBytes - 1) / kPageBytes);
  const std::uint64_t stride = nbytes / samples;
  // Not std::random_device: of a static libstdc++ it needs glibc 2.36, and a filter may refuse it.
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  std::minstd_rand random(static_cast<std::minstd_rand::result_type>(now));
  std::uniform_int_distribution<std::uint64_t> within(0, stride - 1);
  std::uint64_t resident = 0;
  std::array<std::byte, 1> byte{};
  for (std::uint64_t i = 0; i < samples; ++i) {
    const long before = blocks_read_by_this_thread();
    if (read_cached(offset + stride * i + within(random), byte)) {
      if (blocks_read_by_this_thread() == before) ++resident;
    } else if (last_error() == EOPNOTSUPP) {
      return std::nullopt;
    }
  }
  if (resident == 0) return 0;
  if (resident == samples) return nbytes;
  return nbytes / samples * resident;
}

}  // namespace fastio
