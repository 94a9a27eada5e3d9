#include "trust.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <span>
#include <utility>
#include <vector>

#include "error.h"

namespace fastio {
namespace {

constexpr std::string_view kMagic = "fastio verified 1\n";
constexpr std::int64_t kSettled_s = 2;  // timestamps may be that coarse
constexpr std::size_t kRecordsMost = 1024;
constexpr auto kNotPrivate = " is of another user, or open to others";

using Entry = std::array<std::byte, 8>;

// The first bytes of a digest; a record that was never written to has zeros.
Entry entry_of(const Digest& digest) {
  Entry entry{};
  const auto bytes = digest.bytes();
  std::copy_n(bytes.begin(), std::min(bytes.size(), entry.size()), entry.begin());
  return entry;
}

std::string failed(const std::string& path) { return path + ": " + describe_error(errno); }

// The first bytes of a record: the state of the file that it belongs to.
std::string header_of(const struct stat& file, std::uint64_t start, std::uint64_t chunk_bytes,
                      const Digests& digests) {
  std::string header(kMagic);
  const auto add = [&](std::uint64_t value) { header += std::to_string(value) + ' '; };
  add(file.st_dev);
  add(file.st_ino);
  add(static_cast<std::uint64_t>(file.st_size));
  for (const timespec& time : {file.st_mtim, file.st_ctim}) {
    add(static_cast<std::uint64_t>(time.tv_sec));
    add(static_cast<std::uint64_t>(time.tv_nsec));
  }
  add(start);
  add(chunk_bytes);
  header += digests.algorithm().name;
  header += ' ';
  add(xxh3_64(digests.bytes()));
  return header;
}

std::string name_of(const std::string& header) {
  std::array<char, 17> name{};
  const auto bytes = std::as_bytes(std::span(header));
  std::snprintf(name.data(), name.size(), "%016llx",
                static_cast<unsigned long long>(xxh3_64(bytes)));
  return name.data();
}

bool is_private(const struct stat& status) {
  return status.st_uid == geteuid() && (status.st_mode & 077) == 0;
}

// A folder of this user that nobody else can enter; nothing, and why, where there is another one.
Descriptor private_folder(const std::string& folder, std::string& refusal) {
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    refusal = failed(folder);
    return {};
  }
  Descriptor fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat status {};
  if (!fd.valid() || fstat(fd.get(), &status) != 0) {
    refusal = failed(folder);
    return {};
  }
  if (is_private(status)) return fd;
  refusal = folder + kNotPrivate;
  return {};
}

// Removes the older half of many records: files come and go.
void make_room(int folder) {
  Descriptor again(::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  DIR* const entries = again.valid() ? fdopendir(again.get()) : nullptr;
  if (entries == nullptr) return;
  static_cast<void>(again.release());  // closedir closes it
  std::vector<std::pair<std::int64_t, std::string>> records;
  while (const dirent* const entry = readdir(entries)) {
    struct stat status {};
    if (fstatat(folder, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISREG(status.st_mode))
      records.emplace_back(status.st_mtim.tv_sec, entry->d_name);
  }
  closedir(entries);
  if (records.size() <= kRecordsMost) return;
  std::ranges::sort(records);
  for (std::size_t i = 0; i < kRecordsMost / 2; ++i) unlinkat(folder, records[i].second.c_str(), 0);
}

// Makes a new record of a file that does not begin with its header. False, and errno, where it
// cannot be read or written.
bool give_header(int fd, int folder, const std::string& header) {
  std::string found(header.size(), '\0');
  const ssize_t got = pread(fd, found.data(), found.size(), 0);
  if (got == static_cast<ssize_t>(header.size()) && found == header) return true;
  if (got < 0) return false;
  make_room(folder);
  if (ftruncate(fd, 0) != 0) return false;
  const ssize_t put = pwrite(fd, header.data(), header.size(), 0);
  if (put >= 0) errno = ENOSPC;  // that is why a write is short
  return put == static_cast<ssize_t>(header.size());
}

off_t place_of(std::uint64_t chunk) {
  constexpr std::uint64_t kHeaderBytes = 512;  // every header is shorter
  return static_cast<off_t>(kHeaderBytes + chunk * sizeof(Entry));
}

}  // namespace

std::string trust_folder() { return "/dev/shm/fastio-" + std::to_string(geteuid()); }

TrustRecord::Opened TrustRecord::open(const std::string& folder, const File& file,
                                      std::uint64_t start, std::uint64_t chunk_bytes,
                                      const Digests& digests) {
  struct stat status {};
  if (fstat(file.buffered_fd(), &status) != 0) return {nullptr, failed(file.path())};
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const std::int64_t changed = std::max(status.st_mtim.tv_sec, status.st_ctim.tv_sec);
  if (now.tv_sec - changed < kSettled_s)
    return {nullptr, file.path() + " was changed a moment ago"};
  std::string refusal;
  const Descriptor place = private_folder(folder, refusal);
  if (!place.valid()) return {nullptr, std::move(refusal)};
  const std::string header = header_of(status, start, chunk_bytes, digests);
  const std::string name = name_of(header);
  Descriptor fd(::openat(place.get(), name.c_str(),
                         O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600));
  if (!fd.valid() || fstat(fd.get(), &status) != 0) return {nullptr, failed(folder + "/" + name)};
  if (!S_ISREG(status.st_mode) || !is_private(status))
    return {nullptr, folder + "/" + name + kNotPrivate};
  if (!give_header(fd.get(), place.get(), header)) return {nullptr, failed(folder + "/" + name)};
  return {std::shared_ptr<TrustRecord>(new TrustRecord(std::move(fd))), {}};
}

bool TrustRecord::holds(std::uint64_t chunk, const Digest& digest) const {
  const Entry expected = entry_of(digest);
  Entry found{};
  if (pread(fd_.get(), found.data(), found.size(), place_of(chunk)) != sizeof(Entry)) return false;
  return found == expected && found != Entry{};
}

void TrustRecord::put(std::uint64_t chunk, const Digest& digest) const {
  const Entry entry = entry_of(digest);
  const ssize_t put = pwrite(fd_.get(), entry.data(), entry.size(), place_of(chunk));
  static_cast<void>(put);  // a full tmpfs: nobody is told that it was verified
}

}  // namespace fastio
