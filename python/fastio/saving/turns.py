"""Saves to one path of one process, one after another in the order in which they were asked for.

A save that begins in the middle of another one of its own thread goes before that one. A signal
handler does that, and so does a finalizer. The outer save cannot go on before it has ended.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from pathlib import Path
from types import TracebackType

from fastio.saving.bell import Bell


class _Queue:
    """All turns of this process, in order; a child made by fork has none."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        # A signal handler may save in the middle of what this guards. So each change of the list is
        # one call, and the list is sound before and after it.
        self.changing = threading.RLock()
        self.turns: list[weakref.ref[Turn]] = []

    def of(self, key: str) -> list[Turn]:
        """Those of one path, the first one first."""
        turns = [reference() for reference in tuple(self.turns)]
        return [turn for turn in turns if turn is not None and turn.key == key]


_queue = _Queue()


class Turn:
    """A place in the queue of a path, from when it is taken to when it is left; or forgotten.

    Parameters
    ----------
    key : str
        What is saved to: what `key_of` returns, or another name that all savers agree on.

    Attributes
    ----------
    thread : int
        The thread that has to go on for this turn to end.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.thread = threading.get_ident()
        self._changed = Bell()
        self._reference = weakref.ref(self)

    def take(self) -> None:
        """Take the last place; but one before all other turns of this thread."""
        with _queue.changing:
            _queue.turns.insert(self._place(), self._reference)

    def _place(self) -> int:
        at = 0
        for reference in tuple(_queue.turns):
            turn = reference()
            if turn is not None and (turn.key, turn.thread) == (self.key, self.thread):
                break
            at += 1
        return at

    def wait(self) -> None:
        """Wait until it is the first of its path. It may cease to be that later: whoever takes the
        place of a file waits once more before.
        """
        while (first := _queue.of(self.key)) and first[0] is not self and self in first:
            self._changed.wait()

    def go_first(self) -> None:
        """Go before all turns that cannot end before the calling thread goes on.

        Whoever waits for a save calls this: the thread may be in the middle of one itself.
        """
        with _queue.changing:
            turns = _queue.of(self.key)
            if self not in turns:
                return
            mine = threading.get_ident()
            for turn in turns[: turns.index(self)]:
                if turn.thread == mine:
                    turn._step_behind(self)
        _wake(self.key)

    def _step_behind(self, other: Turn) -> None:
        turns = _queue.turns
        with contextlib.suppress(ValueError):  # one of them has left meanwhile
            turns.insert(turns.index(other._reference) + 1, self._reference)
            turns.remove(self._reference)  # the first of two

    def leave(self) -> None:
        """Leave the queue, whether it was its turn or not."""
        with _queue.changing, contextlib.suppress(ValueError):
            _queue.turns.remove(self._reference)
        _wake(self.key)

    def __enter__(self) -> Turn:
        try:
            self.take()
            self.wait()
            return self
        except BaseException:
            self.leave()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    def __del__(self) -> None:
        # An interrupt may come between any two lines, and nobody may wait for a turn that is lost.
        if self._reference in _queue.turns:
            self.leave()


def key_of(path: Path) -> str:
    """Return the key of a file or a folder: the same for all paths to its folder."""
    return os.path.join(os.path.realpath(path.parent), path.name)


def is_own(key: str) -> bool:
    """Whether the calling thread is in the middle of a turn: a handler or a finalizer calls."""
    mine = threading.get_ident()
    return any(turn.thread == mine for turn in _queue.of(key))


def _wake(key: str) -> None:
    for turn in _queue.of(key)[:1]:
        turn._changed.ring()


os.register_at_fork(after_in_child=_queue.forget)
