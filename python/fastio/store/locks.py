"""Locks in a root: that of whoever writes, and those of whoever reads a generation.

They are flock's: the kernel takes them from whoever dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import NoReturn

from fastio.errors import FastioError, WriteError
from fastio.store.files import called, opened, write_called
from fastio.store.root import COMMITS, FILE_MODE, Root

_LOCK = "lock"


class Lock:
    """An open file with a lock on it; closed, it is let go of.

    A child made by fork has the file as well, and with it the lock: so whoever took it lets go of
    it by name, and a child only closes the file.
    """

    def __init__(self) -> None:
        self.fd = -1
        self._process = os.getpid()

    def close(self) -> None:
        """Let go."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        if self._process == os.getpid():
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a lock cannot be pickled or copied")


def lock(root: Root, mode: int = FILE_MODE) -> Lock | None:
    """Take the writer's lock; None where somebody else has it.

    Raises
    ------
    WriteError, ReadError
    """
    path = root.path / _LOCK
    flags = os.O_RDWR | os.O_CREAT
    made = Lock()
    with root.sub("") as folder:
        made.fd = write_called(path, "open", lambda: opened(folder, _LOCK, flags, mode))
    try:
        fcntl.flock(made.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        raise WriteError(error.errno or errno.EIO, "flock", path) from error
    return made


def hold_record(root: Root, generation: int) -> Lock:
    """Keep a generation from being collected while the lock is open.

    Raises
    ------
    FileNotFoundError
        If it was collected.
    ReadError
    """
    made = _record(root, generation)
    collected = False
    try:
        fcntl.flock(made.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        collected = True  # just now
    except OSError:
        pass  # a filesystem that knows no locks: nobody can be kept from collecting
    if collected or os.fstat(made.fd).st_nlink == 0:
        path = str(root.path / COMMITS / _name(generation))
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return made


def remove_record(root: Root, generation: int) -> bool:
    """Remove a commit record, unless somebody reads that generation; whether it is gone.

    Raises
    ------
    ReadError, WriteError
    """
    try:
        held = _record(root, generation)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(held.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        root.remove(COMMITS, _name(generation))
    except BlockingIOError:
        return False
    except OSError as error:
        if isinstance(error, FastioError):
            raise
        path = root.path / COMMITS / _name(generation)
        raise WriteError(error.errno or errno.EIO, "flock", path) from error
    finally:
        held.close()
    return True


def _record(root: Root, generation: int) -> Lock:
    name = _name(generation)
    path = root.path / COMMITS / name
    made = Lock()
    with root.sub(COMMITS) as folder:
        made.fd = called(path, "open", lambda: opened(folder, name))
    return made


def _name(generation: int) -> str:
    return f"{generation:016x}"
