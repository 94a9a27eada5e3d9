// A FUSE filesystem for tests: passes a folder through, delays reads, and hangs on request.
//
//   fuse_delay SOURCE MOUNTPOINT CONTROL
//
// Each read looks into the file CONTROL. A number is a delay in microseconds; "hang" waits until
// the file changes. With "hang open", "hang write" or "hang fsync" these wait, and reads do not.
#include "fuse_passthrough.h"

#include <stdlib.h>

static const char* control_path;

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

static int delay_open(const char* path, struct fuse_file_info* info) {
  wait_while("hang open");
  return pass_open(path, info);
}

static int delay_read(const char* path, char* buffer, size_t nbytes, off_t offset,
                      struct fuse_file_info* info) {
  wait_as_told();
  return pass_read(path, buffer, nbytes, offset, info);
}

static int delay_write(const char* path, const char* data, size_t nbytes, off_t offset,
                       struct fuse_file_info* info) {
  wait_while("hang write");
  return pass_write(path, data, nbytes, offset, info);
}

static int delay_fsync(const char* path, int data_only, struct fuse_file_info* info) {
  wait_while("hang fsync");
  return pass_fsync(path, data_only, info);
}

static const struct fuse_operations operations = {
    .init = delay_init,
    .getattr = pass_getattr,
    .readlink = pass_readlink,
    .readdir = pass_readdir,
    .open = delay_open,
    .create = pass_create,
    .read = delay_read,
    .write = delay_write,
    .fsync = delay_fsync,
    .fallocate = pass_fallocate,
    .truncate = pass_truncate,
    .rename = pass_rename,
    .unlink = pass_unlink,
    .mkdir = pass_mkdir,
    .chmod = pass_chmod,
    .release = pass_release,
    .statfs = pass_statfs,
};

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: %s SOURCE MOUNTPOINT CONTROL\n", argv[0]);
    return 2;
  }
  control_path = argv[3];
  return serve(argv[0], argv[1], argv[2], "fastio-slow", &operations);
}
