"""Saves to one path of one process, one after another in the order in which they were asked for.

A save that begins in the middle of another one of its own thread goes before that one. A signal
handler does that, and so does a finalizer. The outer save cannot go on before it has ended.

There is no lock. A handler that interrupts the holder of a lock, and waits for another thread,
would block that thread. Each change here is one step of the interpreter.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from fastio.errors import WriteError
from fastio.host.bell import Bell

_turns: set[weakref.ref[Turn]] = set()
_numbers = itertools.count()


class Turn:
    """A place in the queue of a path, from when it is taken to when it is left; or forgotten.

    Parameters
    ----------
    key : str
        What is saved to: what `key_of` returns, or another name that all savers agree on.

    Attributes
    ----------
    threads : set of int
        The threads that have to go on for this turn to end.
    place : tuple of float
        Turns are in the order of their places. Each ends with infinity, so that there is room
        right before it: between ``(7, inf)`` and all below it lies ``(7, 8, inf)``. Empty when it
        is not taken, or left.
    exposed : bool
        Whether what lies at the path is being written: nothing can go before this turn any more.
    """

    place: tuple[float, ...] = ()
    exposed = False

    def __init__(self, key: str) -> None:
        self.key = key
        self.threads = {threading.get_ident()}
        self._changed = Bell()
        self._reference = weakref.ref(self)

    def take(self) -> None:
        """Take the last place; but one right before all other turns of this thread.

        Raises
        ------
        WriteError
            If one of those is `exposed`: it can be overtaken as little as waited for.
        """
        own = _overtakable(self.key)
        before = own[0].place[:-1] if own else ()
        self.place = (*before, next(_numbers), math.inf)
        _turns.add(self._reference)

    def wait(self) -> None:
        """Wait until it is the first of its path. It may cease to be that later: whoever takes the
        place of a file waits once more before.
        """
        while not self._is_up():
            self._changed.wait()

    def _is_up(self) -> bool:
        # A frame that waits would keep a turn that is lost.
        queue = _queue(self.key)
        return self not in queue or queue[0] is self

    def go_first(self) -> None:
        """Go before all turns that cannot end before the calling thread goes on.

        Called before a wait for a save: the thread may be in the middle of one itself.

        Raises
        ------
        WriteError
            As `take` does.
        """
        for turn in _overtakable(self.key):
            if turn.place < self.place:
                turn.place = (*self.place, next(_numbers), math.inf)
        _wake(self.key)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """The calling thread has to go on for this turn to end, too, while this context lasts."""
        mine = threading.get_ident()
        is_new = mine not in self.threads
        self.threads.add(mine)
        try:
            yield
        finally:
            if is_new:
                self.threads.discard(mine)

    def release(self) -> None:
        """Leave the queue, whether it was its turn or not."""
        _turns.discard(self._reference)
        self.place = ()
        _wake(self.key)

    def __enter__(self) -> Turn:
        try:
            self.take()
            self.wait()
            return self
        except BaseException:
            self.release()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __del__(self) -> None:
        # An interrupt may come between any two lines, and nobody may wait for a turn that is lost.
        if self.place:
            self.release()


def key_of(path: Path) -> str:
    """Return the key of a file or a folder: the same for all paths to its folder."""
    return os.path.join(os.path.realpath(path.parent), path.name)


def is_own(key: str) -> bool:
    """Return whether the calling thread is in the middle of a turn: it is a handler's, or a
    finalizer's.
    """
    return bool(_own(key))


def _own(key: str) -> list[Turn]:
    """The turns of a path that the calling thread is in the middle of."""
    mine = threading.get_ident()
    return [turn for turn in _queue(key) if mine in turn.threads]


def _overtakable(key: str) -> list[Turn]:
    """The same turns, which another one may go before; WriteError if one of them is `exposed`."""
    own = _own(key)
    if any(turn.exposed for turn in own):
        detail = (
            "this thread is in the middle of writing it in place; what a signal handler or a "
            "finalizer saves meanwhile needs another path"
        )
        raise WriteError(errno.EBUSY, "open", key, detail=detail)
    return own


def _queue(key: str) -> list[Turn]:
    """All turns of a path, the first one first."""
    turns = [reference() for reference in _turns.copy()]
    found = [turn for turn in turns if turn is not None and turn.key == key]
    return sorted(found, key=lambda turn: turn.place)


def _wake(key: str) -> None:
    for turn in _queue(key)[:1]:
        turn._changed.ring()


os.register_at_fork(after_in_child=_turns.clear)
