"""Requests on their way through a ring, and the memory that each keeps until it has come back.

An exception may come out of any line here, for Ctrl-C does. So a request is written down before the
kernel may see it, and what is done twice is the same as done once.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from fastio._uring import ffi, lib
from fastio.uring.memory import Lease, address_of, vectors
from fastio.uring.names import FEATURES, FLAGS, OPERATIONS, name_of

if TYPE_CHECKING:
    from fastio.uring.memory import AnyBuffer

_LOOK_AGAIN_S = 0.001
INT_MAX = (1 << 31) - 1
_OPCODES = {name: opcode for opcode, name in enumerate(OPERATIONS)}
_CAUSES = {
    errno.EPERM: "a container's seccomp profile or kernel.io_uring_disabled may refuse it",
    errno.ENOSYS: "the kernel has no io_uring, or a filter hides it",
    errno.ENOMEM: "RLIMIT_MEMLOCK, `ulimit -l`, may be too low",
    errno.EBUSY: "completions have to be taken first",
    errno.EEXIST: "single_issuer and defer_taskrun: only the first thread may use the ring",
}


def check(operation: str, result: int, cause: str | None = None) -> None:
    """Raise what a negative result of the kernel says.

    Raises
    ------
    OSError
        With the errno, the operation and the likely cause.
    """
    if result < 0:
        cause = cause or _CAUSES.get(-result)
        why = f" ({cause})" if cause else ""
        raise OSError(-result, f"{operation}: {os.strerror(-result)}{why}")


class Completion(NamedTuple):
    """How one request ended.

    Attributes
    ----------
    tag : int
        The request's.
    result : int
        Bytes that were moved, which may be fewer than were asked for; 0 of fsync and cancel; or a
        negative errno.
    """

    tag: int
    result: int

    @property
    def error(self) -> OSError | None:
        """What a negative result stands for, not raised; else None."""
        return OSError(-self.result, os.strerror(-self.result)) if self.result < 0 else None


class Request:
    """One request, from when it is made until its completion is taken.

    Without a tag nobody asks how it ends. `fields` are those of `struct fastio_request`
    (csrc/uring_cdef.py).
    """

    def __init__(self, operation: str, tag: int | None, **fields: Any) -> None:
        self.operation = operation
        self.tag = tag
        self.leases: list[Lease] = []
        self._vectors: Any = None
        self.fields = ffi.new("struct fastio_request *", {"opcode": _OPCODES[operation], **fields})

    def hold(self, buffers: Iterable[AnyBuffer], *, writable: bool) -> None:
        """Take the memory that it is about."""
        for buffer in buffers:
            self.leases.append(Lease(buffer, writable=writable))
        if self.operation == "readv":
            self._vectors = vectors(self.leases)
            self.fields.address, self.fields.length = address_of(self._vectors), len(self.leases)
        else:
            (lease,) = self.leases
            self.fields.address, self.fields.length = lease.address, lease.nbytes

    def release(self) -> None:
        """Let the memory go."""
        for lease in self.leases:
            lease.release()

    @property
    def queued(self) -> bool:
        """Whether the queue has it, or had it."""
        return bool(self.fields.sqe)


class Queue:
    """A ring and its requests. Whoever uses it sees to threads, processes and arguments."""

    def __init__(self, entries: int, flags: Iterable[str]) -> None:
        self._numbers = itertools.count(1)
        self._cqe = ffi.new("struct io_uring_cqe **")
        self.requests: dict[int, Request] = {}  # by number, in the order of the submission queue
        self.numbers: dict[int, int] = {}  # of tags
        self.ready: dict[int, Completion] = {}  # by number, not handed out yet
        parameters = ffi.new("struct io_uring_params *")
        parameters.flags = sum(FLAGS[flag] for flag in flags)
        self.ring = ffi.new("struct io_uring *")
        result = lib.io_uring_queue_init_params(entries, self.ring, parameters)
        check(
            "io_uring_setup",
            result,
            "too many entries, or flags that this kernel does not know or does not combine"
            if result == -errno.EINVAL
            else None,
        )
        self.entries = int(parameters.sq_entries)
        self._features = int(parameters.features)
        self._timed_wait = "ext_arg" in self.features()
        # Where the kernel completes only when it is entered, a look is not enough.
        self._lazy = not {"coop_taskrun", "defer_taskrun"}.isdisjoint(flags)

    def exit(self) -> None:
        """Give the ring back; nothing of it is used after that."""
        lib.io_uring_queue_exit(self.ring)

    def features(self) -> tuple[str, ...]:
        bits = range(self._features.bit_length())
        return tuple(name_of(FEATURES, bit) for bit in bits if self._features >> bit & 1)

    def operations(self) -> tuple[str, ...]:
        probe = lib.io_uring_get_probe_ring(self.ring)
        if not probe:
            return ()
        try:
            opcodes = range(probe.last_op + 1)
            return tuple(
                name_of(OPERATIONS, each)
                for each in opcodes
                if lib.io_uring_opcode_supported(probe, each)
            )
        finally:
            lib.io_uring_free_probe(probe)

    def put(self, request: Request) -> None:
        """Queue a request; BlockingIOError where the queue is full."""
        number = request.fields.number = next(self._numbers)
        try:
            self.requests[number] = request
            if request.tag is not None:
                self.numbers[request.tag] = number
            if lib.fastio_queue(self.ring, request.fields) < 0:
                raise BlockingIOError(errno.EAGAIN, "the submission queue is full: submit() first")
        finally:
            if not request.queued:
                self._forget(number)

    def queued(self) -> list[Request]:
        """The requests that the kernel has not been given yet."""
        count = lib.fastio_queued(self.ring)
        return list(self.requests.values())[len(self.requests) - count :]

    def in_flight(self) -> int:
        """How many requests with a tag the kernel has been given and were not taken back."""
        queued = sum(request.tag is not None for request in self.queued())
        return len(self.numbers) - queued

    def submit(self) -> int:
        before = self.in_flight()
        while lib.fastio_queued(self.ring):
            result = lib.io_uring_submit(self.ring)
            if result == -errno.EINTR:
                continue
            if result < 0 and self.in_flight() == before:
                check("io_uring_enter", result)
            if result <= 0:
                break
        return self.in_flight() - before

    def discard(self, request: Request) -> None:
        """Make a queued request one that does nothing: an entry cannot be taken back."""
        lib.fastio_discard(request.fields)
        if request.tag is not None:
            self.numbers.pop(request.tag, None)
            request.tag = None
        request.operation, request.fields.fixed_file = "nop", False
        request.release()

    def _forget(self, number: int) -> None:
        request = self.requests.get(number)
        if request is not None:
            request.release()
            if request.tag is not None:
                self.numbers.pop(request.tag, None)
            self.requests.pop(number, None)

    def take(self) -> None:
        """Move what has completed to `ready`."""
        while lib.io_uring_peek_cqe(self.ring, self._cqe) == 0:
            number = self._cqe[0].user_data
            request = self.requests.get(number)
            if request is not None:
                if request.tag is not None:
                    self.ready[number] = Completion(request.tag, self._cqe[0].res)
                self._forget(number)
            lib.io_uring_cqe_seen(self.ring, self._cqe[0])

    def look(self) -> None:
        """Take what has completed, and have the kernel complete what it would put off."""
        self.take()
        if self._lazy and not self.ready:
            self.turn(0)
            self.take()

    def turn(self, timeout_s: float) -> None:
        """Wait for a completion, or a signal, for so long at most."""
        if not self._timed_wait:  # before Linux 5.11: liburing would queue a request of its own
            time.sleep(min(timeout_s, _LOOK_AGAIN_S))
            return
        result = lib.fastio_wait(self.ring, int(timeout_s * 1e9))
        if result not in (-errno.ETIME, -errno.EINTR):
            check("io_uring_enter", result)

    def drain(self, turn_s: float) -> None:
        """Discard what is queued, cancel what is in flight, and wait until nothing is."""
        for request in self.queued():
            self.discard(request)
        self.take()
        for number, request in list(self.requests.items()):
            if request.tag is not None:
                self._cancel(number, turn_s)
        while self.requests:
            self._push()
            self.turn(turn_s)
            self.take()

    def _cancel(self, number: int, turn_s: float) -> None:
        while number in self.requests:
            try:
                self.put(Request("async_cancel", None, fd=-1, address=number))
                return
            except BlockingIOError:
                self._push()
                self.turn(turn_s)
                self.take()

    def _push(self) -> None:
        while lib.fastio_queued(self.ring):
            result = lib.io_uring_submit(self.ring)
            if result in (-errno.EAGAIN, -errno.EBUSY):  # after completions were taken
                return
            if result != -errno.EINTR:
                check("io_uring_enter", result)
