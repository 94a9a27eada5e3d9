"""The lock of a folder whose files get their names, or lose them."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from fastio.errors import WriteError
from fastio.host import flocks
from fastio.host.flocks import Flock

# Folders that are locked now: the thread, the disk and the inode of each.
_locked_by: set[tuple[int, int, int]] = set()
os.register_at_fork(after_in_child=_locked_by.clear)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process at a time gives names in a folder; where locks cannot be had, all do.

    Raises
    ------
    WriteError
        If another process does not release the folder, or it cannot be opened.
    """
    try:
        flock = Flock(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise WriteError(error.errno or errno.EIO, "open", folder) from error
    try:
        status = os.fstat(flock.fd)
        own = threading.get_ident(), status.st_dev, status.st_ino
        if own in _locked_by:
            detail = "this thread is changing the folder already: a finalizer cannot save to it now"
            raise WriteError(errno.EDEADLK, "flock", folder, detail=detail)
        _wait_for(flock, folder)
        _locked_by.add(own)
        try:
            yield
        finally:
            _locked_by.discard(own)
    finally:
        flock.close()


def _wait_for(flock: Flock, folder: Path) -> None:
    def held() -> str:
        return f"the lock of the folder {folder}, which {flocks.holder(folder)} has"

    try:
        had = flocks.wait_for(lambda: flock.take() or None, held)
    except OSError:
        return  # the filesystem has no locks
    if not had:
        detail = f"waited {flocks.WAIT_S:.0f} s for {held()}; end it, or save elsewhere"
        raise WriteError(errno.EBUSY, "flock", folder, detail=detail)
