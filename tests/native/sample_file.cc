#include "sample_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <thread>
#include <utility>

#include "checksum.h"

namespace fastio::testing {
namespace {

const std::size_t kPageBytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));

Descriptor open_file(const std::string& path, int flags) {
  Descriptor fd(::open(path.c_str(), flags | O_CLOEXEC));
  if (!fd.valid()) throw_last_error("open", path);
  return fd;
}

Descriptor make_file(Place place, std::string& path) {
  path = (place == Place::disk ? "." : "/dev/shm") + std::string("/fastio-test-XXXXXX");
  Descriptor fd(mkostemp(path.data(), O_CLOEXEC));
  if (!fd.valid()) throw_last_error("mkostemp", path);
  return fd;
}

}  // namespace

std::uint64_t random_seed() {
  const char* asked = std::getenv("FASTIO_TEST_SEED");
  const std::uint64_t seed =
      asked != nullptr ? std::strtoull(asked, nullptr, 10) : std::random_device{}();
  std::printf("FASTIO_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

bool same(std::span<const std::byte> one, std::span<const std::byte> other) {
  return one.size() == other.size() &&
         (one.empty() || std::memcmp(one.data(), other.data(), one.size()) == 0);
}

std::uint64_t between(Random& random, std::uint64_t low, std::uint64_t high) {
  return std::uniform_int_distribution<std::uint64_t>(low, high)(random);
}

SampleFile::SampleFile(Place place, std::size_t nbytes, std::uint64_t seed) : bytes_(nbytes) {
  Random random(seed);
  for (std::size_t at = 0; at < nbytes; at += sizeof(std::uint64_t)) {
    const std::uint64_t value = random();
    std::memcpy(bytes_.data() + at, &value, std::min(sizeof value, nbytes - at));
  }
  const Descriptor fd = make_file(place, path_);
  for (std::size_t at = 0; at < nbytes;) {
    const ssize_t put = ::write(fd.get(), bytes_.data() + at, nbytes - at);
    if (put <= 0) throw_last_error("write", path_, at);
    at += static_cast<std::size_t>(put);
  }
  if (fsync(fd.get()) != 0) throw_last_error("fsync", path_);  // dirty pages cannot be evicted
  in_memory_ = File::open(path_)->mount().memory_backed;
}

SampleFile::~SampleFile() { unlink(path_.c_str()); }

bool SampleFile::evict() const {
  if (in_memory_) return false;
  kept_warm_.reset();
  const Descriptor fd = open_file(path_, O_RDONLY);
  for (int tries = 0; tries < 100; ++tries) {
    posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
    if (resident_pages() == 0) return true;
    // Another processor still holds pages.
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

void SampleFile::warm(std::size_t begin, std::size_t end) const {
  const Descriptor fd = open_file(path_, O_RDONLY);
  posix_fadvise(fd.get(), 0, 0, POSIX_FADV_RANDOM);  // no readahead
  std::vector<std::byte> bytes(std::size_t{1} << 20);
  for (std::size_t at = begin; at < end;) {
    const ssize_t got =
        pread(fd.get(), bytes.data(), std::min(bytes.size(), end - at), static_cast<off_t>(at));
    if (got <= 0) throw_last_error("read", path_, at);
    at += static_cast<std::size_t>(got);
  }
  const std::size_t nbytes = end - begin;
  void* mapped = mmap(nullptr, nbytes, PROT_READ, MAP_SHARED, fd.get(), static_cast<off_t>(begin));
  if (mapped == MAP_FAILED) throw_last_error("mmap", path_, begin);
  kept_warm_ = {mapped, [nbytes](void* held) { munmap(held, nbytes); }};
  madvise(mapped, nbytes, MADV_RANDOM);
  // Not mlock(3), which the sanitizers leave out. Without the right to lock that much, the file is
  // only warm.
  syscall(SYS_mlock, mapped, nbytes);
}

std::size_t SampleFile::resident_pages() const {
  if (bytes_.empty()) return 0;
  const Descriptor fd = open_file(path_, O_RDONLY);
  void* mapped = mmap(nullptr, bytes_.size(), PROT_READ, MAP_SHARED, fd.get(), 0);
  if (mapped == MAP_FAILED) throw_last_error("mmap", path_);
  std::vector<unsigned char> pages((bytes_.size() + kPageBytes - 1) / kPageBytes);
  const int result = mincore(mapped, bytes_.size(), pages.data());
  munmap(mapped, bytes_.size());
  if (result != 0) throw_last_error("mincore", path_);
  return static_cast<std::size_t>(std::count_if(
      pages.begin(), pages.end(), [](unsigned char page) { return (page & 1U) != 0; }));
}

void SampleFile::truncate(std::size_t nbytes) const {
  if (::truncate(path_.c_str(), static_cast<off_t>(nbytes)) != 0)
    throw_last_error("truncate", path_);
}

void SampleFile::overwrite(std::size_t offset, std::byte value) const {
  const Descriptor fd = open_file(path_, O_WRONLY);
  if (pwrite(fd.get(), &value, 1, static_cast<off_t>(offset)) != 1) {
    throw_last_error("pwrite", path_, offset);
  }
  if (fsync(fd.get()) != 0) throw_last_error("fsync", path_);
}

ChunkTable SampleFile::table(std::uint64_t start, std::uint64_t chunk_bytes,
                             const Algorithm& algorithm) const {
  const auto data = start < bytes_.size() ? bytes().subspan(start) : std::span<const std::byte>();
  return {{start, chunk_bytes}, digests_of(algorithm, data, chunk_bytes)};
}

std::vector<Extent> tile(Random& random, std::uint64_t begin, std::uint64_t end,
                         std::size_t count) {
  std::vector<std::uint64_t> cuts;
  while (cuts.size() + 1 < count) {
    cuts.push_back(between(random, begin, end));
    if (cuts.size() % 5 == 0 && cuts.size() + 1 < count) cuts.push_back(cuts.back());
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.push_back(end);
  std::vector<Extent> extents;
  extents.reserve(cuts.size());
  std::uint64_t from = begin;
  for (const std::uint64_t to : cuts) extents.push_back(Extent{std::exchange(from, to), to});
  return extents;
}

}  // namespace fastio::testing
