#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <new>
#include <utility>

#include "error.h"
#include "file.h"
#include "process.h"
#include "rounding.h"

namespace fastio {
namespace {

struct AbandonedAccount {
  std::atomic<std::uint64_t> bytes{0};
};

}  // namespace

std::size_t page_bytes() {
  static const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

// Acquires what freeing releases: who sees the memory gone sees its late reads ended.
std::uint64_t abandoned_bytes() {
  return process_state<AbandonedAccount>().bytes.load(std::memory_order_acquire);
}

Region::Region(std::byte* mapping, std::size_t mapping_bytes, std::byte* data,
               std::uint64_t file_offset, std::size_t nbytes, Kind kind)
    : mapping_(mapping),
      mapping_bytes_(mapping_bytes),
      data_(data),
      file_offset_(file_offset),
      nbytes_(nbytes),
      kind_(kind) {}

std::shared_ptr<Region> Region::allocate(std::uint64_t file_offset, std::size_t nbytes,
                                         HugePages huge_pages) {
  const std::size_t lead = file_offset % page_bytes();
  const std::size_t used = round_up(lead + nbytes, page_bytes());
  const bool huge = huge_pages != HugePages::off && used >= kHugePageBytes;
  // A huge page needs an aligned 2 MiB range wholly inside the mapping: begin at one, and end with
  // the data, so that the last partial one stays in small pages and costs nothing beyond them.
  const std::size_t reserved = huge ? used + kHugePageBytes : used;
  void* address = mmap(nullptr, reserved, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) throw OutOfMemory(nbytes);
  auto* mapping = static_cast<std::byte*>(address);
  if (huge) {
    const std::size_t skipped =
        round_up(reinterpret_cast<std::uintptr_t>(mapping), kHugePageBytes) -
        reinterpret_cast<std::uintptr_t>(mapping);
    if (skipped != 0) munmap(mapping, skipped);
    if (const std::size_t behind = reserved - skipped - used; behind != 0)
      munmap(mapping + skipped + used, behind);
    mapping += skipped;
    madvise(mapping, used, MADV_HUGEPAGE);  // advice: where the kernel has none, small pages do
  } else if (huge_pages == HugePages::off) {
    madvise(mapping, used, MADV_NOHUGEPAGE);
  }
  return std::shared_ptr<Region>(
      new Region(mapping, used, mapping + lead, file_offset, nbytes, Kind::anonymous));
}

std::shared_ptr<Region> Region::map(const File& file) { return map(file, 0, file.nbytes()); }

std::shared_ptr<Region> Region::map(const File& file, std::uint64_t begin, std::uint64_t end) {
  const std::uint64_t lead = begin % page_bytes();
  const std::size_t nbytes = end - begin + lead;
  void* address = mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                       file.buffered_fd(), static_cast<off_t>(begin - lead));
  if (address == MAP_FAILED) throw_last_error("mmap", file.path());
  auto* mapping = static_cast<std::byte*>(address);
  return std::shared_ptr<Region>(
      new Region(mapping, nbytes, mapping, begin - lead, nbytes, Kind::mapping));
}

std::shared_ptr<Region> Region::borrow(std::byte* data, std::uint64_t file_offset,
                                       std::size_t nbytes) {
  return std::shared_ptr<Region>(
      new Region(data, nbytes, data, file_offset, nbytes, Kind::borrowed));
}

Region::~Region() {
  if (kind_ == Kind::borrowed) return;
  munmap(mapping_, mapping_bytes_);
  if (abandoned_)
    process_state<AbandonedAccount>().bytes.fetch_sub(mapping_bytes_, std::memory_order_release);
}

void Region::give_back(std::uint64_t begin, std::uint64_t end) const {
  if (kind_ == Kind::borrowed) return;
  const auto base = reinterpret_cast<std::uintptr_t>(mapping_);
  const auto from = round_up(reinterpret_cast<std::uintptr_t>(at(begin)) - base, page_bytes());
  const auto to = (reinterpret_cast<std::uintptr_t>(at(end)) - base) / page_bytes() * page_bytes();
  if (from < to) madvise(mapping_ + from, to - from, MADV_DONTNEED);
}

void Region::ask_for_huge_pages() const {
  madvise(mapping_, mapping_bytes_, MADV_HUGEPAGE);  // advice, as above
}

void Region::ask_for_single_pages(std::uint64_t begin, std::uint64_t end) const {
  madvise(at(begin), end - begin, MADV_NOHUGEPAGE);
  madvise(at(begin), end - begin, MADV_RANDOM);
}

void Region::hide_from_children() const {
  if (kind_ == Kind::anonymous) madvise(mapping_, mapping_bytes_, MADV_DONTFORK);
}

void Region::show_to_children() const {
  if (kind_ == Kind::anonymous) madvise(mapping_, mapping_bytes_, MADV_DOFORK);
}

void Region::abandon() {
  if (kind_ != Kind::borrowed && !abandoned_.exchange(true)) {
    process_state<AbandonedAccount>().bytes.fetch_add(mapping_bytes_, std::memory_order_relaxed);
  }
}

Share::~Share() {
  if (region_.use_count() > 1) region_->give_back(begin_, end_);
}

}  // namespace fastio
