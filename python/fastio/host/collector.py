"""The garbage collector, kept out of the way while objects are made by the hundred thousand."""

from __future__ import annotations

import gc
import os


class _Pauses:
    """The callers that have paused the collector, and whether it was on before.

    There is no lock: a signal handler may come between any two lines, and wait for a thread that
    pauses the collector, too. The worst that another order of lines does is to let it run.
    """

    def __init__(self) -> None:
        self.now: set[CollectorPaused] = set()
        self.was_enabled = False

    def end_if_none(self) -> None:
        if not self.now and self.was_enabled:
            self.was_enabled = False
            gc.enable()

    def after_fork(self) -> None:
        """In a child: the threads that paused the collector are not there."""
        self.now.clear()
        self.end_if_none()


_pauses = _Pauses()
os.register_at_fork(after_in_child=_pauses.after_fork)


class CollectorPaused:
    """While this context lasts, many objects are made that live on: the collector does not look
    for garbage among them.

    It is off for the whole process meanwhile: nothing that can take long, or wait, belongs here.
    """

    def __enter__(self) -> None:
        try:
            _pauses.now.add(self)
            if gc.isenabled():
                _pauses.was_enabled = True
                gc.disable()
        except BaseException:  # an interrupt
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        _pauses.now.discard(self)
        _pauses.end_if_none()
