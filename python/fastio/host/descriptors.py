"""How many files this process may have open: raised, where a source of many shards needs it."""

from __future__ import annotations

import logging
import os
import resource

_log = logging.getLogger("fastio")

# For other parts of the process, which open files meanwhile.
_SPARE = 64


def make_room(count: int, source: str) -> None:
    """Raise the soft limit of open files, if so many more would not fit; at most to the hard one.

    Parameters
    ----------
    count : int
        Descriptors that will be needed.
    source : str
        What needs them, for the log.

    Raises
    ------
    Nothing: where the limit stays too low, the file that does not fit is an error that names it.
    """
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:  # a seccomp filter
        return
    needed = _open_now() + count + _SPARE
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (ValueError, OSError):
        return
    _log.info("RLIMIT_NOFILE is %d now, for the files of %s", allowed, source)


def make_room_for_files(files: int, source: str) -> None:
    """Make room for files that stay open together, each with and without O_DIRECT.

    Raises
    ------
    Nothing.
    """
    if files > 1:
        make_room(2 * files, source)


def limit() -> str:
    """Return what the limit is, and how to raise it, for messages.

    Raises
    ------
    Nothing.
    """
    try:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:
        return "RLIMIT_NOFILE is reached; `ulimit -n` sets more for a new process"
    return f"RLIMIT_NOFILE is {soft}, and too few; `ulimit -n` sets more for a new process"


def _open_now() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
