"""The garbage collector, kept out of the way while objects are made by the hundred thousand."""

from __future__ import annotations

import gc
import os
import threading


class _Pauses:
    """Who has paused the collector now, and whether it was on before."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal handler may load, too
        self.count = 0
        self.was_enabled = False

    def after_fork(self) -> None:
        """In a child: the threads that paused the collector, or hold the lock, are not there."""
        if self.count and self.was_enabled:
            gc.enable()
        self.__init__()  # type: ignore[misc]


_pauses = _Pauses()
os.register_at_fork(after_in_child=_pauses.after_fork)


class Paused:
    """While this context lasts, many objects are made that live on: the collector does not look
    for garbage among them.

    It is off for the whole process meanwhile: nothing that can take long, or wait, belongs here.
    """

    def __enter__(self) -> None:
        with _pauses.lock:
            if _pauses.count == 0:
                _pauses.was_enabled = gc.isenabled()
                gc.disable()
            _pauses.count += 1

    def __exit__(self, *_: object) -> None:
        with _pauses.lock:
            _pauses.count = max(0, _pauses.count - 1)
            if _pauses.count == 0 and _pauses.was_enabled:
                gc.enable()
