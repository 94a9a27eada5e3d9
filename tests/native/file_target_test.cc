// A file that is being written: its space, its bytes, its sync, and its refusals.
#include "file_target.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <functional>

#include "child_process.h"
#include "saving.h"

namespace fastio {
namespace {

using testing::Place;
using testing::WrittenFile;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

// The error of a call; errno 0 if it throws none.
Failure failure_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const IoError& error) {
    CHECK(error.failure().kind == Failure::Kind::write);
    return error.failure();
  }
  return {};
}

std::uint64_t allocated_bytes(const WrittenFile& file) {
  struct stat status {};
  REQUIRE(fstat(file.fd(), &status) == 0);
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

TEST_CASE("a target keeps the file, whatever becomes of the descriptor it came from") {
  const WrittenFile file;
  Descriptor own(dup(file.fd()));
  const auto target = TargetFile::adopt(own.get(), "a name", file.path());
  own = Descriptor();
  const std::array bytes{std::byte{1}, std::byte{2}};
  target->write(5, bytes);
  CHECK(target->path() == "a name");
  CHECK(target->mount().disk != 0);
  CHECK(file.bytes() == std::vector<std::byte>{{}, {}, {}, {}, {}, bytes[0], bytes[1]});
  CHECK(fcntl(target->buffered_fd(), F_GETFD) == FD_CLOEXEC);
}

TEST_CASE("invalid descriptors are refused") {
  const Failure failure =
      failure_of([] { static_cast<void>(TargetFile::adopt(1'000'000, "a name", "")); });
  CHECK(failure.error == EBADF);
  CHECK(failure.path == "a name");
}

TEST_CASE("a file is written, cut, made longer, and brought to the disk") {
  for (const Place place : {Place::disk, Place::memory}) {
    const WrittenFile file(place);
    const auto target = file.target();
    testing::Random random(1);
    auto bytes = testing::random_bytes(random, kMiB + 17);
    target->write(0, bytes);
    target->write(100, {});
    CHECK(file.bytes() == bytes);
    target->truncate(1000);
    bytes.resize(1000);
    CHECK(file.bytes() == bytes);
    target->truncate(3000);
    bytes.resize(3000);
    CHECK(file.bytes() == bytes);
    target->sync();
  }
}

TEST_CASE("reserved space is there, and written bytes stay") {
  for (const Place place : {Place::disk, Place::memory}) {
    const WrittenFile file(place);
    const auto target = file.target();
    target->reserve(0);
    CHECK(file.bytes().empty());
    const std::array bytes{std::byte{7}};
    target->write(0, bytes);
    CHECK(target->reserve(4 * kMiB + 1));
    const auto found = file.bytes();
    CHECK(found.size() == 4 * kMiB + 1);
    CHECK(found[0] == std::byte{7});
    CHECK(found.back() == std::byte{0});
    CHECK(allocated_bytes(file) >= 4 * kMiB);
  }
}

TEST_CASE("space that there is not is refused with ENOSPC") {
  const WrittenFile file(Place::memory);
  struct statvfs status {};
  REQUIRE(statvfs("/dev/shm", &status) == 0);
  if (status.f_blocks == 0) {
    MESSAGE("not tested: /dev/shm has no size limit");
    return;
  }
  const Failure failure = failure_of(
      [&] { file.target()->reserve((status.f_blocks + 1) * std::uint64_t{status.f_frsize}); });
  CHECK(failure.error == ENOSPC);
  CHECK(failure.path == file.path());
  CHECK(file.bytes().empty());
}

TEST_CASE("a file that would be larger than its process may make one is refused with EFBIG") {
  for (const Place place : {Place::disk, Place::memory}) {
    const WrittenFile file(place);
    const auto target = file.target();
    const int status = testing::in_forked_child([&] {
      static_cast<void>(signal(SIGXFSZ, SIG_IGN));
      const rlimit limit{kMiB, kMiB};
      if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
      const std::array bytes{std::byte{7}, std::byte{8}};
      const auto refused = [](const std::function<void()>& call) {
        try {
          call();
        } catch (const IoError& error) {
          return error.failure().error == EFBIG;
        }
        return false;
      };
      if (!refused([&] { target->reserve(kMiB + 1); })) return 2;
      if (!refused([&] { target->truncate(kMiB + 1); })) return 3;
      if (!refused([&] { target->write(kMiB - 1, bytes); })) return 4;  // after a short write
      target->reserve(kMiB);
      return 0;
    });
    CHECK(status == 0);
    CHECK(file.bytes().size() == kMiB);
    CHECK(file.bytes().back() == std::byte{7});
  }
}

TEST_CASE(
    "a filesystem that sets nothing aside is asked what is free, and the file has its length") {
  // ramfs has no fallocate and no size limit. Mounted in a private namespace.
  constexpr int kNoMount = 77;
  const int status = testing::in_forked_child([] {
    if (unshare(CLONE_NEWNS) != 0 || mount("", "/", "", MS_REC | MS_PRIVATE, nullptr) != 0)
      return kNoMount;
    if (mount("ramfs", "/dev/shm", "ramfs", 0, nullptr) != 0) return kNoMount;
    const WrittenFile file(Place::memory);
    const auto target = file.target();
    if (target->mount().filesystem != "ramfs") return 1;
    if (fallocate(file.fd(), 0, 0, 4096) == 0 || errno != EOPNOTSUPP) return 2;
    if (target->reserve(kMiB + 1)) return 3;
    return file.bytes().size() == kMiB + 1 ? 0 : 4;
  });
  if (status == kNoMount) {
    MESSAGE("not tested: this machine refuses mounts");
  } else {
    CHECK(status == 0);
  }
}

TEST_CASE("a descriptor that is only read from, or is no file, is an error with its call") {
  const testing::SampleFile sample(Place::disk, 1000);
  const auto readable = File::open(sample.path());
  const auto target = TargetFile::adopt(readable->buffered_fd(), sample.path(), sample.path());
  const std::array bytes{std::byte{7}};
  const Failure write = failure_of([&] { target->write(3, bytes); });
  CHECK(write.error == EBADF);
  CHECK(write.operation == "write");
  CHECK(write.offset == 3);
  CHECK(write.path == sample.path());
  CHECK(failure_of([&] { target->reserve(2000); }).error == EBADF);

  std::array<int, 2> ends{};
  REQUIRE(pipe2(ends.data(), O_CLOEXEC) == 0);
  const Descriptor from(ends[0]);
  const Descriptor to(ends[1]);
  const auto pipe = TargetFile::adopt(to.get(), "a pipe", "a pipe");
  const Failure sync = failure_of([&] { pipe->sync(); });
  CHECK(sync.error == EINVAL);
  CHECK(sync.operation == "fsync");
  CHECK(failure_of([&] { pipe->write(0, bytes); }).error == ESPIPE);
  CHECK(failure_of([&] { pipe->reserve(1); }).error == ESPIPE);
  CHECK(failure_of([&] { pipe->truncate(1); }).operation == "ftruncate");

  const Descriptor full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  REQUIRE(full.valid());
  const auto no_space = TargetFile::adopt(full.get(), "/dev/full", "/dev/full");
  const Failure refused = failure_of([&] { no_space->write(10, bytes); });
  CHECK(refused.error == ENOSPC);
  CHECK(refused.offset == 10);
}

TEST_CASE("a sealed file can be neither cut nor made longer") {
  const Descriptor sealed(memfd_create("fastio-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  REQUIRE(sealed.valid());
  const auto target = TargetFile::adopt(sealed.get(), "sealed", "");
  target->reserve(1000);
  REQUIRE(fcntl(sealed.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) == 0);
  CHECK(failure_of([&] { target->reserve(2000); }).error == EPERM);
  CHECK(failure_of([&] { target->truncate(10); }).error == EPERM);
}

TEST_CASE("files in memory, or that cannot be reopened, are not written direct") {
  const auto in_memory = WrittenFile(Place::memory).target()->direct_access();
  CHECK_FALSE(in_memory.possible);
  CHECK(in_memory.reason.find("is memory") != std::string::npos);

  const WrittenFile file;
  if (const auto direct = file.target()->direct_access(); !direct.possible) {
    MESSAGE("not tested: ", direct.reason);
    return;
  }
  const WrittenFile other;
  const auto replaced = TargetFile::adopt(file.fd(), file.path(), other.path());
  CHECK_FALSE(replaced->direct_access().possible);
  CHECK(replaced->direct_access().reason.find("another one") != std::string::npos);
  CHECK(replaced->direct_fd() == -1);

  const auto gone = TargetFile::adopt(file.fd(), file.path(), "./fastio-test-is-not-there");
  CHECK_FALSE(gone->direct_access().possible);
  CHECK(gone->direct_access().reason.find("ENOENT") != std::string::npos);
}

TEST_CASE("a file without a name is written direct by its descriptor") {
  const WrittenFile file;
  const auto target =
      TargetFile::adopt(file.fd(), file.path(), "/proc/self/fd/" + std::to_string(file.fd()));
  REQUIRE(unlink(file.path().c_str()) == 0);
  const DirectAccess direct = target->direct_access();
  if (!direct.possible) {
    MESSAGE("not tested: ", direct.reason);
    return;
  }
  CHECK(direct.alignment % 512 == 0);
  CHECK((fcntl(target->direct_fd(), F_GETFL) & O_DIRECT) != 0);
  CHECK(same_file(target->direct_fd(), target->buffered_fd()));
}

TEST_CASE("a refusal of direct writes is remembered for the mount") {
  const WrittenFile file;
  const WrittenFile other;
  const int status = testing::in_forked_child([&] {
    if (!file.target()->direct_access().possible) return 77;
    file.target()->forbid_direct("it was tried");
    const DirectAccess direct = other.target()->direct_access();
    return !direct.possible && direct.reason == "it was tried" ? 0 : 1;
  });
  if (status == 77) {
    MESSAGE("not tested: the working folder takes no direct writes");
  } else {
    CHECK(status == 0);
  }
}

TEST_CASE("two files exchange their names, where both are there") {
  const WrittenFile one;
  const WrittenFile other;
  one.target()->truncate(1);
  other.target()->truncate(2);
  const auto nbytes = [](const std::string& path) { return File::open(path)->nbytes(); };
  REQUIRE(exchange_names(one.path(), other.path()));
  CHECK(nbytes(one.path()) == 2);
  CHECK(nbytes(other.path()) == 1);
  const std::string missing = one.path() + "-is-not-there";
  CHECK_FALSE(exchange_names(one.path(), missing));
  CHECK_FALSE(exchange_names(missing, other.path()));
  CHECK(nbytes(one.path()) == 2);
  CHECK(nbytes(other.path()) == 1);
}

TEST_CASE("names that cannot be exchanged are an error") {
  const WrittenFile one;
  const Failure failure =
      failure_of([&] { static_cast<void>(exchange_names(one.path(), one.path() + "/inside")); });
  CHECK(failure.error == ENOTDIR);
  CHECK(failure.operation == "rename");
  CHECK(failure.path == one.path() + "/inside");
  const WrittenFile elsewhere(Place::memory);
  if (one.target()->mount().disk == elsewhere.target()->mount().disk) return;
  CHECK(failure_of([&] {
          static_cast<void>(exchange_names(one.path(), elsewhere.path()));
        }).error == EXDEV);
}

}  // namespace
}  // namespace fastio
