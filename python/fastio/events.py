"""What happened beside what was asked for: told to whoever listens, and logged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

_log = logging.getLogger("fastio")


@dataclass(frozen=True)
class Event:
    """Something that a program may want to know of, or a person.

    Attributes
    ----------
    kind : {"fallback", "repair", "failure"}
        A copy that did not do, or a call that a filesystem lacks, and what was done instead, or a
        file that was loaded unverified although it carries checksums; a copy that was written anew;
        a repair, or a save in place, that failed.
    path : str
        The copy, or the file.
    cause : str
        What was wrong with it.
    remedy : str
        What was done.
    offset, nbytes : int or None
        Where in the file, in bytes; None where it is all of it.
    tensors : tuple of str
        Those that have bytes there.
    """

    kind: Literal["fallback", "repair", "failure"]
    path: str
    cause: str
    remedy: str
    offset: int | None = None
    nbytes: int | None = None
    tensors: tuple[str, ...] = ()

    def __str__(self) -> str:
        at = "" if self.offset is None else f" ({self.nbytes} bytes at byte {self.offset})"
        return f"{self.path}{at}: {self.cause}; {self.remedy}"


Listener = Callable[[Event], None]
_listener: Listener | None = None


def on_event(callback: Listener | None) -> Listener | None:
    """Have a callback called with each `Event`: a bad copy, what was read instead, a repair.

    It is called on the thread that noticed; what it raises is logged and goes no further.

    Parameters
    ----------
    callback : callable or None
        Takes the place of the one before; None: nobody is told.

    Returns
    -------
    callable or None
        The one before.

    Raises
    ------
    TypeError
        If it cannot be called.
    """
    global _listener
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, not {type(callback).__name__}")
    before, _listener = _listener, callback
    return before


def emit(event: Event) -> None:
    """Log an event, and tell whoever listens.

    Raises
    ------
    Nothing.
    """
    _log.warning("%s", event)
    if _listener is None:
        return
    try:
        _listener(event)
    except Exception:
        _log.exception("a callback of fastio.on_event failed")
