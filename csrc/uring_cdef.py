"""The part of liburing in `fastio._uring`, for cffi in API mode: inline functions work only so.

`python csrc/uring_cdef.py OUT.c` writes the module's C source. Policy is in python/fastio/uring/.
The C functions are steps that a signal between two calls of Python would tear apart.
"""

import sys

from cffi import FFI

_DECLARATIONS = """
struct iovec { void *iov_base; size_t iov_len; ...; };
struct io_uring { ...; };
struct io_uring_sqe;
struct io_uring_cqe { uint64_t user_data; int32_t res; ...; };
struct io_uring_params { uint32_t sq_entries; uint32_t features; ...; };
struct io_uring_probe { uint8_t last_op; ...; };

int io_uring_queue_init_params(unsigned, struct io_uring *, struct io_uring_params *);
void io_uring_queue_exit(struct io_uring *);
int io_uring_submit(struct io_uring *);
unsigned io_uring_sq_ready(const struct io_uring *);
unsigned io_uring_sq_space_left(const struct io_uring *);
int io_uring_peek_cqe(struct io_uring *, struct io_uring_cqe **);
void io_uring_cqe_seen(struct io_uring *, struct io_uring_cqe *);

int io_uring_register_buffers(struct io_uring *, const struct iovec *, unsigned);
int io_uring_register_files(struct io_uring *, const int *, unsigned);

struct io_uring_probe *io_uring_get_probe_ring(struct io_uring *);
void io_uring_free_probe(struct io_uring_probe *);
int io_uring_opcode_supported(const struct io_uring_probe *, int);

struct fastio_request {
  int opcode, fd;
  uint64_t address, offset, number;
  uint32_t length;
  uint16_t buffer_index;
  bool fixed_file, dropped;
  struct io_uring_sqe *sqe;
};
int fastio_queue(struct io_uring *, struct fastio_request *);
void fastio_discard(struct fastio_request *);
int fastio_wait(struct io_uring *, int64_t);
"""

# Works with liburing 2.1 (Ubuntu 22.04) and later: constants that came after it are not needed.
_SOURCE = """
#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct fastio_request {
  int opcode, fd;
  uint64_t address, offset, number;
  uint32_t length;
  uint16_t buffer_index;
  bool fixed_file, dropped;
  struct io_uring_sqe *sqe; /* set once it is queued */
};

/* 0, or -EAGAIN where the submission queue is full. */
static int fastio_queue(struct io_uring *ring, struct fastio_request *request) {
  struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
  if (sqe == NULL) return -EAGAIN;
  io_uring_prep_rw(request->opcode, sqe, request->fd, (const void *)(uintptr_t)request->address,
                   request->length, request->offset);
  sqe->buf_index = request->buffer_index;
  if (request->fixed_file) sqe->flags |= IOSQE_FIXED_FILE;
  sqe->user_data = request->number;
  request->sqe = sqe;
  return 0;
}

/* Makes a NOP of a request that the kernel has not taken: an entry cannot be taken back. */
static void fastio_discard(struct fastio_request *request) {
  request->dropped = true;
  memset(request->sqe, 0, sizeof *request->sqe); /* IORING_OP_NOP is 0 */
  request->sqe->user_data = request->number;
}

static int fastio_wait(struct io_uring *ring, int64_t timeout_ns) {
  struct __kernel_timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
  struct io_uring_cqe *first;
  return io_uring_wait_cqe_timeout(ring, &first, &timeout);
}
"""


def _main() -> None:
    ffi = FFI()
    ffi.cdef(_DECLARATIONS)
    ffi.set_source("fastio._uring", _SOURCE)
    ffi.emit_c_code(sys.argv[1])


_main()
