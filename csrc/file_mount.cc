// The filesystem of a file, and its support of O_DIRECT.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <mutex>
#include <set>

#include "file.h"
#include "process.h"

namespace fastio {
namespace {

// O_DIRECT is asked for in units of a page: every filesystem that is met takes 512 or 4096, and
// pages are what memory comes in.
constexpr std::uint64_t kDirectAlignment = 4096;

struct KnownFilesystem {
  std::uint32_t magic;
  const char* name;
  bool memory_backed;
};

// Filesystems whose page cache nobody else writes behind the kernel's back. Others (NFS, FUSE,
// Lustre, …) are never mapped. Magic numbers: linux/magic.h and the filesystems' own sources where
// that has none.
constexpr std::array kLocalFilesystems = {
    KnownFilesystem{EXT4_SUPER_MAGIC, "ext4", false},
    KnownFilesystem{0x58465342, "xfs", false},
    KnownFilesystem{BTRFS_SUPER_MAGIC, "btrfs", false},
    KnownFilesystem{OVERLAYFS_SUPER_MAGIC, "overlayfs", false},
    KnownFilesystem{F2FS_SUPER_MAGIC, "f2fs", false},
    KnownFilesystem{0x2FC12FC1, "zfs", false},
    KnownFilesystem{0xCA451A4E, "bcachefs", false},
    KnownFilesystem{SQUASHFS_MAGIC, "squashfs", false},
    KnownFilesystem{0xE0F5E1E2, "erofs", false},
    KnownFilesystem{TMPFS_MAGIC, "tmpfs", true},
    KnownFilesystem{RAMFS_MAGIC, "ramfs", true},
};

struct LocalMounts {
  std::mutex mutex;
  std::set<dev_t> disks;
};

struct DirectRefusals {
  std::mutex mutex;
  std::map<dev_t, std::string> reasons;
};

}  // namespace

Mount identify_mount(int fd, dev_t disk) {
  Mount mount{disk, "unknown filesystem", false, false};
  struct statfs status {};
  if (fstatfs(fd, &status) != 0) return mount;
  const auto magic = static_cast<std::uint32_t>(status.f_type);
  for (const KnownFilesystem& known : kLocalFilesystems) {
    if (known.magic != magic) continue;
    auto& local = process_state<LocalMounts>();
    const std::lock_guard lock(local.mutex);
    local.disks.insert(disk);
    return {disk, known.name, true, known.memory_backed};
  }
  std::array<char, 16> text{};
  std::snprintf(text.data(), text.size(), "0x%x", magic);
  mount.filesystem = std::string("filesystem ") + text.data();
  return mount;
}

bool on_known_local_mount(const std::string& path) {
  // A path descriptor opens no file, and cached entries need no server.
  const Descriptor place(::open(path.c_str(), O_PATH | O_CLOEXEC));
  return place.valid() && on_known_local_mount(place.get());
}

bool on_known_local_mount(int fd) {
  const auto disk = disk_under(fd);
  auto& local = process_state<LocalMounts>();
  const std::lock_guard lock(local.mutex);
  return disk && local.disks.contains(*disk);
}

std::optional<std::uint64_t> disk_under(int fd) {
  struct statx status {};
  if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &status) != 0)
    return std::nullopt;
  return makedev(status.stx_dev_major, status.stx_dev_minor);
}

std::uint64_t reported_direct_alignment(int fd) {
#ifdef STATX_DIOALIGN
  struct statx status {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
      (status.stx_mask & STATX_DIOALIGN) != 0) {
    return status.stx_dio_offset_align;
  }
#else
  static_cast<void>(fd);
#endif
  return 1;
}

DirectAccess direct_access_of(int fd) {
  const std::uint64_t reported = reported_direct_alignment(fd);
  if (reported == 0) return {false, 0, "statx says that this file takes no O_DIRECT"};
  return {true, std::max(reported, kDirectAlignment), reported == 1 ? "default" : "statx"};
}

bool same_file(int a, int b) {
  struct stat first {
  }, second{};
  return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

std::string direct_refusal_of(dev_t disk) {
  auto& refusals = process_state<DirectRefusals>();
  const std::lock_guard lock(refusals.mutex);
  const auto found = refusals.reasons.find(disk);
  return found == refusals.reasons.end() ? std::string() : found->second;
}

void remember_direct_refusal(dev_t disk, const std::string& reason) {
  auto& refusals = process_state<DirectRefusals>();
  const std::lock_guard lock(refusals.mutex);
  refusals.reasons.emplace(disk, reason);
}

}  // namespace fastio
