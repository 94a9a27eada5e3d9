// A FUSE filesystem for tests: passes a folder through, delays reads, and hangs when told to. As on
// many network filesystems, a file cannot be without a name (O_TMPFILE), and names are not
// exchanged.
//
//   fuse_delay SOURCE MOUNTPOINT CONTROL
//
// Each read looks into the file CONTROL: a number is the microseconds to sleep first, "hang" means
// to wait until something else stands there. With "hang write" or "hang fsync" these wait, and no
// read does. Runs in the foreground, and dies (and with it the
// mount) with its parent.
#define _GNU_SOURCE
#define FUSE_USE_VERSION 35

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int source_fd = -1;
static const char* control_path;

// Paths come with a leading slash; the source folder itself is "/".
static const char* below_source(const char* path) { return path[1] == '\0' ? "." : path + 1; }

static void read_control(char* text, size_t capacity) {
  text[0] = '\0';
  const int fd = open(control_path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  const ssize_t n = read(fd, text, capacity - 1);
  text[n > 0 ? n : 0] = '\0';
  close(fd);
}

static void wait_as_told(void) {
  char text[32];
  read_control(text, sizeof text);
  if (strcmp(text, "hang") != 0) {
    const long delay_us = strtol(text, NULL, 10);
    if (delay_us > 0) {
      const struct timespec delay = {delay_us / 1000000, delay_us % 1000000 * 1000};
      nanosleep(&delay, NULL);
    }
    return;
  }
  while (strcmp(text, "hang") == 0) {
    usleep(2000);
    read_control(text, sizeof text);
  }
}

static void wait_while(const char* told) {
  char text[32];
  read_control(text, sizeof text);
  while (strcmp(text, told) == 0) {
    usleep(2000);
    read_control(text, sizeof text);
  }
}

static void* delay_init(struct fuse_conn_info* connection, struct fuse_config* config) {
  (void)config;
  // At the default of 12, a thirteenth asynchronous read blocks its submitter.
  connection->max_background = 64;
  connection->congestion_threshold = 64;
  return NULL;
}

static int delay_getattr(const char* path, struct stat* found, struct fuse_file_info* info) {
  (void)info;
  return fstatat(source_fd, below_source(path), found, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : -errno;
}

static int delay_readlink(const char* path, char* target, size_t capacity) {
  const ssize_t n = readlinkat(source_fd, below_source(path), target, capacity - 1);
  if (n < 0) return -errno;
  target[n] = '\0';
  return 0;
}

static int delay_readdir(const char* path, void* buffer, fuse_fill_dir_t fill, off_t offset,
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

static int delay_open(const char* path, struct fuse_file_info* info) {
  return open_below(path, info->flags & (O_ACCMODE | O_TRUNC), 0, info);
}

static int delay_create(const char* path, mode_t mode, struct fuse_file_info* info) {
  return open_below(path, (info->flags & (O_ACCMODE | O_EXCL | O_TRUNC)) | O_CREAT, mode, info);
}

static int delay_read(const char* path, char* buffer, size_t nbytes, off_t offset,
                      struct fuse_file_info* info) {
  (void)path;
  wait_as_told();
  size_t done = 0;
  while (done < nbytes) {
    const ssize_t n = pread((int)info->fh, buffer + done, nbytes - done, offset + (off_t)done);
    if (n < 0) return -errno;
    if (n == 0) break;
    done += (size_t)n;
  }
  return (int)done;
}

static int delay_write(const char* path, const char* data, size_t nbytes, off_t offset,
                       struct fuse_file_info* info) {
  (void)path;
  wait_while("hang write");
  const ssize_t n = pwrite((int)info->fh, data, nbytes, offset);
  return n < 0 ? -errno : (int)n;
}

static int delay_fsync(const char* path, int data_only, struct fuse_file_info* info) {
  (void)path, (void)data_only;
  wait_while("hang fsync");
  return fsync((int)info->fh) == 0 ? 0 : -errno;
}

static int delay_fallocate(const char* path, int mode, off_t offset, off_t nbytes,
                           struct fuse_file_info* info) {
  (void)path;
  return fallocate((int)info->fh, mode, offset, nbytes) == 0 ? 0 : -errno;
}

static int delay_truncate(const char* path, off_t nbytes, struct fuse_file_info* info) {
  (void)path;
  if (info == NULL) return -EROFS;  // by name: nobody here does that
  return ftruncate((int)info->fh, nbytes) == 0 ? 0 : -errno;
}

static int delay_rename(const char* from, const char* to, unsigned flags) {
  if (flags != 0) return -EINVAL;
  return renameat(source_fd, below_source(from), source_fd, below_source(to)) == 0 ? 0 : -errno;
}

static int delay_unlink(const char* path) {
  return unlinkat(source_fd, below_source(path), 0) == 0 ? 0 : -errno;
}

static int delay_mkdir(const char* path, mode_t mode) {
  return mkdirat(source_fd, below_source(path), mode) == 0 ? 0 : -errno;
}

static int delay_chmod(const char* path, mode_t mode, struct fuse_file_info* info) {
  (void)info;
  return fchmodat(source_fd, below_source(path), mode, 0) == 0 ? 0 : -errno;
}

static int delay_release(const char* path, struct fuse_file_info* info) {
  (void)path;
  close((int)info->fh);
  return 0;
}

static int delay_statfs(const char* path, struct statvfs* found) {
  (void)path;
  return fstatvfs(source_fd, found) == 0 ? 0 : -errno;
}

static const struct fuse_operations operations = {
    .init = delay_init,
    .getattr = delay_getattr,
    .readlink = delay_readlink,
    .readdir = delay_readdir,
    .open = delay_open,
    .create = delay_create,
    .read = delay_read,
    .write = delay_write,
    .fsync = delay_fsync,
    .fallocate = delay_fallocate,
    .truncate = delay_truncate,
    .rename = delay_rename,
    .unlink = delay_unlink,
    .mkdir = delay_mkdir,
    .chmod = delay_chmod,
    .release = delay_release,
    .statfs = delay_statfs,
};

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: %s SOURCE MOUNTPOINT CONTROL\n", argv[0]);
    return 2;
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  source_fd = open(argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC);
  control_path = argv[3];
  if (source_fd < 0) {
    perror(argv[1]);
    return 1;
  }
  char options[128] = "fsname=fastio-slow,default_permissions";
  // Anybody may look at what root mounts; an ordinary user would have to be allowed that in
  // fuse.conf.
  if (geteuid() == 0) strcat(options, ",allow_other");
#if FUSE_MINOR_VERSION >= 12
  strcat(options, ",max_threads=64");  // ten by default: the eleventh read would wait for a first
#endif
  char* fuse_argv[] = {argv[0], "-f", "-o", options, argv[2], NULL};
  return fuse_main(5, fuse_argv, &operations, NULL);
}
