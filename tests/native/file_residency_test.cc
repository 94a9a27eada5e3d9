// The residency reported for a file is true, for its owner and for a user who may only read it.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <thread>
#include <vector>

#include "child_process.h"
#include "file.h"
#include "sample_file.h"

namespace fastio {
namespace {

using testing::Place;
using testing::SampleFile;

constexpr std::size_t kMiB = std::size_t{1} << 20;

bool made_cold(const SampleFile& sample) {
  if (sample.evict()) return true;
  MESSAGE("not tested: the working folder keeps its pages");
  return false;
}

TEST_CASE("a cold file is cold, a warm one warm, a half read one in between") {
  const SampleFile sample(Place::disk, 8 * kMiB + 17);
  const auto file = File::open(sample.path());
  sample.warm();
  CHECK(file->resident_bytes(0, file->nbytes()) == file->nbytes());
  if (!made_cold(sample)) return;
  CHECK(file->resident_bytes(0, file->nbytes()) == 0);
  sample.warm(2 * kMiB, 3 * kMiB);
  const auto resident = file->resident_bytes(0, file->nbytes());
  REQUIRE(resident.has_value());
  CHECK(*resident >= kMiB);
  CHECK(*resident < 8 * kMiB);
  CHECK(file->resident_bytes(2 * kMiB, kMiB) == kMiB);
  CHECK(file->resident_bytes(6 * kMiB, kMiB) == 0);
}

TEST_CASE("a part of a page that is not resident is not called resident") {
  const SampleFile sample(Place::disk, 16 * std::size_t{4096});
  if (!made_cold(sample)) return;
  const auto file = File::open(sample.path());
  sample.warm(4096, 8192);
  if (sample.resident_pages() != 1) return;  // a filesystem with larger pages
  CHECK(file->resident_bytes(4096 + 100, 4096).value() <
        4096);  // the second half lies on the next page
  CHECK(file->resident_bytes(4096 + 100, 3000) == 3000);
}

TEST_CASE("asking does not warm") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  if (!made_cold(sample)) return;
  const auto file = File::open(sample.path());
  for (int i = 0; i < 3; ++i) CHECK(file->resident_bytes(0, file->nbytes()) == 0);
  CHECK(sample.resident_pages() == 0);
}

TEST_CASE("no bytes are resident, and so is everything that is memory") {
  const SampleFile empty(Place::disk, 0);
  CHECK(File::open(empty.path())->resident_bytes(0, 0) == 0);
  const SampleFile memory(Place::memory, kMiB);
  CHECK(File::open(memory.path())->resident_bytes(0, kMiB) == kMiB);
}

TEST_CASE("a read from the cache returns cached bytes, and never waits for the disk") {
  const SampleFile sample(Place::disk, 8 * kMiB);
  const auto file = File::open(sample.path());
  sample.warm();
  std::vector<std::byte> bytes(3 * kMiB);
  REQUIRE(file->read_cached(kMiB, bytes));
  CHECK(std::equal(bytes.begin(), bytes.end(), sample.bytes().begin() + kMiB));
  if (!made_cold(sample)) return;
  CHECK_FALSE(file->read_cached(kMiB, bytes));
}

// Exit statuses of the children below, who own no files and may only read.
int say_of_foreign_file(const SampleFile& sample, int times) {
  if (!testing::become_nobody()) return 10;
  const auto file = File::open(sample.path());
  for (int i = 0; i < times; ++i) {
    const auto resident = file->resident_bytes(0, file->nbytes());
    if (!resident) return 3;
    const int answer = *resident == file->nbytes() ? 1 : *resident <= file->nbytes() / 4 ? 0 : 2;
    if (answer != 0 || i + 1 == times) return answer;
    // Time for the readahead of the question to arrive.
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return 11;
}

TEST_CASE("a cold file that somebody else owns is not called warm, however often one asks") {
  if (geteuid() != 0) {
    MESSAGE("not tested: only root can become another user");
    return;
  }
  const SampleFile sample(Place::disk, 32 * kMiB);
  REQUIRE(chmod(sample.path().c_str(), 0644) == 0);
  if (!made_cold(sample)) return;
  const int status = testing::in_forked_child([&] { return say_of_foreign_file(sample, 4); });
  if (status == 124) {
    MESSAGE("not tested: the user nobody cannot enter the working folder");
    return;
  }
  CHECK(status == 0);
  CHECK(sample.resident_pages() * 4096 < 4 * kMiB);  // the question brought in little of it
}

TEST_CASE("a warm file that somebody else owns is called warm") {
  if (geteuid() != 0) return;
  const SampleFile sample(Place::disk, 32 * kMiB);
  REQUIRE(chmod(sample.path().c_str(), 0644) == 0);
  sample.warm();
  const int status = testing::in_forked_child([&] { return say_of_foreign_file(sample, 1); });
  if (status != 124) CHECK(status == 1);
}

}  // namespace
}  // namespace fastio
