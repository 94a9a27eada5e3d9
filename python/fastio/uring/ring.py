"""The ring that a user sees: each method says what it refuses, and refuses it."""

from __future__ import annotations

import math
import operator
import time
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastio.uring.guard import exclusive, within
from fastio.uring.memory import keep_for_good
from fastio.uring.names import FLAGS
from fastio.uring.queue import INT_MAX, Completion, Queue, Request
from fastio.uring.registered import Registered

if TYPE_CHECKING:
    from typing_extensions import Self

    from fastio.uring.memory import AnyBuffer

_REQUEST_BYTES_MAX = 0x7FFFF000  # MAX_RW_COUNT of Linux
_BUFFERS_MAX = 1024  # of one readv: UIO_MAXIOV of Linux
_OFFSET_MAX = (1 << 63) - 1
_FSYNC_DATASYNC = 1  # IORING_FSYNC_DATASYNC
# A signal that another thread of the process got is answered after so long.
_TURN_S = 0.05


class Ring(Registered):
    """An io_uring: queue requests, `submit` them, `wait` for them or `peek`; a context manager.

    A request keeps its buffers exported until its completion is taken: a bytearray cannot be
    resized meanwhile, an mmap not closed. Owners that move their memory all the same (``resize``
    of ctypes, or of numpy with ``refcheck=False``) are found out when a request is submitted, and
    when a registered buffer is used; a request that the kernel has already is beyond help. A
    descriptor must stay open until its request was submitted, and the process should not fork
    with reads in flight.

    Parameters
    ----------
    entries : int
        Requests that can be queued before `submit`; the kernel rounds up to a power of two.
    flags : iterable of str
        Set-up flags of io_uring_setup(2): "iopoll" (polled completions, O_DIRECT only), "sqpoll"
        (a thread of the kernel submits), "clamp" (too many entries become the most there are),
        "submit_all", "coop_taskrun", "taskrun_flag", "single_issuer", "defer_taskrun".

    Attributes
    ----------
    entries : int
        What the kernel gave.

    Raises
    ------
    OSError
        The kernel gives no ring: with its errno and the likely cause.
    TypeError, ValueError
        An argument that is none of the above.

    Notes
    -----
    Every method but `close` raises ValueError after it, and RuntimeError in a forked child and
    while another thread uses the ring: one at a time.
    """

    def __init__(self, entries: int = 64, *, flags: Iterable[str] = ()) -> None:
        if isinstance(flags, str):
            raise TypeError(f"flags must be several names, not one str: {flags!r}")
        names = frozenset(flags)
        if unknown := names - FLAGS.keys():
            raise ValueError(f"unknown flags {sorted(unknown)}: expected some of {list(FLAGS)}")
        super().__init__(within("entries", entries, 1, INT_MAX), names)
        self.entries = self._open.entries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._queue is None:
            return
        if self._own and self._queue.requests:
            keep_for_good(self._queue.requests)
        self._let_go(self._queue)
        if self._own:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)

    def _let_go(self, queue: Queue) -> None:
        self._queue = None
        queue.exit()
        self._release_buffers()

    def close(self) -> None:
        """Close the ring, at once where nothing is in flight. Closing again does nothing.

        What is only queued is dropped. What is in flight is cancelled and waited for, so that no
        memory is let go of that the kernel may still write to; Ctrl-C then leaves the ring open, to
        be closed again. A ring that is dropped unclosed keeps such memory for good, with a
        ResourceWarning. A forked child closes its descriptor only.

        Raises
        ------
        OSError
            The kernel refuses to wait, as it does for other threads with "single_issuer".
        RuntimeError
            Another thread uses the ring.
        """
        if self._queue is None:
            return
        if self._own:
            self._drain()
        else:
            self._let_go(self._queue)

    @exclusive
    def _drain(self) -> None:
        self._open.drain(_TURN_S)
        self._let_go(self._open)

    # ---- requests

    @exclusive
    def read(
        self,
        fd: int,
        buffer: AnyBuffer,
        offset: int,
        *,
        tag: int,
        buffer_index: int | None = None,
        fixed_file: bool = False,
    ) -> None:
        """Queue a read into a buffer.

        Parameters
        ----------
        fd : int
            A descriptor, or the index of a registered file.
        buffer : writable buffer
            Is filled from its start.
        offset : int
            Where in the file, in bytes; 0 for a pipe.
        tag : int
            Names the request in its `Completion`, and to `cancel`.
        buffer_index : int, optional
            The registered buffer that `buffer` is, or is a part of.
        fixed_file : bool
            Whether `fd` is an index.

        Raises
        ------
        BlockingIOError
            The submission queue is full.
        BufferError
            The buffer is read-only or not contiguous; the registered one died.
        TypeError, ValueError
            An argument that is none of the above; a tag that is in use.
        """
        self._move("read", fd, (buffer,), offset, tag, fixed_file, buffer_index)

    @exclusive
    def write(
        self,
        fd: int,
        buffer: AnyBuffer,
        offset: int,
        *,
        tag: int,
        buffer_index: int | None = None,
        fixed_file: bool = False,
    ) -> None:
        """Queue a write of a buffer. Parameters are those of `read`; it may be read-only.

        Raises
        ------
        BlockingIOError, BufferError, TypeError, ValueError
            As `read`.
        """
        self._move("write", fd, (buffer,), offset, tag, fixed_file, buffer_index)

    @exclusive
    def readv(
        self,
        fd: int,
        buffers: Iterable[AnyBuffer],
        offset: int,
        *,
        tag: int,
        fixed_file: bool = False,
    ) -> None:
        """Queue one read into several buffers, at most 1024, one after the other.

        Other parameters are those of `read`.

        Raises
        ------
        BlockingIOError, BufferError, TypeError, ValueError
            As `read`.
        """
        self._move("readv", fd, tuple(buffers), offset, tag, fixed_file)

    @exclusive
    def fsync(
        self, fd: int, *, tag: int, data_only: bool = False, fixed_file: bool = False
    ) -> None:
        """Queue an fsync; it does not wait for writes that are in flight.

        Parameters
        ----------
        fd, tag, fixed_file
            Those of `read`.
        data_only : bool
            Do as fdatasync(2) does.

        Raises
        ------
        BlockingIOError, TypeError, ValueError
            As `read`.
        """
        fields = self._file(fd, fixed_file)
        fields["fsync_flags"] = _FSYNC_DATASYNC if data_only else 0
        self._open.put(self._request("fsync", tag, fields))

    @exclusive
    def cancel(self, target: int, *, tag: int) -> None:
        """Queue the cancellation of a request, which then completes with ECANCELED.

        Parameters
        ----------
        target : int
            The tag of that request.
        tag : int
            This one's: its result is 0, ENOENT where the target has ended, or EALREADY where it
            is past being cancelled, as a read is that the disk has.

        Raises
        ------
        BlockingIOError, TypeError, ValueError
            As `read`; no request has the tag `target`.
        """
        number = self._open.numbers.get(operator.index(target))
        if number is None:
            raise ValueError(f"no request in flight has the tag {target}")
        self._open.put(self._request("async_cancel", tag, {"fd": -1, "address": number}))

    def _move(
        self,
        operation: str,
        fd: int,
        buffers: tuple[AnyBuffer, ...],
        offset: int,
        tag: int,
        fixed_file: bool,
        buffer_index: int | None = None,
    ) -> None:
        if not 0 < len(buffers) <= _BUFFERS_MAX:
            raise ValueError(f"{len(buffers)} buffers: expected 1 to {_BUFFERS_MAX}")
        fields = self._file(fd, fixed_file)
        fields["offset"] = within("offset", offset, 0, _OFFSET_MAX)
        request = self._request(operation + ("" if buffer_index is None else "_fixed"), tag, fields)
        try:
            request.hold(buffers, writable=operation != "write")
            nbytes = sum(lease.nbytes for lease in request.leases)
            if nbytes > _REQUEST_BYTES_MAX:
                raise ValueError(f"{nbytes} bytes: a request moves at most {_REQUEST_BYTES_MAX}")
            if buffer_index is not None:
                request.fields.buffer_index = self._index(buffer_index, request.leases[0])
            self._open.put(request)
        finally:
            # What is queued keeps its memory, also where Ctrl-C comes right after.
            if not request.queued:
                request.release()

    def _request(self, operation: str, tag: int, fields: dict[str, Any]) -> Request:
        tag = operator.index(tag)
        if tag in self._open.numbers:
            raise ValueError(f"tag {tag} is in use: its completion was not taken yet")
        return Request(operation, tag, **fields)

    # ---- completions

    @exclusive
    def submit(self) -> int:
        """Hand what is queued to the kernel.

        Returns
        -------
        int
            How many requests the kernel took; the others stay queued.

        Raises
        ------
        BufferError
            The memory of a buffer is not where it was: that request is dropped, no other one is
            lost, and none was submitted.
        OSError
            The kernel took none: with EAGAIN or EBUSY, completions have to be taken first.
        """
        for request in self._open.queued():
            if request.tag is not None and any(lease.died for lease in request.leases):
                tag = request.tag
                self._open.discard(request)
                raise BufferError(f"a buffer of request {tag} has died: its owner moved its memory")
        return self._open.submit()

    @exclusive
    def wait(self, count: int = 1, timeout_s: float | None = None) -> list[Completion]:
        """Wait until so many requests have completed; Ctrl-C is answered, and loses none of them.

        Parameters
        ----------
        count : int
            At most as many as were submitted and not taken yet.
        timeout_s : float, optional
            How long, in seconds.

        Returns
        -------
        list of Completion
            All that have completed: more than `count`, or after `timeout_s` fewer.

        Raises
        ------
        OSError
            The kernel refuses to wait.
        TypeError, ValueError
            An argument that is none of the above: more than can ever complete.
        """
        count = within("count", count, 1, INT_MAX)
        if timeout_s is not None and not timeout_s >= 0:
            raise ValueError(f"timeout_s={timeout_s}: expected 0 or more")
        end = time.monotonic() + (math.inf if timeout_s is None else timeout_s)
        queue = self._open
        queue.look()
        coming = len(queue.ready) + queue.in_flight()
        if count > coming:
            raise ValueError(f"count={count}, but {coming} requests were submitted and not taken")
        while len(queue.ready) < count and (left := end - time.monotonic()) > 0:
            queue.turn(min(left, _TURN_S))
            queue.take()
        return self._handed_out()

    @exclusive
    def peek(self) -> list[Completion]:
        """Take what has completed, without waiting.

        Returns
        -------
        list of Completion
            In the order in which they completed.

        Raises
        ------
        OSError
            The kernel refuses.
        """
        self._open.look()
        return self._handed_out()

    def _handed_out(self) -> list[Completion]:
        done = list(self._open.ready.values())
        self._open.ready.clear()
        return done

    # ---- what the kernel offers

    @exclusive
    def features(self) -> tuple[str, ...]:
        """Name the features of the kernel's io_uring: IORING_FEAT_*, in lower case.

        Returns
        -------
        tuple of str
            One that is newer than fastio is the number of its bit.

        Raises
        ------
        Nothing of its own.
        """
        return self._open.features()

    @exclusive
    def probe(self) -> tuple[str, ...]:
        """Name the operations that the kernel knows: IORING_OP_*, in lower case.

        Returns
        -------
        tuple of str
            One that is newer than fastio is its number. Empty where the kernel cannot be asked.

        Raises
        ------
        Nothing of its own.
        """
        return self._open.operations()
