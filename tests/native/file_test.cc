#include "file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "child_process.h"
#include "error.h"
#include "sample_file.h"

namespace fastio {
namespace {

using testing::Place;
using testing::SampleFile;

constexpr std::size_t kMiB = std::size_t{1} << 20;

// The error of an open or a read that must fail.
template <typename Operation>
Failure failure_of(Operation&& operation) {
  try {
    operation();
  } catch (const IoError& error) {
    return error.failure();
  }
  FAIL("nothing was thrown");
  return {};
}

TEST_CASE("a file has its bytes, its size and its path") {
  for (const Place place : {Place::disk, Place::memory}) {
    const SampleFile sample(place, kMiB + 17);
    const auto file = File::open(sample.path());
    CHECK(file->path() == sample.path());
    CHECK(file->nbytes() == kMiB + 17);
    std::vector<std::byte> bytes(5000);
    file->read(kMiB - 4983, bytes);
    CHECK(std::equal(bytes.begin(), bytes.end(), sample.bytes().begin() + kMiB - 4983));
    file->read(kMiB + 17, {});  // nothing, at the end
  }
}

TEST_CASE("a file is opened inside a folder by its name, and not by a path that leads out of it") {
  const SampleFile sample(Place::disk, kMiB + 17);
  const std::string name = sample.path().substr(2);  // "./name"
  const Descriptor here(::open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const std::string link = name + "-link";
  REQUIRE(symlink(name.c_str(), link.c_str()) == 0);
  REQUIRE(mkdir((name + "-folder").c_str(), 0700) == 0);
  REQUIRE(mkfifo((name + "-pipe").c_str(), 0600) == 0);
  const auto file = File::open_in(here.get(), name, "shown/as");
  CHECK(file->path() == "shown/as");
  CHECK(file->nbytes() == kMiB + 17);
  CHECK(file->mount().disk == File::open(sample.path())->mount().disk);
  CHECK(file->direct_access().possible == File::open(sample.path())->direct_access().possible);
  if (file->direct_access().possible) CHECK(same_file(file->buffered_fd(), file->direct_fd()));
  const auto error_of = [&](const std::string& asked) {
    const Failure failure =
        failure_of([&] { static_cast<void>(File::open_in(here.get(), asked, "shown/as")); });
    CHECK(failure.operation == "open");
    CHECK(failure.path == "shown/as");
    return failure.error;
  };
  CHECK(error_of(link) == ELOOP);
  CHECK(error_of(name + "-folder") == EINVAL);
  CHECK(error_of(name + "-pipe") == EINVAL);
  CHECK(error_of(".") == EINVAL);
  CHECK(error_of("..") == EINVAL);
  CHECK(error_of("./" + name) == EINVAL);
  CHECK(error_of("/etc/passwd") == EINVAL);
  CHECK(error_of("../" + name) == EINVAL);
  CHECK(error_of("missing") == ENOENT);
  CHECK(error_of("") == ENOENT);
  unlink(link.c_str());
  rmdir((name + "-folder").c_str());
  unlink((name + "-pipe").c_str());
}

TEST_CASE("direct reads use the opened file, whatever path it is shown under") {
  const SampleFile sample(Place::disk, kMiB);
  const SampleFile other(Place::disk, kMiB, 2);
  const Descriptor here(::open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const auto file = File::open_in(here.get(), sample.path().substr(2), other.path());
  if (!file->direct_access().possible) return;
  CHECK(same_file(file->direct_fd(), file->buffered_fd()));
}

TEST_CASE("a missing file is ENOENT with its path") {
  const Failure failure =
      failure_of([] { static_cast<void>(File::open("./missing.safetensors")); });
  CHECK(failure.error == ENOENT);
  CHECK(failure.operation == "open");
  CHECK(failure.path == "./missing.safetensors");
}

TEST_CASE("a directory is EISDIR") {
  CHECK(failure_of([] { static_cast<void>(File::open(".")); }).error == EISDIR);
}

TEST_CASE("a named pipe is refused at once, without waiting for its writer") {
  const std::string path = "./fastio-test-pipe-" + std::to_string(getpid());
  REQUIRE(mkfifo(path.c_str(), 0600) == 0);
  const Failure failure = failure_of([&] { static_cast<void>(File::open(path)); });
  unlink(path.c_str());
  CHECK(failure.error == EINVAL);
  CHECK(failure.detail == "not a regular file");
}

TEST_CASE("a device is refused") {
  CHECK(failure_of([] { static_cast<void>(File::open("/dev/zero")); }).error == EINVAL);
}

TEST_CASE("a descriptor is not left to programs that are started, and waits for its device") {
  const SampleFile sample(Place::disk, 4096);
  const auto file = File::open(sample.path());
  CHECK((fcntl(file->buffered_fd(), F_GETFD) & FD_CLOEXEC) != 0);
  CHECK((fcntl(file->buffered_fd(), F_GETFL) & O_NONBLOCK) == 0);
  if (file->direct_access().possible) {
    CHECK((fcntl(file->direct_fd(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK((fcntl(file->direct_fd(), F_GETFL) & O_DIRECT) != 0);
  }
}

TEST_CASE("a file that is gone closes its descriptors") {
  const SampleFile sample(Place::disk, 4096);
  int buffered = -1;
  int direct = -1;
  {
    const auto file = File::open(sample.path());
    static_cast<void>(file->direct_access());
    buffered = file->buffered_fd();
    direct = file->direct_fd();
  }
  CHECK(fcntl(buffered, F_GETFD) == -1);
  CHECK(fcntl(direct, F_GETFD) == -1);
}

TEST_CASE("a descriptor that is moved is closed once") {
  Descriptor first(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const int fd = first.get();
  Descriptor second(std::move(first));
  CHECK(second.get() == fd);
  second = Descriptor(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  CHECK(fcntl(fd, F_GETFD) == -1);
  CHECK(second.valid());
  CHECK_FALSE(Descriptor().valid());
}

TEST_CASE("a read that goes past the end says where the file ends") {
  const SampleFile sample(Place::disk, 10'000);
  const auto file = File::open(sample.path());
  std::vector<std::byte> bytes(5000);
  const Failure failure = failure_of([&] { file->read(6000, bytes); });
  CHECK(failure.error == ENODATA);
  CHECK(failure.offset == 10'000);
  CHECK(failure.detail.find("11000 bytes were expected") != std::string::npos);
}

TEST_CASE(
    "a file that shrinks keeps its size at open, and a read past its end is an error with the "
    "offset") {
  const SampleFile sample(Place::disk, 10'000);
  const auto file = File::open(sample.path());
  sample.truncate(4321);
  CHECK(file->nbytes() == 10'000);
  std::vector<std::byte> bytes(1000);
  file->read(3000, bytes);
  const Failure failure = failure_of([&] { file->read(4000, bytes); });
  CHECK(failure.error == ENODATA);
  CHECK(failure.offset == 4321);
  CHECK(failure.detail.find("it had 10000 when it was opened") != std::string::npos);
  CHECK_FALSE(file->read_cached(4000, bytes));
  CHECK(failure_of([&] { file->read(6000, bytes); }).offset == 4321);
}

TEST_CASE(
    "a replaced path does not change the opened file, neither through the page cache nor past it") {
  const SampleFile sample(Place::disk, kMiB / 16, 1);
  const SampleFile other(Place::disk, kMiB / 16, 2);
  const auto file = File::open(sample.path());
  REQUIRE(rename(other.path().c_str(), sample.path().c_str()) == 0);
  std::vector<std::byte> bytes(4096);
  file->read(0, bytes);
  CHECK(std::equal(bytes.begin(), bytes.end(), sample.bytes().begin()));
  if (!file->direct_access().possible) return;  // opened only now, after the path was replaced
  struct stat buffered {};
  struct stat direct {};
  REQUIRE(fstat(file->buffered_fd(), &buffered) == 0);
  REQUIRE(fstat(file->direct_fd(), &direct) == 0);
  CHECK(buffered.st_ino == direct.st_ino);
}

TEST_CASE("a file that was removed can still be read, past the page cache too") {
  auto sample = std::make_unique<SampleFile>(Place::disk, kMiB / 16);
  const auto file = File::open(sample->path());
  sample.reset();
  std::vector<std::byte> bytes(4096);
  file->read(4096, bytes);
  CHECK(file->direct_access().possible == File::open("/proc/self/exe")->direct_access().possible);
}

TEST_CASE("aligned reads with O_DIRECT work if the filesystem permits them") {
  for (const Place place : {Place::disk, Place::memory}) {
    const SampleFile sample(place, kMiB + 17);
    const auto file = File::open(sample.path());
    const DirectAccess direct = file->direct_access();
    CHECK_FALSE(direct.reason.empty());
    if (!direct.possible) {
      MESSAGE("not tested on ", file->mount().filesystem, ": ", direct.reason);
      continue;
    }
    CHECK(direct.alignment >= 4096);
    CHECK((direct.alignment & (direct.alignment - 1)) == 0);
    const std::size_t nbytes = 2 * direct.alignment;
    void* memory =
        mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    CHECK(pread(file->direct_fd(), memory, nbytes, static_cast<off_t>(direct.alignment)) ==
          static_cast<ssize_t>(nbytes));
    CHECK(std::memcmp(memory, sample.bytes().data() + direct.alignment, nbytes) == 0);
    munmap(memory, nbytes);
  }
}

TEST_CASE("direct access may be asked for by many threads at once") {
  const SampleFile sample(Place::disk, 4096);
  const auto file = File::open(sample.path());
  std::array<int, 8> seen{};
  std::vector<std::thread> threads;
  threads.reserve(seen.size());
  for (int& fd : seen) {
    threads.emplace_back([&] {
      static_cast<void>(file->direct_access());
      fd = file->direct_fd();
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(std::all_of(seen.begin(), seen.end(), [&](int fd) { return fd == seen[0]; }));
}

TEST_CASE("a mount that refused once is not asked again, and the first reason stays") {
  constexpr dev_t kNoDevice = ~dev_t{0};
  CHECK(direct_refusal_of(kNoDevice).empty());
  remember_direct_refusal(kNoDevice, "first");
  remember_direct_refusal(kNoDevice, "second");
  CHECK(direct_refusal_of(kNoDevice) == "first");
}

TEST_CASE("a refusal holds for every file of the mount, also for those that are open") {
  // In a child: its exit forgets the remembered refusals.
  const SampleFile sample(Place::disk, 4096);
  const SampleFile other(Place::disk, 4096);
  const auto file = File::open(sample.path());
  static_cast<void>(file->direct_access());
  const int status = testing::in_forked_child([&] {
    file->forbid_direct("EINVAL at a read");
    const DirectAccess here = file->direct_access();
    const DirectAccess there = File::open(other.path())->direct_access();
    if (here.possible || there.possible) return 1;
    return here.reason == "EINVAL at a read" && there.reason == here.reason ? 0 : 2;
  });
  CHECK(status == 0);
}

TEST_CASE("a filesystem in memory is known as one") {
  const SampleFile sample(Place::memory, 4096);
  const Mount mount = File::open(sample.path())->mount();
  CHECK(mount.filesystem == "tmpfs");
  CHECK(mount.memory_backed);
  CHECK(mount.local);
}

TEST_CASE("an unknown filesystem is not taken for a local one") {
  const auto file = File::open("/proc/self/status");
  CHECK_FALSE(file->mount().local);
  CHECK(file->mount().filesystem == "filesystem 0x9fa0");
}

}  // namespace
}  // namespace fastio
