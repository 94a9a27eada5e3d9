#include "file.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "error.h"

namespace fastio {
namespace {

Descriptor open_for_reading(const std::string& path, int flags) {
  return Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags));
}

// Opens the file of `fd` once more, with O_DIRECT. It goes by the descriptor, as the path may lead
// to another file by now. Where /proc is not mounted, it goes by the path, if there is one.
Descriptor reopen_direct(int fd, const std::string& path) {
  Descriptor direct = open_for_reading("/proc/self/fd/" + std::to_string(fd), O_DIRECT);
  if (direct.valid() || last_error() == EINVAL || path.empty()) return direct;
  direct = open_for_reading(path, O_DIRECT);
  if (direct.valid() && !same_file(fd, direct.get())) {
    errno = ESTALE;
    return {};
  }
  return direct;
}

// Waits for whoever holds a lease on a regular file. The name may stand for a pipe by now, and a
// pipe can keep an open for ever. So a path descriptor, which opens nothing, is looked at first.
Descriptor open_leased(int folder, const std::string& name, int flags) {
  const Descriptor place(::openat(folder, name.c_str(), O_PATH | O_CLOEXEC | flags));
  struct stat status {};
  if (!place.valid() || fstat(place.get(), &status) != 0) return {};
  if (!S_ISREG(status.st_mode)) {  // it is refused by its kind, as any other
    return Descriptor(::openat(folder, name.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | flags));
  }
  const std::string opened = "/proc/self/fd/" + std::to_string(place.get());
  for (;;) {
    Descriptor fd = open_for_reading(opened, 0);
    if (!fd.valid() && last_error() == EINTR) continue;
    if (fd.valid() || last_error() != ENOENT) return fd;
    // No /proc is mounted here.
    return Descriptor(::openat(folder, name.c_str(), O_RDONLY | O_CLOEXEC | flags));
  }
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = other.release();
  }
  return *this;
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

int Descriptor::release() { return std::exchange(fd_, -1); }

File::File(std::string path, Reopening reopening, Descriptor buffered, std::uint64_t nbytes,
           Mount mount)
    : path_(std::move(path)),
      reopening_(reopening),
      buffered_(std::move(buffered)),
      nbytes_(nbytes),
      mount_(std::move(mount)) {}

std::shared_ptr<File> File::open(const std::string& path) {
  if (auto file = open_at_once(path)) return file;
  Descriptor fd = open_leased(AT_FDCWD, path, 0);
  if (!fd.valid()) throw_last_error("open", path);
  return adopt(std::move(fd), path, Reopening::by_path_too);
}

std::shared_ptr<File> File::open_at_once(const std::string& path) {
  // O_NONBLOCK so that a named pipe is refused below instead of waiting for its writer here.
  Descriptor fd = open_for_reading(path, O_NONBLOCK);
  if (!fd.valid() && last_error() == EWOULDBLOCK) return nullptr;
  if (!fd.valid()) throw_last_error("open", path);
  return adopt(std::move(fd), path, Reopening::by_path_too);
}

std::shared_ptr<File> File::open_in(int folder, const std::string& name,
                                    const std::string& shown_path) {
  if (auto file = open_in_at_once(folder, name, shown_path)) return file;
  Descriptor fd = open_leased(folder, name, O_NOFOLLOW);
  if (!fd.valid()) throw_last_error("open", shown_path);
  return adopt(std::move(fd), shown_path, Reopening::by_descriptor);
}

std::shared_ptr<File> File::open_in_at_once(int folder, const std::string& name,
                                            const std::string& shown_path) {
  if (name.find('/') != std::string::npos) {
    throw IoError(Failure{EINVAL, "open", shown_path, {}, "not a name in a folder"});
  }
  Descriptor fd(::openat(folder, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid() && last_error() == EWOULDBLOCK) return nullptr;
  if (!fd.valid() && last_error() == ENXIO) {  // a socket
    throw IoError(Failure{EINVAL, "open", shown_path, {}, "not a regular file"});
  }
  if (!fd.valid()) throw_last_error("open", shown_path);
  return adopt(std::move(fd), shown_path, Reopening::by_descriptor);
}

std::shared_ptr<File> File::open_in_cached(int folder, const std::string& name,
                                           const std::string& shown_path) {
  if (name.find('/') != std::string::npos) return nullptr;
  constexpr std::uint64_t kResolveCached = 0x20;  // RESOLVE_CACHED (openat2(2)), Linux 5.12
  open_how how{};
  how.flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
  how.resolve = kResolveCached;
  Descriptor fd(static_cast<int>(syscall(SYS_openat2, folder, name.c_str(), &how, sizeof how)));
  if (!fd.valid()) return nullptr;
  return adopt(std::move(fd), shown_path, Reopening::by_descriptor);
}

std::shared_ptr<File> File::adopt(Descriptor fd, const std::string& path, Reopening reopening) {
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) throw_last_error("fstat", path);
  if (S_ISDIR(status.st_mode) && reopening == Reopening::by_path_too) {
    throw IoError(Failure{EISDIR, "open", path, {}, {}});
  }
  if (!S_ISREG(status.st_mode)) {
    throw IoError(Failure{EINVAL, "open", path, {}, "not a regular file"});
  }
  // A ring takes O_NONBLOCK as "never wait for the disk", which is not what was meant.
  if (fcntl(fd.get(), F_SETFL, 0) != 0) throw_last_error("fcntl", path);
  // Nothing is read ahead: what follows a header is read past the page cache, or in whole blocks.
  posix_fadvise(fd.get(), 0, 0, POSIX_FADV_RANDOM);
  Mount mount = identify_mount(fd.get(), status.st_dev);
  return std::shared_ptr<File>(new File(path, reopening, std::move(fd),
                                        static_cast<std::uint64_t>(status.st_size),
                                        std::move(mount)));
}

DirectAccess File::direct_access() {
  if (std::string known = direct_refusal_of(mount_.disk); !known.empty()) return {false, 0, known};
  const MutexLock lock(direct_mutex_);
  if (!direct_.valid() && direct_refusal_.empty()) {
    direct_ = reopen_direct(buffered_.get(),
                            reopening_ == Reopening::by_path_too ? path_ : std::string());
    if (!direct_.valid()) {
      direct_refusal_ =
          "open with O_DIRECT: " + describe_error(last_error()) + " on " + mount_.filesystem;
    }
  }
  if (!direct_.valid()) return {false, 0, direct_refusal_};
  return direct_access_of(direct_.get());
}

void File::forbid_direct(const std::string& reason) const {
  remember_direct_refusal(mount_.disk, reason);
}

std::uint64_t File::current_nbytes() const {
  struct stat status {};
  return fstat(buffered_.get(), &status) == 0 ? static_cast<std::uint64_t>(status.st_size)
                                              : nbytes_;
}

void File::drop_cached(std::uint64_t begin, std::uint64_t end) const {
  // A page that is only touched would stay.
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const std::uint64_t from = begin / page * page;
  const std::uint64_t to = (end + page - 1) / page * page;
  posix_fadvise(buffered_.get(), static_cast<off_t>(from), static_cast<off_t>(to - from),
                POSIX_FADV_DONTNEED);
}

void File::will_need(std::uint64_t begin, std::uint64_t end) const {
  // Of one request the kernel takes what the device reads at once, and drops the rest.
  constexpr std::uint64_t kStepBytes = std::uint64_t{128} << 10;
  for (std::uint64_t at = begin; at < end; at += kStepBytes) {
    posix_fadvise(buffered_.get(), static_cast<off_t>(at),
                  static_cast<off_t>(std::min(kStepBytes, end - at)), POSIX_FADV_WILLNEED);
  }
}

bool File::read_cached(std::uint64_t offset, std::span<std::byte> out) const {
  // tmpfs does not know the flag, and needs none.
  const int flags = mount_.memory_backed ? 0 : RWF_NOWAIT;
  std::size_t done = 0;
  while (done < out.size()) {
    iovec part{out.data() + done, out.size() - done};
    const ssize_t got =
        preadv2(buffered_.get(), &part, 1, static_cast<off_t>(offset + done), flags);
    if (got <= 0) return false;
    done += static_cast<std::size_t>(got);
  }
  return true;
}

void File::read(std::uint64_t offset, std::span<std::byte> out) const {
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t got = pread(buffered_.get(), out.data() + done, out.size() - done,
                              static_cast<off_t>(offset + done));
    if (got < 0) {
      if (last_error() == EINTR) continue;
      throw_last_error("read", path_, offset + done);
    }
    if (got == 0) throw IoError(ended_early(*this, offset + done, offset + out.size()));
    done += static_cast<std::size_t>(got);
  }
}

Failure ended_early(const File& file, std::uint64_t end, std::uint64_t expected_end) {
  return Failure{ENODATA, "read", file.path(), std::min(end, file.current_nbytes()),
                 "the file ends here, " + std::to_string(expected_end) +
                     " bytes were expected (it had " + std::to_string(file.nbytes()) +
                     " when it was opened)"};
}

}  // namespace fastio
