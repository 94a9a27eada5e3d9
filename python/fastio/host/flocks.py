"""Locks on open files (flock), which the kernel takes from whoever dies.

A child made by fork has the parent's open files, and with them its locks. So what one process alone
may hold is released by name, and closed in every child as soon as it begins to run. A shared lock
is only closed: it lasts until the parent and all children have closed it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

_log = logging.getLogger("fastio")

WAIT_S = 60.0
"""How long another writer is waited for."""
_TOLD_AFTER_S = 2.0
_PAUSE_S = (0.005, 0.05)

_Got = TypeVar("_Got")


class Flock:
    """An open file with a lock on it; closed, it is released.

    Parameters
    ----------
    fd : int
        Of the file; it is closed with this object.
    shared : bool
        Any number may have it, and a child made by fork goes on having it.
    """

    def __init__(self, fd: int, *, shared: bool = False) -> None:
        self.fd = fd
        self._shared = shared
        self._process = os.getpid()
        if not shared:
            _alone.add(self)

    def take(self) -> bool:
        """Return whether the lock is had now; False where somebody else has it.

        Raises
        ------
        OSError
            If the filesystem has no locks.
        """
        kind = fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self.fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Let go."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        if not self._shared and self._process == os.getpid():
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a lock cannot be pickled or copied")


_alone: weakref.WeakSet[Flock] = weakref.WeakSet()


def _close_in_child() -> None:
    for flock in list(_alone):
        flock.close()
    _alone.clear()


os.register_at_fork(after_in_child=_close_in_child)


def wait_for(
    take: Callable[[], _Got | None],
    what: Callable[[], str],
    *,
    wait_s: float | None = None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> _Got | None:
    """Try to take locks again and again; a wait that is long is logged.

    Parameters
    ----------
    take : callable
        Returns what was had, or None where somebody else has it. It keeps nothing then.
    what : callable
        Says what is waited for, and who has it.
    wait_s : float, optional
        How long it is tried. Default: `WAIT_S`.
    is_cancelled : callable
        Asked now and then.

    Returns
    -------
    What `take` has returned; None if that was None until the end.

    Raises
    ------
    Whatever `take` raises.
    """
    wait_s = WAIT_S if wait_s is None else wait_s
    begun = time.monotonic()
    told = False
    while (got := take()) is None:
        waited_s = time.monotonic() - begun
        if waited_s >= wait_s or is_cancelled():
            return None
        if waited_s > _TOLD_AFTER_S and not told:
            told = True
            _log.warning("waiting for %s, %.0f s at most", what(), wait_s)
        time.sleep(_pause_s())
    return got


def _pause_s() -> float:
    """Seconds that differ from one process to the next, so that they do not try in step."""
    least, most = _PAUSE_S
    return least + (most - least) * os.urandom(1)[0] / 255


def holder(path: Path) -> str:
    """Return who has a lock on a file, as far as this machine knows.

    Raises
    ------
    Nothing.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = os.stat(path)
        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        with open("/proc/locks", encoding="ascii", errors="replace") as locks:
            for line in locks:
                words = line.split()
                if words[1] == "FLOCK" and words[5] == device:
                    return f"process {words[4]}"
    return "a process that is not known here"
