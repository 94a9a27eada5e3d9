"""Calls at once, each on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from fastio.host import threads

END_WAIT_S = 2.0
"""How long an interrupted caller waits for calls to end; a disk that hangs keeps its own longer."""


def at_once(
    calls: Sequence[Callable[[], None]], *, interrupted: Callable[[], None]
) -> list[BaseException]:
    """Make all of these calls and return when they have ended.

    Those that no thread can be had for are made here, one after another.

    Parameters
    ----------
    calls : sequence of callable
    interrupted : callable
        Called when this thread is interrupted while it waits: the calls should end soon then.

    Returns
    -------
    list of BaseException
        What the calls have raised, in that order.

    Raises
    ------
    KeyboardInterrupt
        When all calls have ended, or do not within `END_WAIT_S`: these are left to themselves. So
        does whatever else interrupts this thread.
    """
    errors: list[BaseException] = []

    def make(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    running: list[threading.Thread] = []
    try:
        left = []
        for call in calls:
            try:
                # Left by an interrupt, one that hangs does not keep the process from ending.
                running.append(threads.start(partial(make, call), "fastio.store", daemon=True))
            except threads.NoThreadError:
                left.append(call)
        for call in left:
            make(call)
        for thread in running:
            thread.join()
    except BaseException:
        interrupted()
        _join(running, END_WAIT_S)
        raise
    return errors


def _join(running: Sequence[threading.Thread], wait_s: float) -> None:
    until_s = time.monotonic() + wait_s
    for thread in running:
        thread.join(max(0.0, until_s - time.monotonic()))
