"""Events, such as a bad replica: they go to a callback and to the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from fastio.display.values import cut, one_line

_log = logging.getLogger("fastio")
_RANGES_SHOWN_MAX = 3


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
