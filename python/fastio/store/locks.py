"""Locks in a root: that of the writer, and those of the readers of a generation.

A reader locks the manifest: unlike a record, a sound manifest is never written anew.
A forked child keeps the locks of what its parent reads; the writer's lock is the parent's alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator

from fastio.errors import FastioError, ReadError, WriteError
from fastio.host.flocks import Flock
from fastio.store.answering import progress
from fastio.store.files import called, misplaced, opened, write_called
from fastio.store.layout import LOCK, MANIFESTS, manifest_name
from fastio.store.root import Root
from fastio.store.root_files import FILE_MODE

_HELD_WAIT_S = 1.0
"""How long whoever collects may try whether a manifest is read, before it counts as collected."""
_PAUSE_S = 0.005
_NO_MANIFEST = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
"""What opening it says where there is none that anybody could have opened."""


def lock(root: Root, mode: int = FILE_MODE) -> Flock | None:
    """Take the writer's lock; None where somebody else has it.

    Raises
    ------
    WriteError, ReadError
    """
    return root.answering.ask(lambda: _locked(root, mode))


def _locked(root: Root, mode: int) -> Flock | None:
    path = root.path / LOCK
    flags = os.O_RDWR | os.O_CREAT
    while True:
        with root.sub("") as folder:
            made = Flock(
                write_called(
                    path,
                    "open",
                    lambda: opened(folder, LOCK, flags, mode),
                    lambda: misplaced(folder, LOCK),
                )
            )
            if not stat.S_ISREG(os.fstat(made.fd).st_mode):
                # A pipe can be locked, and is replaced by whoever mends: two would have the lock.
                made.close()
                raise WriteError(errno.EINVAL, "open", path, detail=misplaced(folder, LOCK))
        try:
            if not made.take():
                return None
        except OSError as error:
            raise WriteError(error.errno or errno.EIO, "flock", path) from error
        # A lock on a file that was removed meanwhile keeps nobody out.
        if os.fstat(made.fd).st_nlink:
            return made


def hold(root: Root, digest: str) -> Flock:
    """Keep what a manifest names from being collected while the lock is open.

    Raises
    ------
    FileNotFoundError
        If it was collected, or this root has it not.
    ReadError
    """
    return root.answering.ask(lambda: _held(root, digest))


def _held(root: Root, digest: str) -> Flock:
    made = _manifest(root, digest, shared=True)
    if not _is_had(made) or os.fstat(made.fd).st_nlink == 0:
        path = str(root.path / MANIFESTS / manifest_name(digest))
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return made


def _is_had(made: Flock) -> bool:
    """Whether a lock could be had, or the filesystem has none: nobody can collect there."""
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


@contextlib.contextmanager
def unread(root: Root, digest: str) -> Iterator[bool | None]:
    """Whether nobody holds a manifest on a root, and nobody can begin to in this context.

    None if the root does not answer, and False on a filesystem without locks: a reader may hold it.

    Raises
    ------
    Nothing.
    """
    try:
        made = root.answering.ask(lambda: _manifest(root, digest, shared=False))
    except (FastioError, FileNotFoundError) as error:
        number = error.errno if isinstance(error, ReadError | FileNotFoundError) else None
        yield True if number in _NO_MANIFEST else None
        return
    try:
        yield _is_taken(made)
    finally:
        made.close()


def _is_taken(made: Flock) -> bool:
    try:
        return made.take()
    except OSError:
        return False


def _manifest(root: Root, digest: str, *, shared: bool) -> Flock:
    path = root.path / MANIFESTS / manifest_name(digest)
    with root.sub(MANIFESTS) as folder:
        fd = called(path, "open", lambda: opened(folder, path.name))
    return Flock(fd, shared=shared)
