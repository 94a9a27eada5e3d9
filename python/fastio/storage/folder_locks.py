"""The locks of a local folder: flocks on its files.

A forked child keeps the locks of what its parent reads; the writer's lock is the parent's alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time

from fastio.errors import ReadError, WriteError
from fastio.host.flocks import Flock
from fastio.storage.answering import Answering, asked, progress
from fastio.storage.folder_files import OpenFolder, called, misplaced, opened, write_called

_HELD_WAIT_S = 1.0
"""How long somebody may try whether a file is held, before it counts as removed."""
_PAUSE_S = 0.005
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
"""What opening it says where there is none that anybody could have opened."""


class FolderLock:
    """A `Lock` that is held."""

    def __init__(self, flock: Flock) -> None:
        self._flock = flock

    def sign(self, who: str) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self._flock.fd, 0)
            os.pwrite(self._flock.fd, who.encode(), 0)

    def close(self) -> None:
        self._flock.close()


class FolderLocks:
    """The `Locks` of a folder."""

    def __init__(self, folder: OpenFolder, answering: Answering) -> None:
        self.answering = answering
        self._folder = folder

    @asked
    def take(self, name: str, mode: int) -> FolderLock | None:
        path = self._folder.path / name
        while True:
            made = self._opened_to_take(name, mode)
            try:
                if not made.take():
                    made.close()
                    return None
            except OSError as error:
                raise WriteError(error.errno or errno.EIO, "flock", path) from error
            # A lock on a file that was removed meanwhile keeps nobody out.
            if os.fstat(made.fd).st_nlink:
                return FolderLock(made)

    def _opened_to_take(self, name: str, mode: int) -> Flock:
        path = self._folder.path / name
        with self._folder.sub("", name) as folder:
            made = Flock(
                write_called(
                    path,
                    "open",
                    lambda: opened(folder, name, os.O_RDWR | os.O_CREAT, mode),
                    lambda: misplaced(folder, name),
                )
            )
            if not stat.S_ISREG(os.fstat(made.fd).st_mode):
                # A pipe can be locked, and is replaced by whoever mends: two would have the lock.
                made.close()
                raise WriteError(errno.EINVAL, "open", path, detail=misplaced(folder, name))
        return made

    @asked
    def hold(self, folder: str, name: str) -> FolderLock:
        made = self._opened(folder, name, shared=True)
        if not _is_had(made) or os.fstat(made.fd).st_nlink == 0:
            path = str(self._folder.path / folder / name)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return FolderLock(made)

    @asked
    def exclude(self, folder: str, name: str) -> FolderLock | None:
        try:
            made = self._opened(folder, name, shared=False)
        except ReadError as error:
            if error.errno not in _NO_FILE:
                raise
            path = str(self._folder.path / folder / name)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
        with contextlib.suppress(OSError):  # no locks here: a reader may hold it
            if made.take():
                return FolderLock(made)
        made.close()
        return None

    def _opened(self, folder: str, name: str, *, shared: bool) -> Flock:
        path = self._folder.path / folder / name
        with self._folder.sub(folder, name) as fd:
            return Flock(called(path, "open", lambda: opened(fd, name)), shared=shared)


def _is_had(made: Flock) -> bool:
    """Whether a lock could be had, or the filesystem has none: nobody can exclude anybody there."""
    until_s = time.monotonic() + _HELD_WAIT_S
    try:
        while not made.take():
            if time.monotonic() > until_s:
                return False
            time.sleep(_PAUSE_S)
            progress()
    except OSError:
        pass
    return True
