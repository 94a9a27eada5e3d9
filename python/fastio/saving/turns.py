"""Saves to one path of one process, one after another in the order in which they were asked for."""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path
from types import TracebackType


class _Queues:
    """Who waits for which path; a child made by fork has new ones."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.changed = threading.Condition()
        self.waiting: dict[str, deque[Turn]] = {}


_queues = _Queues()


class Turn:
    """A place in the queue of a path, from when it is made; entered when it is its turn.

    Parameters
    ----------
    path : pathlib.Path
        What is saved to.
    """

    def __init__(self, path: Path) -> None:
        self._key = os.path.join(os.path.realpath(path.parent), path.name)
        with _queues.changed:
            _queues.waiting.setdefault(self._key, deque()).append(self)

    def __enter__(self) -> None:
        with _queues.changed:
            try:
                _queues.changed.wait_for(lambda: _queues.waiting[self._key][0] is self)
            except BaseException:
                self._leave()
                raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.give_up()

    def give_up(self) -> None:
        """Leave the queue, whether it was its turn or not."""
        with _queues.changed:
            self._leave()

    def _leave(self) -> None:
        queue = _queues.waiting.get(self._key)
        if queue is None or self not in queue:
            return
        queue.remove(self)
        if not queue:
            del _queues.waiting[self._key]
        _queues.changed.notify_all()


os.register_at_fork(after_in_child=_queues.forget)
