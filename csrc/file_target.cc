#include "file_target.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

namespace fastio {

TargetFile::TargetFile(std::string path, std::string reopened_as, Descriptor buffered, Mount mount)
    : path_(std::move(path)),
      reopened_as_(std::move(reopened_as)),
      buffered_(std::move(buffered)),
      mount_(std::move(mount)) {}

std::shared_ptr<TargetFile> TargetFile::adopt(int fd, std::string path, std::string reopened_as) {
  const auto refuse = [&](const char* operation) {
    throw IoError(Failure{last_error(), operation, path, {}, {}, Failure::Kind::write});
  };
  Descriptor own(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!own.valid()) refuse("fcntl");
  struct stat status {};
  if (fstat(own.get(), &status) != 0) refuse("fstat");
  Mount mount = identify_mount(own.get(), status.st_dev);
  return std::shared_ptr<TargetFile>(
      new TargetFile(std::move(path), std::move(reopened_as), std::move(own), std::move(mount)));
}

DirectAccess TargetFile::direct_access() {
  if (mount_.memory_backed) return {false, 0, mount_.filesystem + " is memory"};
  if (std::string known = direct_refusal_of(mount_.disk); !known.empty()) return {false, 0, known};
  const std::lock_guard lock(direct_mutex_);
  if (!direct_.valid() && direct_refusal_.empty()) {
    direct_ = Descriptor(::open(reopened_as_.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC));
    if (!direct_.valid()) {
      direct_refusal_ =
          "open with O_DIRECT: " + describe_error(last_error()) + " on " + mount_.filesystem;
    } else if (!same_file(direct_.get(), buffered_.get())) {
      direct_ = {};
      direct_refusal_ = "the file could not be opened once more: its name stands for another one";
    }
  }
  if (!direct_.valid()) return {false, 0, direct_refusal_};
  return direct_access_of(direct_.get());
}

void TargetFile::forbid_direct(const std::string& reason) const {
  remember_direct_refusal(mount_.disk, reason);
}

bool TargetFile::reserve(std::uint64_t nbytes) const {
  if (nbytes == 0) return true;
  int result = 0;
  do {
    result = fallocate(buffered_.get(), 0, 0, static_cast<off_t>(nbytes));
  } while (result != 0 && last_error() == EINTR);
  if (result == 0) return true;
  const int error = last_error();
  // EPERM: a seccomp filter that does not know the call.
  if (error != EOPNOTSUPP && error != EINVAL && error != ENOSYS && error != EPERM)
    throw IoError(failed("fallocate", error, {}));
  struct statvfs status {};
  if (fstatvfs(buffered_.get(), &status) == 0 && status.f_blocks != 0 &&
      nbytes / status.f_frsize >= status.f_bavail) {
    throw IoError(failed("reserve", ENOSPC, {},
                         std::to_string(nbytes) + " bytes are needed, and " +
                             std::to_string(status.f_bavail * status.f_frsize) + " are free"));
  }
  truncate(nbytes);
  return false;
}

void TargetFile::write(std::uint64_t offset, std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t written =
        pwrite(buffered_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && last_error() == EINTR) continue;
    // No byte and no error: nothing that a disk says, so it is not tried for ever.
    if (written <= 0) throw IoError(failed("write", written < 0 ? last_error() : EIO, offset));
    offset += static_cast<std::uint64_t>(written);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void TargetFile::truncate(std::uint64_t nbytes) const {
  while (ftruncate(buffered_.get(), static_cast<off_t>(nbytes)) != 0) {
    if (last_error() != EINTR) throw IoError(failed("ftruncate", last_error(), {}));
  }
}

void TargetFile::sync() const {
  if (fsync(buffered_.get()) != 0) throw IoError(failed("fsync", last_error(), {}));
}

bool exchange_names(const std::string& one, const std::string& other) {
  if (renameat2(AT_FDCWD, one.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE) == 0) return true;
  const int error = last_error();
  if (error == ENOENT || error == EINVAL || error == ENOSYS) return false;
  throw IoError(Failure{error, "rename", other, {}, {}, Failure::Kind::write});
}

}  // namespace fastio
