"""The log stays short when a thousand files have the same trouble."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

_log = logging.getLogger("fastio")
_LIKE_IT_MAX = 3  # records of one kind that are logged, before the others are only counted


class _Brief(logging.Filter):
    """Lets the first few records of each kind pass that one thread logs."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self._seen: dict[tuple[int, object], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self._thread:
            return True
        kind = (record.levelno, record.msg)
        self._seen[kind] = self._seen.get(kind, 0) + 1
        return self._seen[kind] <= _LIKE_IT_MAX

    def more(self) -> Iterator[tuple[int, int]]:
        """Yield the level of each kind, and how many records did not pass."""
        for (level, _), count in self._seen.items():
            if count > _LIKE_IT_MAX:
                yield level, count - _LIKE_IT_MAX


@contextlib.contextmanager
def brief(what: str) -> Iterator[None]:
    """Shorten the log of this thread: of each kind of record the first few pass, and the number of
    the others is logged at the end.

    Parameters
    ----------
    what : str
        What is done meanwhile, for that last line.

    Raises
    ------
    Nothing.
    """
    seen = _Brief()
    _log.addFilter(seen)
    try:
        yield
    finally:
        _log.removeFilter(seen)
        for level, count in seen.more():
            _log.log(level, "%s: %d more files like these", what, count)
