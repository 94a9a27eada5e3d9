#include "memory.h"

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <new>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "child_process.h"
#include "file.h"
#include "sample_file.h"

namespace fastio {
namespace {

using testing::in_forked_child;
using testing::Place;
using testing::SampleFile;

const std::size_t kPage = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
constexpr std::size_t kHuge = std::size_t{2} << 20;
constexpr std::array kEveryKind = {HugePages::automatic, HugePages::on, HugePages::off};

std::uintptr_t address_of(const std::byte* data) { return reinterpret_cast<std::uintptr_t>(data); }

bool all_are(const std::byte* data, std::size_t nbytes, std::byte value) {
  return std::all_of(data, data + nbytes, [=](std::byte byte) { return byte == value; });
}

// Whether the address is mapped at all, by a system call that survives an unmapped one.
bool is_mapped(const std::byte* data) {
  unsigned char resident = 0;
  void* page = const_cast<std::byte*>(data - address_of(data) % kPage);
  return mincore(page, 1, &resident) == 0 || errno != ENOMEM;
}

bool is_resident(const std::byte* data) {
  unsigned char resident = 0;
  void* page = const_cast<std::byte*>(data - address_of(data) % kPage);
  return mincore(page, 1, &resident) == 0 && (resident & 1U) != 0;
}

// The flags that the kernel keeps for the mapping that holds `data` (proc(5), smaps, VmFlags).
std::string vm_flags(const std::byte* data) {
  std::ifstream smaps("/proc/self/smaps");
  std::string line;
  bool inside = false;
  while (std::getline(smaps, line)) {
    unsigned long long begin = 0;
    unsigned long long end = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &begin, &end) == 2) {
      inside = begin <= address_of(data) && address_of(data) < end;
    } else if (inside && line.rfind("VmFlags:", 0) == 0) {
      return line + " ";
    }
  }
  return {};
}

bool has_flag(const std::byte* data, const std::string& flag) {
  return vm_flags(data).find(" " + flag + " ") != std::string::npos;
}

TEST_CASE(
    "a region's addresses are congruent to its file offsets, and its bytes are fresh and "
    "writable") {
  for (const HugePages huge_pages : kEveryKind) {
    for (const std::uint64_t offset :
         {0ULL, 1ULL, 4095ULL, 4096ULL, 12'345'678ULL, (1ULL << 45U) + 512}) {
      for (const std::size_t nbytes : {std::size_t{1}, kPage, kHuge - 1, kHuge, 3 * kHuge + 5}) {
        CAPTURE(offset);
        CAPTURE(nbytes);
        const auto region = Region::allocate(offset, nbytes, huge_pages);
        CHECK(address_of(region->at(offset)) % kPage == offset % kPage);
        CHECK(region->at(offset + nbytes) - region->at(offset) ==
              static_cast<std::ptrdiff_t>(nbytes));
        CHECK(region->file_offset() == offset);
        CHECK(region->nbytes() == nbytes);
        CHECK_FALSE(region->mapped());
        CHECK(*region->at(offset) == std::byte{0});
        *region->at(offset) = std::byte{1};
        *region->at(offset + nbytes - 1) = std::byte{1};
      }
    }
  }
}

TEST_CASE(
    "a region of 2 MiB and more begins at a huge page and asks for them, unless they are off") {
  for (const HugePages huge_pages : {HugePages::automatic, HugePages::on}) {
    const auto region = Region::allocate(100, 2 * kHuge, huge_pages);
    CHECK((address_of(region->at(100)) - 100) % kHuge == 0);
    CHECK(has_flag(region->at(100), "hg"));
  }
  const auto region = Region::allocate(100, 2 * kHuge, HugePages::off);
  CHECK_FALSE(has_flag(region->at(100), "hg"));
  CHECK(has_flag(region->at(100), "nh"));
}

TEST_CASE("a region maps no more than its pages") {
  const auto region = Region::allocate(0, 2 * kHuge + kPage, HugePages::on);
  const std::byte* end = region->at(2 * kHuge + kPage);
  CHECK(is_mapped(end - 1));
  // Neighbours in the address space may belong to others, but then they differ in permissions or
  // flags.
  if (is_mapped(end)) CHECK_FALSE(has_flag(end, "hg"));
}

TEST_CASE("an impossible allocation is refused") {
  CHECK_THROWS_AS(Region::allocate(0, std::size_t{1} << 62U, HugePages::off), std::bad_alloc);
  CHECK_THROWS_AS(Region::allocate(0, std::size_t{1} << 62U, HugePages::on), std::bad_alloc);
}

TEST_CASE("a region's memory is freed with its last owner") {
  auto region = Region::allocate(0, 3 * kHuge, HugePages::on);
  const std::byte* data = region->at(kHuge);
  auto second = region;
  region.reset();
  CHECK(is_mapped(data));
  second.reset();
  CHECK_FALSE(is_mapped(data));
}

TEST_CASE("freed pages read as zeros, and the pages at their borders stay") {
  for (const HugePages huge_pages : kEveryKind) {
    constexpr std::uint64_t kOffset = 1000;
    const std::size_t nbytes = kHuge + 10 * kPage;
    const auto region = Region::allocate(kOffset, nbytes, huge_pages);
    const auto page_at = [&](std::size_t i) { return region->at(i * kPage); };
    std::memset(region->at(kOffset), 0x77, nbytes);
    region->give_back(kPage + 1, 4 * kPage - 1);
    CHECK(all_are(page_at(1), kPage, std::byte{0x77}));
    CHECK(all_are(page_at(2), kPage, std::byte{0}));
    CHECK(all_are(page_at(3), kPage, std::byte{0x77}));

    region->give_back(5 * kPage, 6 * kPage);
    CHECK(all_are(page_at(4), kPage, std::byte{0x77}));
    CHECK(all_are(page_at(5), kPage, std::byte{0}));
    CHECK(all_are(page_at(6), kPage, std::byte{0x77}));

    region->give_back(7 * kPage + 1, 8 * kPage);  // no whole page
    region->give_back(7 * kPage, 7 * kPage);
    CHECK(all_are(page_at(7), kPage, std::byte{0x77}));
    CHECK(all_are(region->at(kOffset), kPage - kOffset, std::byte{0x77}));
  }
}

TEST_CASE("returned leases are not held any more") {
  const auto region = Region::allocate(0, 8 * kPage, HugePages::off);
  std::memset(region->at(0), 1, 8 * kPage);
  REQUIRE(is_resident(region->at(3 * kPage)));
  region->give_back(2 * kPage, 6 * kPage);
  CHECK_FALSE(is_resident(region->at(3 * kPage)));
  CHECK(is_resident(region->at(6 * kPage)));
}

TEST_CASE(
    "a mapping has the file's bytes, is written privately, and its freed pages read as the file "
    "again") {
  for (const Place place : {Place::disk, Place::memory}) {
    const SampleFile sample(place, 5 * kPage + 17);
    const auto file = File::open(sample.path());
    const auto region = Region::map(*file);
    CHECK(region->mapped());
    CHECK(region->nbytes() == file->nbytes());
    CHECK(std::memcmp(region->at(0), sample.bytes().data(), sample.bytes().size()) == 0);
    *region->at(kPage) = ~sample.bytes()[kPage];
    std::array<std::byte, 1> in_file{};
    file->read(kPage, in_file);
    CHECK(in_file[0] == sample.bytes()[kPage]);
    region->give_back(kPage, 2 * kPage);
    CHECK(*region->at(kPage) == sample.bytes()[kPage]);
  }
}

TEST_CASE("a file of no bytes cannot be mapped, and says so") {
  const SampleFile sample(Place::disk, 0);
  const auto file = File::open(sample.path());
  CHECK_THROWS_AS(Region::map(*file), IoError);
}

TEST_CASE("a tensor that dies gives back the pages it had alone, the last one the whole region") {
  auto region = Region::allocate(0, 10 * kPage, HugePages::off);
  std::memset(region->at(0), 0x77, 10 * kPage);
  auto first = std::make_unique<Share>(region, 0, 2 * kPage + 100);
  auto second = std::make_unique<Share>(region, 2 * kPage + 100, 10 * kPage);
  const std::byte* data = region->at(0);
  CHECK(first->data() == data);
  CHECK(second->data() == data + 2 * kPage + 100);
  const std::weak_ptr<Region> alive = region;
  region.reset();
  first.reset();
  CHECK_FALSE(is_resident(data + kPage));
  CHECK(all_are(data + 2 * kPage, 8 * kPage, std::byte{0x77}));
  second.reset();
  CHECK(alive.expired());
  CHECK_FALSE(is_mapped(data));
}

TEST_CASE("tensors may die in several threads at once") {
  constexpr std::size_t kTensors = 64;
  auto region = Region::allocate(0, kTensors * kPage, HugePages::off);
  std::memset(region->at(0), 1, kTensors * kPage);
  std::vector<std::unique_ptr<Share>> tensors;
  for (std::size_t i = 0; i < kTensors; ++i) {
    tensors.push_back(std::make_unique<Share>(region, i * kPage, (i + 1) * kPage));
  }
  const std::weak_ptr<Region> alive = region;
  region.reset();
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i < kTensors; i += 4) tensors[i].reset();
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(alive.expired());
}

TEST_CASE("abandoned memory is counted once, and no longer than it lives") {
  REQUIRE(abandoned_bytes() == 0);
  auto small = Region::allocate(10, kPage, HugePages::off);
  auto large = Region::allocate(0, kHuge, HugePages::on);
  small->abandon();
  CHECK(abandoned_bytes() == 2 * kPage);  // the offset makes it lie on two pages
  small->abandon();
  large->abandon();
  CHECK(abandoned_bytes() == 2 * kPage + kHuge);
  std::thread([&] { large.reset(); }).join();
  CHECK(abandoned_bytes() == 2 * kPage);
  small.reset();
  CHECK(abandoned_bytes() == 0);
}

TEST_CASE("a child has none of the memory that a device writes to, and has it again afterwards") {
  const auto region = Region::allocate(0, 4 * kPage, HugePages::off);
  std::memset(region->at(0), 0x77, 4 * kPage);
  region->hide_from_children();
  CHECK(in_forked_child([&] { return is_mapped(region->at(kPage)) ? 1 : 0; }) == 0);
  region->show_to_children();
  CHECK(in_forked_child(
            [&] { return all_are(region->at(0), 4 * kPage, std::byte{0x77}) ? 0 : 1; }) == 0);
}

}  // namespace
}  // namespace fastio
