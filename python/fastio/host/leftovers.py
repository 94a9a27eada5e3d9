"""Temporary names, by which the next save finds what a crashed one left behind.

A lock tells a file that is being written from such a leftover.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger("fastio")

_NAME_BYTES_MAX = 255  # of one name in a folder, on every common filesystem
_SUFFIX = ".fastio-tmp"
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.fastio-tmp", re.DOTALL)


def temporary_path(path: Path, written_as: Path) -> Path:
    """Return a fresh temporary name beside `path`, made of the name of `written_as`."""
    return path.parent / f"{_stem(written_as.name)}{os.urandom(8).hex()}{_SUFFIX}"


def is_temporary(name: str) -> bool:
    """Return whether a file has a temporary name of some save."""
    return _TEMPORARY.fullmatch(name) is not None


def lock(fd: int) -> bool | None:
    """Return whether the file is locked by this descriptor now; None where locks cannot be had."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def unlock(fd: int) -> None:
    """Give a lock up for all who have this descriptor."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)


@contextlib.contextmanager
def leftovers(path: Path) -> Iterator[list[Path]]:
    """The temporary files that crashed saves of `path` left behind, locked meanwhile.

    Raises
    ------
    Nothing; where a folder cannot be looked into, or a file not be locked, none are found.
    """
    written_as = re.compile(re.escape(_stem(path.name)) + "[0-9a-f]{16}" + _SUFFIX)
    try:
        names = [name for name in os.listdir(path.parent) if written_as.fullmatch(name)]
    except OSError:
        names = []
    with contextlib.ExitStack() as held:
        found = []
        for name in names:
            with contextlib.suppress(OSError):
                # A pipe of that name, or a lease on the file, is not waited for.
                flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                fd = os.open(path.parent / name, flags)
                held.callback(os.close, fd)
                held.callback(unlock, fd)  # a child made by fork meanwhile has it, too
                if lock(fd) and os.fstat(fd).st_nlink:
                    found.append(path.parent / name)
        yield found


def remove_leftovers(path: Path) -> None:
    """Remove what crashed saves of `path` left behind; what is being written is left alone.

    Raises
    ------
    Nothing: what cannot be removed stays.
    """
    with leftovers(path) as found:
        for leftover in found:
            with contextlib.suppress(OSError):
                os.unlink(leftover)
                _log.info("removed %s, which a save that did not end left behind", leftover)


def _stem(name: str) -> str:
    return f".{os.fsdecode(os.fsencode(name)[: _NAME_BYTES_MAX - 32])}."
