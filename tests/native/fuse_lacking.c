// A FUSE filesystem for tests: passes a folder through, and refuses given calls.
//
//   fuse_lacking SOURCE MOUNTPOINT [CALL=ERRNO]...
//
// CALL is rename, link, truncate, chmod, chown, fallocate, fsync, fsyncdir, flock, or:
//   direct     Open with O_DIRECT.
//   order      A write of any byte but the next one. It ends the upload: every later write is
//              refused, and a new file is removed at its close.
//   overwrite  Open to write, without O_TRUNC, of a file that has bytes.
//
// Two more have no errno:
//
//   full=BYTES   A write behind that byte of a file is ENOSPC.
//   direct_io=1  The kernel caches nothing, and hands each write on as it comes.
#include "fuse_passthrough.h"

#include <stdlib.h>
#include <sys/file.h>

enum {
  RENAME,
  LINK,
  TRUNCATE,
  CHMOD,
  CHOWN,
  FALLOCATE,
  FSYNC,
  FSYNCDIR,
  FLOCK,
  DIRECT,
  ORDER,
  OVERWRITE,
  FULL,
  DIRECT_IO,
  CALLS
};
static const char* const names[CALLS] = {
    "rename",   "link",  "truncate", "chmod", "chown",     "fallocate", "fsync",
    "fsyncdir", "flock", "direct",   "order", "overwrite", "full",      "direct_io",
};
static long refused[CALLS];

// The offset of the next byte, by descriptor; -1 after a refused write.
enum { FILES_MAX = 1024 };
static off_t ends[FILES_MAX];
static int created[FILES_MAX];

static int opened(int result, struct fuse_file_info* info, int is_new) {
  if (result == 0 && info->fh < FILES_MAX) {
    ends[info->fh] = 0;
    created[info->fh] = is_new;
  }
  info->direct_io = refused[DIRECT_IO] != 0;
  return result;
}

static int lacking_open(const char* path, struct fuse_file_info* info) {
  if (refused[DIRECT] && info->flags & O_DIRECT) return -(int)refused[DIRECT];
  struct stat found;
  const int writes = (info->flags & O_ACCMODE) != O_RDONLY && !(info->flags & O_TRUNC);
  if (refused[OVERWRITE] && writes && pass_getattr(path, &found, NULL) == 0 && found.st_size > 0)
    return -(int)refused[OVERWRITE];
  return opened(pass_open(path, info), info, 0);
}

static int lacking_create(const char* path, mode_t mode, struct fuse_file_info* info) {
  return opened(pass_create(path, mode, info), info, 1);
}

static int lacking_write(const char* path, const char* data, size_t nbytes, off_t offset,
                         struct fuse_file_info* info) {
  if (refused[FULL] && offset + (off_t)nbytes > refused[FULL]) return -ENOSPC;
  if (!refused[ORDER]) return pass_write(path, data, nbytes, offset, info);
  if (info->fh >= FILES_MAX) return -EMFILE;
  if (offset != ends[info->fh]) {
    ends[info->fh] = -1;
    return -(int)refused[ORDER];
  }
  const int n = pass_write(path, data, nbytes, offset, info);
  if (n > 0) ends[info->fh] += n;
  return n;
}

static int lacking_release(const char* path, struct fuse_file_info* info) {
  const int given_up = refused[ORDER] && info->fh < FILES_MAX && ends[info->fh] < 0;
  if (given_up && created[info->fh]) pass_unlink(path);
  return pass_release(path, info);
}

static int lacking_fsync(const char* path, int data_only, struct fuse_file_info* info) {
  return refused[FSYNC] ? -(int)refused[FSYNC] : pass_fsync(path, data_only, info);
}

static int lacking_fsyncdir(const char* path, int data_only, struct fuse_file_info* info) {
  (void)path, (void)data_only, (void)info;
  return -(int)refused[FSYNCDIR];
}

static int lacking_fallocate(const char* path, int mode, off_t offset, off_t nbytes,
                             struct fuse_file_info* info) {
  if (refused[FALLOCATE]) return -(int)refused[FALLOCATE];
  return pass_fallocate(path, mode, offset, nbytes, info);
}

static int lacking_truncate(const char* path, off_t nbytes, struct fuse_file_info* info) {
  return refused[TRUNCATE] ? -(int)refused[TRUNCATE] : pass_truncate(path, nbytes, info);
}

static int lacking_rename(const char* from, const char* to, unsigned flags) {
  return refused[RENAME] ? -(int)refused[RENAME] : pass_rename(from, to, flags);
}

static int lacking_link(const char* from, const char* to) {
  if (refused[LINK]) return -(int)refused[LINK];
  return linkat(source_fd, below_source(from), source_fd, below_source(to), 0) == 0 ? 0 : -errno;
}

static int lacking_chmod(const char* path, mode_t mode, struct fuse_file_info* info) {
  return refused[CHMOD] ? -(int)refused[CHMOD] : pass_chmod(path, mode, info);
}

static int lacking_chown(const char* path, uid_t uid, gid_t gid, struct fuse_file_info* info) {
  (void)info;
  if (refused[CHOWN]) return -(int)refused[CHOWN];
  const int flags = AT_SYMLINK_NOFOLLOW;
  return fchownat(source_fd, below_source(path), uid, gid, flags) == 0 ? 0 : -errno;
}

static int lacking_flock(const char* path, struct fuse_file_info* info, int operation) {
  (void)path;
  if (refused[FLOCK]) return -(int)refused[FLOCK];
  return flock((int)info->fh, operation) == 0 ? 0 : -errno;
}

static const struct fuse_operations operations = {
    .getattr = pass_getattr,
    .readlink = pass_readlink,
    .readdir = pass_readdir,
    .open = lacking_open,
    .create = lacking_create,
    .read = pass_read,
    .write = lacking_write,
    .fsync = lacking_fsync,
    .fsyncdir = lacking_fsyncdir,
    .fallocate = lacking_fallocate,
    .truncate = lacking_truncate,
    .rename = lacking_rename,
    .link = lacking_link,
    .unlink = pass_unlink,
    .mkdir = pass_mkdir,
    .chmod = lacking_chmod,
    .chown = lacking_chown,
    .flock = lacking_flock,
    .release = lacking_release,
    .statfs = pass_statfs,
};

// Whether `told` is CALL=NUMBER of a known call.
static int take(const char* told) {
  for (int call = 0; call < CALLS; ++call) {
    const size_t length = strlen(names[call]);
    if (strncmp(told, names[call], length) != 0 || told[length] != '=') continue;
    refused[call] = strtol(told + length + 1, NULL, 10);
    return refused[call] > 0;
  }
  return 0;
}

int main(int argc, char** argv) {
  int known = argc >= 3;
  for (int i = 3; i < argc; ++i) known = known && take(argv[i]);
  if (!known) {
    fprintf(stderr, "usage: %s SOURCE MOUNTPOINT [CALL=ERRNO]...\n", argv[0]);
    return 2;
  }
  return serve(argv[0], argv[1], argv[2], "fastio-lacking", &operations);
}
