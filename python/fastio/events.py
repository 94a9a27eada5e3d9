"""Events, such as a bad replica: they go to a callback and to the log.

The log stays short when a thousand files have the same trouble: see `brief`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from fastio.display.values import cut, one_line

_log = logging.getLogger("fastio")
_RANGES_SHOWN_MAX = 3
_LIKE_IT_MAX = 3  # records of one kind that are logged, before the others are only counted


@dataclass(frozen=True)
class Event:
    """A fault that a program or a person may want to know. All damage in one file is one event.

    Attributes
    ----------
    kind : {"fallback", "repair", "failure", "damage"}
        "fallback": a bad replica or a missing system call was replaced, or a file with unsound
        checksums was loaded unverified. "repair": a replica was written anew. "failure": a repair,
        or a save in place, failed. "damage": a verification found a damaged or missing file.
    path : str
        The replica, or the file.
    cause : str
        The problem; of several chunks, that of the first one.
    remedy : str
        The action that was taken.
    offset, nbytes : int or None
        The begin of the first of `ranges`, and the bytes of all; None for the whole file.
    tensors : tuple of str
        The tensors that have bytes there.
    count : int or None
        Number of chunks; None for the whole file.
    ranges : tuple of (int, int)
        The chunks as [begin, end) in bytes, ascending; neighbours are one range.

    Examples
    --------
    >>> event = fastio.Event("repair", "disk0/a.safetensors", "it is missing", "written anew")
    >>> print(event)
    disk0/a.safetensors: it is missing; written anew
    """

    kind: Literal["fallback", "repair", "failure", "damage"]
    path: str
    cause: str
    remedy: str
    offset: int | None = None
    nbytes: int | None = None
    tensors: tuple[str, ...] = ()
    count: int | None = None
    ranges: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.path}{self._where()}: {self.cause}{remedy}"

    def _where(self) -> str:
        if self.offset is None:
            return ""
        chunks = "" if self.count in (None, 1) else f"{self.count} chunks, "
        if len(self.ranges) < 2:
            return f" ({chunks}{self.nbytes} bytes at byte {self.offset})"
        shown = ", ".join(f"{begin}-{end}" for begin, end in self.ranges[:_RANGES_SHOWN_MAX])
        more = len(self.ranges) - _RANGES_SHOWN_MAX
        shown += f" and {more} more" if more > 0 else ""
        return f" ({chunks}{self.nbytes} bytes: {shown})"

    @one_line
    def __repr__(self) -> str:
        return f"<fastio.Event {self.kind}: {cut(self.path, 60)}{self._where()}: {self.cause}>"


def lines_of(events: Iterable[Event]) -> Iterator[str]:
    """Yield a line for each event. The damage of a replica is told once; its remedy follows.

    Raises
    ------
    Nothing.
    """
    told: set[str] = set()
    for event in events:
        is_sequel = event.kind in ("repair", "failure") and event.path in told
        yield f"{event.path}: {event.remedy}" if is_sequel else str(event)
        told.add(event.path)


Listener = Callable[[Event], None]
_listener: Listener | None = None
_failed: list[Listener] = []
"""Those that raised: the log has their trace already."""


def on_event(callback: Listener | None) -> Listener | None:
    """Call a function with each `Event`: a bad replica, its substitute, a repair.

    A bad file is one event, as soon as damage is found in it. If more is found later, a second
    event with all of it comes when the load or stream ends, or the reader is closed. The callback
    runs on the thread that found the damage. Its exceptions are logged and go no further.

    Parameters
    ----------
    callback : callable or None
        Replaces the callback before; None removes it.

    Returns
    -------
    callable or None
        The callback before.

    Raises
    ------
    TypeError
        `callback` cannot be called.

    Examples
    --------
    >>> events = []
    >>> fastio.on_event(events.append)
    >>> next(Path("disk0/shards").iterdir()).unlink()
    >>> tensors = store.load()
    >>> [event.kind for event in events]
    ['fallback']
    """
    global _listener
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, not {type(callback).__name__}")
    before, _listener = _listener, callback
    _failed.clear()
    return before


def emit(event: Event, *, logged: bool = True) -> None:
    """Log an event, and tell whoever listens.

    Parameters
    ----------
    event : Event
    logged : bool
        False where the log has enough of its kind.

    Raises
    ------
    Nothing.
    """
    if logged:
        _log.warning("%s", event)
    listener = _listener
    if listener is None:
        return
    try:
        listener(event)
    except Exception as error:
        if listener in _failed:
            _log.debug("a callback of fastio.on_event failed again: %s", error)
        else:
            _failed.append(listener)
            _log.exception("a callback of fastio.on_event failed")


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
