"""The ring that a user sees: each method checks its integers and its caller."""

from __future__ import annotations

import ctypes
import functools
import math
import operator
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from fastio._uring import lib
from fastio.display.values import counted, one_line
from fastio.uring.queue import TURN_S, AnyBuffer, Completion, Queue

_INT_MAX = (1 << 31) - 1
_OFFSET_MAX = (1 << 63) - 1
_Method = TypeVar("_Method", bound=Callable[..., Any])


def _within(what: str, number: int, least: int, most: int) -> int:
    number = operator.index(number)
    if not least <= number <= most:
        raise ValueError(f"{what} is {number}: expected {least} to {most}")
    return number


def _exclusive(method: _Method) -> _Method:
    """Refuse a call in another process, beside another call, or after the close."""

    @functools.wraps(method)
    def call(self: Ring, *args: Any, **kwargs: Any) -> Any:
        if os.getpid() != self._process:
            raise RuntimeError("the ring belongs to the process that made it: make another one")
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("the ring is in use by another thread: one at a time")
        nested, self._in_use = self._in_use, True
        try:
            if nested:
                raise RuntimeError("the ring is in use by what this signal handler interrupted")
            if self.closed:
                raise ValueError("the ring is closed")
            return method(self, *args, **kwargs)
        finally:
            self._in_use = nested
            self._lock.release()

    return cast("_Method", call)


class Ring:
    """An io_uring as a context manager: queue requests, `submit` them, `wait` for completions.

    A request keeps its buffers exported until its completion is taken: a bytearray cannot be
    resized meanwhile, an mmap cannot be closed. A descriptor must stay open until its request is
    submitted, or until `close` if it is registered. Methods raise ValueError after `close`. They
    raise RuntimeError in a forked child and while another thread uses the ring.

    Parameters
    ----------
    entries : int
        Requests that can be queued before `submit`; the kernel rounds up to a power of two.
    buffers : iterable of writable buffers
        Memory to register until `close`: reads and writes within it are fixed ones.
    files : iterable of int
        Descriptors to register until `close`.

    Attributes
    ----------
    entries : int
        The size that the kernel gave.
    features, operations : tuple of str
        IORING_FEAT_* and IORING_OP_* of the kernel, in lower case.
    closed : bool

    Raises
    ------
    BufferError, OSError, TypeError, ValueError
        A buffer is read-only or not contiguous, the kernel refuses, an argument is out of range.

    Examples
    --------
    >>> buffer = bytearray(b"abc")
    >>> with open("/dev/zero", "rb") as file, Ring() as ring:
    ...     ring.read(file.fileno(), buffer, 0, tag=7)
    ...     ring.wait(ring.submit())
    [Completion(tag=7, result=3)]
    """

    closed = True  # for __del__ after a refused set-up

    def __init__(
        self, entries: int = 64, *, buffers: Iterable[AnyBuffer] = (), files: Iterable[int] = ()
    ) -> None:
        fds = [_within("a descriptor", fd, 0, _INT_MAX) for fd in files]
        self._files = {fd: index for index, fd in enumerate(fds)}
        self._process = os.getpid()
        # Ctrl-C right after the acquisition of a plain lock would leave it locked for everybody.
        self._lock, self._in_use = threading.RLock(), False
        self._queue = Queue(_within("entries", entries, 1, _INT_MAX), buffers, fds)
        self.entries, self.closed = self._queue.entries, False
        self.features, self.operations = self._queue.features, self._queue.operations

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self.closed:
            return
        if os.getpid() == self._process:
            if self._queue.requests:  # the kernel may write there: not even an exit may free it
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._queue.requests))
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        self._exit()

    @one_line
    def __repr__(self) -> str:
        if self.closed:
            return "<fastio.uring.Ring, closed>"
        requests = counted(len(self._queue.requests), "request")
        of_parent = "" if os.getpid() == self._process else ", of another process"
        return f"<fastio.uring.Ring of {self.entries} entries, {requests} on the way{of_parent}>"

    def close(self) -> None:
        """Drop queued requests, cancel those in flight and wait for them, then close the ring.

        Ctrl-C leaves the ring open, to be closed again. A ring that is dropped unclosed never frees
        the buffers of its requests. A forked child closes its descriptor only.

        Raises
        ------
        OSError, RuntimeError
            The kernel refuses to wait, or another thread uses the ring.

        Examples
        --------
        >>> Ring().close()
        """
        if not self.closed:
            self._drain() if os.getpid() == self._process else self._exit()

    @_exclusive
    def _drain(self) -> None:
        self._queue.drain()
        self._exit()

    def _exit(self) -> None:
        self._queue.release()
        self.closed = True  # Ctrl-C cannot come between these two
        lib.io_uring_queue_exit(self._queue.ring)

    @_exclusive
    def read(self, fd: int, buffer: AnyBuffer, offset: int, *, tag: int) -> None:
        """Queue a read into a writable buffer, from an offset in bytes (0 for a pipe).

        The tag names the request for `cancel` and in its `Completion`. It is from 0 to 2^63 - 1.

        Raises
        ------
        BlockingIOError, BufferError
            The submission queue is full, or the buffer is read-only or not contiguous.
        TypeError, ValueError
            An argument is out of range, or the tag is in use.

        Examples
        --------
        >>> with open("/dev/zero", "rb") as file, Ring() as ring:
        ...     ring.read(file.fileno(), bytearray(4096), 0, tag=1)
        """
        self._put("read", tag, fd, (buffer,), offset)

    @_exclusive
    def readv(self, fd: int, buffers: Iterable[AnyBuffer], offset: int, *, tag: int) -> None:
        """Queue one read into up to 1024 buffers in turn, with the parameters of `read`.

        Raises
        ------
        BlockingIOError, BufferError, TypeError, ValueError
            As `read`.

        Examples
        --------
        >>> with open("/dev/zero", "rb") as file, Ring() as ring:
        ...     ring.readv(file.fileno(), [bytearray(4), bytearray(8)], 0, tag=1)
        """
        self._put("readv", tag, fd, buffers, offset)

    @_exclusive
    def write(self, fd: int, buffer: AnyBuffer, offset: int, *, tag: int) -> None:
        """Queue a write of a buffer, with the parameters of `read`.

        Raises
        ------
        BlockingIOError, BufferError, TypeError, ValueError
            As `read`, but the buffer may be read-only.

        Examples
        --------
        >>> with open("/dev/null", "wb") as file, Ring() as ring:
        ...     ring.write(file.fileno(), b"abc", 0, tag=1)
        """
        self._put("write", tag, fd, (buffer,), offset)

    @_exclusive
    def fsync(self, fd: int, *, tag: int) -> None:
        """Queue an fsync, which does not wait for writes in flight.

        Raises
        ------
        BlockingIOError, TypeError, ValueError
            As `read`.

        Examples
        --------
        >>> with open("/dev/null", "wb") as file, Ring() as ring:
        ...     ring.fsync(file.fileno(), tag=1)
        """
        self._put("fsync", tag, fd)

    @_exclusive
    def cancel(self, target: int, *, tag: int) -> None:
        """Queue the cancellation of the request with the tag `target`, which then has ECANCELED.

        Raises
        ------
        BlockingIOError, TypeError, ValueError
            As `read`, or no request has the tag `target`.

        Examples
        --------
        >>> with open("/dev/zero", "rb") as file, Ring() as ring:
        ...     ring.read(file.fileno(), bytearray(4096), 0, tag=1)
        ...     ring.cancel(1, tag=2)
        """
        if operator.index(target) not in self._queue.requests:
            raise ValueError(f"no request in flight has the tag {target}")
        self._put("async_cancel", tag, 0, address=target)

    def _put(
        self, operation: str, tag: int, fd: int, buffers: Any = (), offset: int = 0, **fields: int
    ) -> None:
        tag = _within("tag", tag, 0, _OFFSET_MAX)
        if tag in self._queue.requests or tag in self._queue.ready:
            raise ValueError(f"tag {tag} is in use: its completion was not taken yet")
        fd = _within("a descriptor", fd, 0, _INT_MAX)
        fields["fixed_file"] = operation != "async_cancel" and fd in self._files
        fields["fd"] = self._files[fd] if fields["fixed_file"] else fd
        fields["offset"] = _within("offset", offset, 0, _OFFSET_MAX)
        self._queue.put(operation, tag, buffers, **fields)

    @_exclusive
    def submit(self) -> int:
        """Submit the queued requests, and return how many the kernel took; others stay queued.

        Raises
        ------
        OSError
            The kernel took none: with EAGAIN or EBUSY, take completions first.

        Examples
        --------
        >>> with Ring() as ring:
        ...     ring.submit()
        0
        """
        return self._queue.submit()

    @_exclusive
    def wait(self, count: int = 1, timeout_s: float = math.inf) -> list[Completion]:
        """Wait for `count` completions, and return all that there are; after `timeout_s`, fewer.

        Raises
        ------
        OSError, TypeError, ValueError
            The kernel refuses to wait, or `count` is more than can complete.

        Examples
        --------
        >>> with open("/dev/zero", "rb") as file, Ring() as ring:
        ...     ring.read(file.fileno(), bytearray(4096), 0, tag=1)
        ...     ring.wait(ring.submit(), timeout_s=1)
        [Completion(tag=1, result=4096)]
        """
        count = _within("count", count, 1, _INT_MAX)
        if not timeout_s >= 0:
            raise ValueError(f"timeout_s={timeout_s}: expected 0 or more")
        end = time.monotonic() + timeout_s
        queue = self._queue
        queue.take()
        if count > (coming := queue.coming()):
            raise ValueError(f"count={count}, but {coming} requests were submitted and not taken")
        while len(queue.ready) < count and (left := end - time.monotonic()) > 0:
            queue.turn(min(left, TURN_S))
        done = list(queue.ready.values())
        queue.ready.clear()
        return done
