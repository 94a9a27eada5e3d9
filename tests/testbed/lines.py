"""Something happens in the middle of a call, before each of its lines in turn: a signal handler or
an interrupt. For use in a child: a process that hangs is ended.
"""

import faulthandler
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupted(BaseException):
    """The exception of an interrupt; the call may end with it."""


def at_each_line(
    folder: str,
    call: Callable[[], object],
    inside: Callable[[], object],
    *,
    begin: Callable[[], object] = lambda: None,
    end: Callable[[], object] = lambda: None,
    hangs_after_s: float = 60,
) -> int:
    """Repeat a call, each time with another call before one of its lines.

    Parameters
    ----------
    folder
        Lines of files below it count, on this thread: the first time that each one is run.
    call, inside
        The call, and the one in the middle of it; either may raise `Interrupted`.
    begin, end
        Called before and after each round.
    hangs_after_s
        A round that takes longer ends the process, with the stacks of all threads.

    Returns
    -------
    The number of rounds, one a line.
    """
    rounds = 0
    while True:
        faulthandler.dump_traceback_later(hangs_after_s, exit=True)
        begin()
        if not _at_line(rounds, folder, call, inside):
            faulthandler.cancel_dump_traceback_later()
            return rounds
        end()
        rounds += 1


def _at_line(
    number: int, folder: str, call: Callable[[], object], inside: Callable[[], object]
) -> bool:
    """Whether the call has that many lines."""
    seen: set[tuple[str, int]] = set()
    left = number

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        file = frame.f_code.co_filename
        if not file.startswith(folder):
            return None
        if event == "line" and left >= 0 and (file, frame.f_lineno) not in seen:
            seen.add((file, frame.f_lineno))
            left -= 1
            if left < 0:
                inside()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Interrupted:
        pass
    finally:
        sys.settrace(before)
    return left < 0
