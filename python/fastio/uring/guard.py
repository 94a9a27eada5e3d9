"""One user at a time: what a ring does not survive is refused before it is touched."""

from __future__ import annotations

import functools
import operator
import os
import threading
from collections.abc import Callable, Iterable
from typing import Concatenate, ParamSpec, TypeVar

from fastio.display.values import counted, one_line
from fastio.uring.queue import Queue

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Guarded:
    """A queue that belongs to the process that made it; `exclusive` methods are for one thread at
    a time.
    """

    _queue: Queue | None = None  # also where none was ever made, for __del__

    def __init__(self, entries: int, flags: Iterable[str]) -> None:
        self._process = os.getpid()
        # Ctrl-C right after a plain lock was taken would leave it taken for everybody.
        self._lock, self._in_use = threading.RLock(), False
        self._queue = Queue(entries, flags)

    @one_line
    def __repr__(self) -> str:
        queue = self._queue
        if queue is None:
            return f"<fastio.uring.{type(self).__name__}, closed>"
        told = f"{queue.entries} entries, {counted(len(queue.requests), 'request')} on the way"
        of_parent = "" if self._own else ", of another process"
        return f"<fastio.uring.{type(self).__name__} of {told}{of_parent}>"

    @property
    def closed(self) -> bool:
        """Whether the ring was closed."""
        return self._queue is None

    @property
    def _open(self) -> Queue:
        assert self._queue is not None
        return self._queue

    @property
    def _own(self) -> bool:
        return os.getpid() == self._process


_Self = TypeVar("_Self", bound=Guarded)


def exclusive(
    method: Callable[Concatenate[_Self, _Arguments], _Result],
) -> Callable[Concatenate[_Self, _Arguments], _Result]:
    """Refuse to call a method of what is closed, another process's, or in use."""

    @functools.wraps(method)
    def call(self: _Self, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if not self._own:
            raise RuntimeError("the ring belongs to the process that made it: make another one")
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("the ring is in use by another thread: one at a time")
        try:
            if self._in_use:
                raise RuntimeError("the ring is in use by what this signal handler interrupted")
            if self.closed:
                raise ValueError("the ring is closed")
            self._in_use = True
            try:
                return method(self, *args, **kwargs)
            finally:
                self._in_use = False
        finally:
            self._lock.release()

    return call


def within(what: str, number: int, least: int, most: int) -> int:
    """Return the number as an int, if it is one in this range.

    Raises
    ------
    TypeError, ValueError
        If not.
    """
    number = operator.index(number)
    if not least <= number <= most:
        raise ValueError(f"{what} is {number}: expected {least} to {most}")
    return number
