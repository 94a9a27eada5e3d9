// Operations that the FUSE filesystems of the tests share: each passes a folder through. As on many
// network filesystems, a file cannot be without a name (O_TMPFILE), and names are not exchanged.
#pragma once

#define _GNU_SOURCE
#define FUSE_USE_VERSION 35

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int source_fd = -1;

// Paths come with a leading slash; the source folder itself is "/".
static const char* below_source(const char* path) { return path[1] == '\0' ? "." : path + 1; }

static int pass_getattr(const char* path, struct stat* found, struct fuse_file_info* info) {
  (void)info;
  return fstatat(source_fd, below_source(path), found, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : -errno;
}

static int pass_readlink(const char* path, char* target, size_t capacity) {
  const ssize_t n = readlinkat(source_fd, below_source(path), target, capacity - 1);
  if (n < 0) return -errno;
  target[n] = '\0';
  return 0;
}

static int pass_readdir(const char* path, void* buffer, fuse_fill_dir_t fill, off_t offset,
                        struct fuse_file_info* info, enum fuse_readdir_flags flags) {
  (void)offset, (void)info, (void)flags;
  const int fd = openat(source_fd, below_source(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return -errno;
  DIR* folder = fdopendir(fd);
  if (folder == NULL) {
    close(fd);
    return -ENOMEM;
  }
  for (const struct dirent* entry; (entry = readdir(folder)) != NULL;)
    fill(buffer, entry->d_name, NULL, 0, 0);
  closedir(folder);
  return 0;
}

static int open_below(const char* path, int flags, mode_t mode, struct fuse_file_info* info) {
  const int fd = openat(source_fd, below_source(path), flags | O_CLOEXEC, mode);
  if (fd < 0) return -errno;
  info->fh = (uint64_t)fd;
  return 0;
}

static int pass_open(const char* path, struct fuse_file_info* info) {
  return open_below(path, info->flags & (O_ACCMODE | O_TRUNC), 0, info);
}

static int pass_create(const char* path, mode_t mode, struct fuse_file_info* info) {
  return open_below(path, (info->flags & (O_ACCMODE | O_EXCL | O_TRUNC)) | O_CREAT, mode, info);
}

static int pass_read(const char* path, char* buffer, size_t nbytes, off_t offset,
                     struct fuse_file_info* info) {
  (void)path;
  size_t done = 0;
  while (done < nbytes) {
    const ssize_t n = pread((int)info->fh, buffer + done, nbytes - done, offset + (off_t)done);
    if (n < 0) return -errno;
    if (n == 0) break;
    done += (size_t)n;
  }
  return (int)done;
}

static int pass_write(const char* path, const char* data, size_t nbytes, off_t offset,
                      struct fuse_file_info* info) {
  (void)path;
  const ssize_t n = pwrite((int)info->fh, data, nbytes, offset);
  return n < 0 ? -errno : (int)n;
}

static int pass_fsync(const char* path, int data_only, struct fuse_file_info* info) {
  (void)path, (void)data_only;
  return fsync((int)info->fh) == 0 ? 0 : -errno;
}

static int pass_fallocate(const char* path, int mode, off_t offset, off_t nbytes,
                          struct fuse_file_info* info) {
  (void)path;
  return fallocate((int)info->fh, mode, offset, nbytes) == 0 ? 0 : -errno;
}

static int pass_truncate(const char* path, off_t nbytes, struct fuse_file_info* info) {
  (void)path;
  if (info == NULL) return -EROFS;  // by name: no test does that
  return ftruncate((int)info->fh, nbytes) == 0 ? 0 : -errno;
}

static int pass_rename(const char* from, const char* to, unsigned flags) {
  if (flags != 0) return -EINVAL;
  return renameat(source_fd, below_source(from), source_fd, below_source(to)) == 0 ? 0 : -errno;
}

static int pass_unlink(const char* path) {
  return unlinkat(source_fd, below_source(path), 0) == 0 ? 0 : -errno;
}

static int pass_mkdir(const char* path, mode_t mode) {
  return mkdirat(source_fd, below_source(path), mode) == 0 ? 0 : -errno;
}

static int pass_chmod(const char* path, mode_t mode, struct fuse_file_info* info) {
  (void)info;
  return fchmodat(source_fd, below_source(path), mode, 0) == 0 ? 0 : -errno;
}

static int pass_release(const char* path, struct fuse_file_info* info) {
  (void)path;
  close((int)info->fh);
  return 0;
}

static int pass_statfs(const char* path, struct statvfs* found) {
  (void)path;
  return fstatvfs(source_fd, found) == 0 ? 0 : -errno;
}

// Serves `operations` in the foreground, and dies (and with it the mount) with its parent.
static int serve(char* program, const char* source, char* mountpoint, const char* name,
                 const struct fuse_operations* operations) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  source_fd = open(source, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (source_fd < 0) {
    perror(source);
    return 1;
  }
  char options[160];
  snprintf(options, sizeof options, "fsname=%s,default_permissions", name);
  // All users may look at root's mount; an ordinary user would need a permission in fuse.conf.
  if (geteuid() == 0) strcat(options, ",allow_other");
#if FUSE_MINOR_VERSION >= 12
  strcat(options, ",max_threads=64");  // ten by default: the eleventh read would have to wait
#endif
  char* fuse_argv[] = {program, "-f", "-o", options, mountpoint, NULL};
  return fuse_main(5, fuse_argv, operations, NULL);
}
