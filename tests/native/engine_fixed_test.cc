// A ring's fixed buffers: pinned memory is registered with it if that pays. Every byte is right
// before and after, and if the kernel refuses.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "child_process.h"
#include "device_filling.h"
#include "engine.h"
#include "file.h"
#include "pinned.h"
#include "sample_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::Devices;
using testing::Place;
using testing::SampleFile;
using testing::soon;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kSlab = 256 * kKiB;
constexpr std::uint32_t kPart = 64 * kKiB;
constexpr std::uint64_t kPartsInSlab = kSlab / kPart;

// The bytes that this process's rings have pinned.
std::uint64_t registered_bytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  std::uint64_t kib = 0;
  while (status >> word) {
    if (word == "VmPin:" && status >> kib) return kib * kKiB;
  }
  FAIL("/proc/self/status has no VmPin");
  return 0;
}

PinnedLease take(const Devices& devices) {
  auto lease = PinnedLease::take(*devices.targets[0].device, kSlab, kSlab);
  REQUIRE(lease.has_value());
  return std::move(*lease);
}

std::int32_t done(Engine& engine, const IoRequest& request) {
  engine.submit({&request, 1});
  Completion completion;
  while (engine.wait({&completion, 1}, 100ms) == 0) {
  }
  return completion.result;
}

// Reads part after part of a file into part after part of the memory; counts the wrong bytes.
std::size_t wrong_reads(Engine& engine, const SampleFile& sample, int fd, std::byte* memory,
                        std::uint64_t parts) {
  std::size_t wrong = 0;
  for (std::uint64_t i = 0; i < parts; ++i) {
    const std::uint64_t offset = i * kPart % (sample.bytes().size() - kPart);
    std::byte* const to = memory + i % kPartsInSlab * kPart;
    std::memset(to, 0, kPart);
    const std::int32_t result = done(engine, {fd, offset, to, kPart, 0});
    wrong += static_cast<std::size_t>(result != static_cast<std::int32_t>(kPart) ||
                                      std::memcmp(to, sample.bytes().data() + offset, kPart) != 0);
  }
  return wrong;
}

bool has_ring() {
  if (uring_status().available) {
    REQUIRE(soon([] { return registered_bytes() == 0; }));  // of earlier rings
    return true;
  }
  MESSAGE("no io_uring: " << uring_status().reason);
  return false;
}

TEST_CASE("pinned memory is registered once, when as many bytes have gone there") {
  if (!has_ring()) return;
  const Devices devices;
  const SampleFile sample(Place::disk, 1024 * kKiB);
  const auto file = File::open(sample.path());
  const PinnedLease lease = take(devices);
  for (const int fd : {file->buffered_fd(), file->direct_fd()}) {
    if (fd < 0) continue;
    const auto engine = make_uring_engine(2);
    CHECK(wrong_reads(*engine, sample, fd, lease.data(), kPartsInSlab) == 0);
    CHECK(registered_bytes() == 0);
    for (int again = 0; again < 3; ++again) {
      CHECK(wrong_reads(*engine, sample, fd, lease.data(), kPartsInSlab) == 0);
      CHECK(registered_bytes() == kSlab);
    }
  }
  CHECK(soon([&] { return registered_bytes() == 0; }));  // with the rings
}

TEST_CASE("writes from registered memory write its bytes") {
  if (!has_ring()) return;
  const Devices devices;
  const SampleFile sample(Place::disk, kSlab);
  const SampleFile target(Place::disk, kSlab, 1);
  const Descriptor fd(open(target.path().c_str(), O_RDWR | O_CLOEXEC));
  const PinnedLease lease = take(devices);
  std::memcpy(lease.data(), sample.bytes().data(), kSlab);
  const auto engine = make_uring_engine(2);
  for (std::uint64_t i = 0; i < 3 * kPartsInSlab; ++i) {
    const std::uint64_t offset = i % kPartsInSlab * kPart;
    CHECK(done(*engine, {fd.get(), offset, lease.data() + offset, kPart, 0, Operation::write}) ==
          static_cast<std::int32_t>(kPart));
  }
  CHECK(registered_bytes() == kSlab);
  std::vector<std::byte> found(kSlab);
  CHECK(pread(fd.get(), found.data(), kSlab, 0) == static_cast<ssize_t>(kSlab));
  CHECK(std::memcmp(found.data(), sample.bytes().data(), kSlab) == 0);
}

TEST_CASE("memory at the address of freed memory is another allocation") {
  if (!has_ring()) return;
  const Devices devices;
  const SampleFile sample(Place::disk, 1024 * kKiB);
  const auto file = File::open(sample.path());
  const auto engine = make_uring_engine(2);
  for (int again = 0; again < 80; ++again) {  // more often than a ring has buffers
    {
      const PinnedLease lease = take(devices);
      CHECK(wrong_reads(*engine, sample, file->buffered_fd(), lease.data(), 2 * kPartsInSlab) == 0);
    }
    CHECK(trim_pinned() == kSlab);
  }
}

TEST_CASE("memory that is not pinned is not registered") {
  if (!has_ring()) return;
  const SampleFile sample(Place::disk, 1024 * kKiB);
  const auto file = File::open(sample.path());
  const auto engine = make_uring_engine(2);
  std::vector<std::byte> memory(kSlab);
  CHECK(wrong_reads(*engine, sample, file->buffered_fd(), memory.data(), 3 * kPartsInSlab) == 0);
  CHECK(registered_bytes() == 0);
}

TEST_CASE("reads as a user who may lock no memory" * doctest::skip()) {
  const Devices devices;
  const SampleFile sample(Place::disk, 1024 * kKiB);
  const auto file = File::open(sample.path());
  const PinnedLease lease = take(devices);
  const rlimit little{kPart, kPart};
  REQUIRE(setrlimit(RLIMIT_MEMLOCK, &little) == 0);
  REQUIRE(unlink(sample.path().c_str()) == 0);  // the user nobody may not
  REQUIRE(testing::become_nobody());
  const auto engine = make_uring_engine(2);
  CHECK(wrong_reads(*engine, sample, file->buffered_fd(), lease.data(), 3 * kPartsInSlab) == 0);
  CHECK(registered_bytes() == 0);
}

TEST_CASE("without room under RLIMIT_MEMLOCK, reads use unregistered memory") {
  if (!has_ring()) return;
  if (geteuid() != 0) {
    MESSAGE("only root can become another user");
    return;
  }
  const auto child = testing::run_skipped_test_case("reads as a user who may lock no memory");
  INFO(child.text);
  CHECK(child.status == 0);
  CHECK(child.text.find("1 passed") != std::string::npos);
}

}  // namespace
}  // namespace fastio
