"""Threads, where there are any to be had."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable


class NoThreadError(RuntimeError):
    """No thread can be started: the caller's has to do the work."""


def start(work: Callable[[], None], name: str, *, daemon: bool = False) -> threading.Thread:
    """Start a thread.

    Parameters
    ----------
    work : callable
    name : str
        Of the thread.
    daemon : bool
        Whether the interpreter ends without waiting for it.

    Raises
    ------
    NoThreadError
        If the system has none, or the interpreter ends: up to Python 3.11 such a thread never
        runs, and `threading.Thread.start` waits for it for ever.
    """
    if sys.is_finalizing():
        raise NoThreadError("can't start new thread at interpreter shutdown")
    thread = threading.Thread(target=work, name=name, daemon=daemon)
    try:
        thread.start()
    except RuntimeError as error:
        raise NoThreadError(str(error)) from None
    return thread
