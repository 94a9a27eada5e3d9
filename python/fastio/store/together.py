"""Calls at once, each on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from fastio import threads


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
        When all calls have ended. So does whatever else interrupts this thread.
    """
    errors: list[BaseException] = []

    def make(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    running, left = [], []
    for call in calls:
        try:
            running.append(threads.start(partial(make, call), "fastio.store"))
        except threads.NoThreadError:
            left.append(call)
    try:
        for call in left:
            make(call)
        for thread in running:
            thread.join()
    except BaseException:
        interrupted()
        for thread in running:
            thread.join()
        raise
    return errors
