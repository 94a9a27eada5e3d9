"""A file that takes the place of another one whole and durably, or not at all.

It is written beside its place, reaches the disk, and only then gets its name: whoever looks at any
moment, also after a power cut, finds the old file or the new one. While it is written it has no
name, where the filesystem can do that (O_TMPFILE), so that nothing is left of it when the process
is killed; elsewhere a temporary one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from fastio.errors import WriteError

_log = logging.getLogger("fastio")
_Result = TypeVar("_Result")

_NAME_BYTES_MAX = 255  # of one name in a folder, on every common filesystem


class Replacement:
    """The new file while it is written; `replacing` makes one, and commits or removes it.

    Attributes
    ----------
    path : pathlib.Path
        The name that it will have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        name = os.fsdecode(os.fsencode(path.name)[: _NAME_BYTES_MAX - 32])
        self._temporary = path.parent / f".{name}.{os.urandom(8).hex()}.fastio-tmp"
        self._fd, self._named = self._open()

    def _open(self) -> tuple[int, bool]:
        """A descriptor, and whether the file has its temporary name already."""
        try:
            fd = os.open(self.path.parent, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        except OSError:
            pass  # not on this filesystem; or for a reason that is met below, too
        else:
            if os.path.exists(_own_descriptor(fd)):
                return fd, False
            os.close(fd)  # no /proc: it could not be given a name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return self._call("open", lambda: os.open(self._temporary, flags, 0o600)), True

    def reserve(self, nbytes: int) -> None:
        """Have the filesystem set space aside, so that a full disk is met at once.

        Raises
        ------
        WriteError
            If there is not enough of it.
        """
        if not nbytes:
            return
        try:
            os.posix_fallocate(self._fd, 0, nbytes)
        except OSError as error:
            # Not every filesystem can; writing then finds out.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise self._failed(error, "fallocate") from error

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data` at a byte offset.

        Raises
        ------
        WriteError
            If not all of it can be written: the path, the offset.
        """
        left = memoryview(data)
        while left:
            try:
                written = os.pwrite(self._fd, left, offset)
            except OSError as error:
                raise self._failed(error, "write", offset) from error
            offset, left = offset + written, left[written:]

    def imitate(self, status: os.stat_result) -> None:
        """Take over mode and owner of another file.

        An ordinary user may not give files away; the owner is then whoever writes, and a warning is
        logged.

        Raises
        ------
        WriteError
            If the mode cannot be set, or root cannot set the owner.
        """
        own = os.fstat(self._fd)
        if (own.st_uid, own.st_gid) != (status.st_uid, status.st_gid):
            try:
                os.fchown(self._fd, status.st_uid, status.st_gid)
            except PermissionError as error:
                if os.geteuid() == 0:
                    raise self._failed(error, "fchown") from error
                _log.warning(
                    "%s keeps the owner that writes it: only root can give it to %d:%d",
                    self.path,
                    status.st_uid,
                    status.st_gid,
                )
        self._call("fchmod", lambda: os.fchmod(self._fd, status.st_mode & 0o7777))

    def commit(self) -> None:
        """Bring the file to the disk, then give it its name; a symlink there is replaced.

        Raises
        ------
        WriteError
            If that fails. Only when the last step does (fsync of the folder) does the name stand
            for the new file already; it may then be the old one again after a power cut.
        """
        self._call("fsync", lambda: os.fsync(self._fd))
        parent = self.path.parent
        folder = self._call("open", lambda: os.open(parent, os.O_RDONLY | os.O_DIRECTORY))
        try:
            if not self._named:
                # Nothing but a rename replaces a name, and a rename needs one.
                self._named = True
                self._call("link", lambda: self._link(folder))
            self._call("rename", lambda: os.replace(self._temporary, self.path))
            self._call("fsync", lambda: os.fsync(folder))
        finally:
            os.close(folder)

    def _link(self, folder: int) -> None:
        # With a folder's descriptor Python calls linkat, which follows the link in /proc.
        os.link(_own_descriptor(self._fd), self._temporary.name, dst_dir_fd=folder)

    def discard(self) -> None:
        """Close the file; unless it was committed, nothing is left of it."""
        os.close(self._fd)
        if self._named:
            with contextlib.suppress(FileNotFoundError):  # committed: it has its own name now
                os.unlink(self._temporary)

    def _call(self, operation: str, call: Callable[[], _Result]) -> _Result:
        try:
            return call()
        except OSError as error:
            raise self._failed(error, operation) from error

    def _failed(self, error: OSError, operation: str, offset: int | None = None) -> WriteError:
        return WriteError(error.errno or errno.EIO, operation, self.path, offset)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Replacement]:
    """Open a file that will be called `path`, and remove it again unless it was committed.

    Parameters
    ----------
    path : pathlib.Path
        Need not be there.

    Raises
    ------
    WriteError
        If it cannot be made.
    """
    replacement = Replacement(path)
    try:
        yield replacement
    finally:
        replacement.discard()


def _own_descriptor(fd: int) -> str:
    return f"/proc/self/fd/{fd}"
