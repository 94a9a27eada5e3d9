"""Relative paths, anchored to the working directory of the moment when a call is made.

A later use (in the background, on another thread, after unpickling) then means the same file, in
whatever folder the process is.
"""

from __future__ import annotations

import os


def anchored(path: str) -> str:
    """Return a path that stays the same when the working directory changes.

    Symlinks are not resolved, except those before a ``..``: only the kernel knows where that leads.
    A relative path stays relative where the working directory cannot be reached by its name. That
    is so when it was removed, and when the way there is closed to this process.

    Parameters
    ----------
    path : str
        One that no file can have, empty or with a NUL character, is returned as it is.

    Raises
    ------
    Nothing.
    """
    if not path or "\0" in path:
        return path
    if not os.path.isabs(path):
        try:
            here = os.getcwd()
            if not os.path.samestat(os.stat(here), os.stat(os.curdir)):
                return path
        except OSError:
            return path
        path = os.path.join(here, path)
    names = path.split(os.sep)
    if os.pardir not in names:
        return path
    last = len(names) - names[::-1].index(os.pardir)
    return os.path.join(os.path.realpath(os.sep.join(names[:last])), *names[last:])


def is_homeless() -> bool:
    """Return whether the working directory was removed, so that no relative path leads anywhere.

    Raises
    ------
    Nothing.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    except OSError:
        pass  # it is there, and its name cannot be had
    return False
