"""Requests on their way through a ring, and the memory that each one keeps exported.

Ctrl-C may raise an exception after any line here. So a request is recorded before the kernel can
see it, and every step may be repeated.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from fastio._uring import ffi, lib

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Buffer

# numpy's types implement Buffer only from Python 3.12 on.
AnyBuffer: TypeAlias = "Buffer | npt.NDArray[Any]"
# IORING_FEAT_* by bit and IORING_OP_* by number: include/uapi/linux/io_uring.h of Linux 6.19. The
# kernel never changes their numbers, so the tables may be older or newer than the kernel.
_FEATURES = """single_mmap nodrop submit_stable rw_cur_pos cur_personality fast_poll poll_32bits
sqpoll_nonfixed ext_arg native_workers rsrc_tags cqe_skip linked_file reg_reg_ring recvsend_bundle
min_timeout rw_attr no_iowait"""
_OPERATIONS = """nop readv writev fsync read_fixed write_fixed poll_add poll_remove sync_file_range
sendmsg recvmsg timeout timeout_remove accept async_cancel link_timeout connect fallocate openat
close files_update statx read write fadvise madvise send recv openat2 epoll_ctl splice
provide_buffers remove_buffers tee shutdown renameat unlinkat mkdirat symlinkat linkat msg_ring
fsetxattr setxattr fgetxattr getxattr socket uring_cmd send_zc sendmsg_zc read_multishot waitid
futex_wait futex_wake futex_waitv fixed_fd_install ftruncate bind listen recv_zc epoll_wait
readv_fixed writev_fixed pipe nop128 uring_cmd128"""
FEATURES, OPERATIONS = _FEATURES.split(), _OPERATIONS.split()
TURN_S = 0.05  # until a signal that another thread of the process received is answered
_LOOK_AGAIN_S = 0.001
_REQUEST_BYTES_MAX = 0x7FFFF000  # MAX_RW_COUNT of Linux
_OWN_NUMBERS = 1 << 63
_CAUSES = {
    errno.EPERM: "a container's seccomp profile or kernel.io_uring_disabled may refuse it",
    errno.ENOSYS: "the kernel has no io_uring, or a filter hides it",
    errno.ENOMEM: "RLIMIT_MEMLOCK, `ulimit -l`, may be too low",
    errno.EBUSY: "completions have to be taken first",
}


def _check(operation: str, result: int, cause: str = "") -> None:
    if result < 0:
        cause = _CAUSES.get(-result, cause)
        why = f" ({cause})" if cause else ""
        raise OSError(-result, f"{operation}: {os.strerror(-result)}{why}")


def _name(names: list[str], number: int) -> str:
    return names[number] if number < len(names) else str(number)


def _exported(buffer: AnyBuffer, *, writable: bool) -> Any:
    """Return the buffer as a `char[]` of cffi, which its owner can neither resize nor free."""
    view = memoryview(cast("Buffer", buffer))
    if writable and view.readonly:
        raise BufferError("a read-only buffer cannot be read into")
    if not view.c_contiguous:
        raise BufferError("the buffer is not contiguous")
    return ffi.from_buffer("char[]", view, require_writable=writable)


def _vectors(memory: list[Any]) -> Any:
    return ffi.new("struct iovec[]", [(each, len(each)) for each in memory])


class Completion(NamedTuple):
    """The end of a request: its tag, and the bytes moved (for fsync and cancel 0) or -errno.

    Examples
    --------
    >>> Completion(tag=1, result=-21).error
    IsADirectoryError(21, 'Is a directory')
    """

    tag: int
    result: int

    @property
    def error(self) -> OSError | None:
        """The exception for a negative result, not raised; else None."""
        return OSError(-self.result, os.strerror(-self.result)) if self.result < 0 else None


class _Request(NamedTuple):
    fields: Any  # struct fastio_request of csrc/uring_cdef.py
    memory: list[Any]


class Queue:
    """A ring and its requests by number; the number of a user's request is its tag.

    The user of a queue checks threads, processes and integers.
    """

    def __init__(self, entries: int, buffers: Iterable[AnyBuffer], fds: list[int]) -> None:
        self._own_numbers = itertools.count(_OWN_NUMBERS)
        self._cqe = ffi.new("struct io_uring_cqe **")
        self.requests: dict[int, _Request] = {}  # in the order of the submission queue
        self.ready: dict[int, Completion] = {}  # not handed out yet
        self._registered: list[Any] = []
        self.ring = ffi.new("struct io_uring *")
        parameters = ffi.new("struct io_uring_params *")
        result = lib.io_uring_queue_init_params(entries, self.ring, parameters)
        _check("io_uring_setup", result, "too many entries")
        try:
            self.entries = int(parameters.sq_entries)
            features = [bit for bit in range(32) if parameters.features >> bit & 1]
            self.features = tuple(_name(FEATURES, bit) for bit in features)
            self.operations = tuple(_name(OPERATIONS, opcode) for opcode in self._probed())
            self._timed_wait = "ext_arg" in self.features
            self._register(buffers, fds)
        except BaseException:
            self.release()
            lib.io_uring_queue_exit(self.ring)
            raise

    def _probed(self) -> list[int]:
        probe = ffi.gc(lib.io_uring_get_probe_ring(self.ring), lib.io_uring_free_probe)
        known = range(probe.last_op + 1 if probe else 0)
        return [opcode for opcode in known if lib.io_uring_opcode_supported(probe, opcode)]

    def _register(self, buffers: Iterable[AnyBuffer], fds: list[int]) -> None:
        for buffer in buffers:
            self._registered.append(_exported(buffer, writable=True))
        if memory := self._registered:
            result = lib.io_uring_register_buffers(self.ring, _vectors(memory), len(memory))
            _check("io_uring_register_buffers", result)
        if fds:
            result = lib.io_uring_register_files(self.ring, fds, len(fds))
            _check("io_uring_register_files", result)

    def release(self) -> None:
        for each in self._registered:
            ffi.release(each)

    def put(self, operation: str, number: int, buffers: Iterable[AnyBuffer], **fields: int) -> None:
        """Queue a request with these fields, or raise BlockingIOError if the queue is full."""
        request = _Request(ffi.new("struct fastio_request *", {"number": number, **fields}), [])
        try:
            for buffer in buffers:
                request.memory.append(_exported(buffer, writable=operation != "write"))
            self._point(request, operation)
            self.requests[number] = request
            if lib.fastio_queue(self.ring, request.fields) < 0:
                raise BlockingIOError(errno.EAGAIN, "the submission queue is full: submit() first")
        finally:
            if not request.fields.sqe:
                self._forget(request)

    def _point(self, request: _Request, operation: str) -> None:
        """Set the operation and its memory; within a registered buffer it becomes a fixed one."""
        fields, memory = request
        nbytes = sum(map(len, memory))
        if nbytes > _REQUEST_BYTES_MAX:
            raise ValueError(f"{nbytes} bytes: a request moves at most {_REQUEST_BYTES_MAX}")
        if operation == "readv":
            fields.length = len(memory)
            memory.append(_vectors(memory))
        elif memory:
            fields.length, begin = nbytes, memory[0] + 0  # a `char *`
            for index, whole in enumerate(self._registered):
                if 0 <= begin - whole <= len(whole) - nbytes:
                    fields.buffer_index, operation = index, f"{operation}_fixed"
                    break
        if memory:
            fields.address = int(ffi.cast("uintptr_t", memory[-1]))
        fields.opcode = OPERATIONS.index(operation)

    def _forget(self, request: _Request) -> None:
        for each in request.memory:
            ffi.release(each)
        self.requests.pop(request.fields.number, None)

    def _queued(self) -> int:
        """The number of requests that the kernel has not taken yet."""
        return int(lib.io_uring_sq_ready(self.ring))

    def coming(self) -> int:
        """The number of completions that a user can be given without another submit."""
        submitted = itertools.islice(self.requests.values(), len(self.requests) - self._queued())
        return len(self.ready) + sum(not each.fields.dropped for each in submitted)

    def submit(self) -> int:
        """Submit the queue; return how many requests the kernel took, or raise if it took none."""
        queued, result = self._queued(), 1
        while self._queued() and (result > 0 or result == -errno.EINTR):
            result = lib.io_uring_submit(self.ring)
        if queued == self._queued():
            _check("io_uring_enter", result)
        return queued - self._queued()

    def take(self) -> None:
        """Move completions from the ring to `ready`."""
        while lib.io_uring_peek_cqe(self.ring, self._cqe) == 0:
            number = self._cqe[0].user_data
            if request := self.requests.get(number):
                if not request.fields.dropped:
                    self.ready[number] = Completion(number, self._cqe[0].res)
                self._forget(request)
            lib.io_uring_cqe_seen(self.ring, self._cqe[0])

    def turn(self, timeout_s: float) -> None:
        """Wait for a completion or a signal, at most so long; then take completions."""
        if self._timed_wait:
            result = lib.fastio_wait(self.ring, int(timeout_s * 1e9))
            if result not in (-errno.ETIME, -errno.EINTR):
                _check("io_uring_enter", result)
        else:  # before Linux 5.11: liburing would queue a request of its own
            time.sleep(min(timeout_s, _LOOK_AGAIN_S))
        self.take()

    def drain(self) -> None:
        """Drop what is queued, cancel what is in flight, and wait until nothing is left."""
        for request in list(self.requests.values())[len(self.requests) - self._queued() :]:
            lib.fastio_discard(request.fields)  # an entry cannot be taken back: it becomes a NOP
        self.take()
        targets = [number for number, each in self.requests.items() if not each.fields.dropped]
        while self.requests:
            while targets and lib.io_uring_sq_space_left(self.ring):
                own = next(self._own_numbers)
                self.put("async_cancel", own, (), address=targets[-1], dropped=True)
                targets.pop()
            try:
                self.submit()
            except OSError as error:  # these two end as completions are taken
                if error.errno not in (errno.EAGAIN, errno.EBUSY):
                    raise
            self.turn(TURN_S)
