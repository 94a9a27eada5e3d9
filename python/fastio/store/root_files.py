"""The files of one root, below a descriptor of its folder.

No symlink is followed there, so that what a manifest names stays inside. A file gets its name when
it is whole and on the disk. All calls are made by the root's own thread: see `answering`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from fastio.errors import ConflictError, ReadError, WriteError
from fastio.host.durability import sync_folder
from fastio.host.replacement import Replacement
from fastio.store.answering import Answering, asked, progress
from fastio.store.files import FOLDER, called, misplaced, opened, read, write_called

FILE_MODE = 0o600
"""Of new files, unless the user says otherwise; folders may be searched by whoever may read."""


class RootFiles:
    """Files in the folders of a root.

    Parameters
    ----------
    path : pathlib.Path
        Absolute.
    folder : int
        A descriptor of it, which is closed with this object.
    answering : Answering

    Attributes
    ----------
    path : pathlib.Path
    answering : Answering
        Makes all calls that may take long.
    """

    def __init__(self, path: Path, folder: int, answering: Answering) -> None:
        self.path = path
        self.answering = answering
        self._folder = folder
        with contextlib.suppress(OSError):
            answering.disk = os.fstat(folder).st_dev

    @asked
    def is_at(self, path: str | Path) -> bool:
        """Return whether a path leads to it.

        Raises
        ------
        ReadError
            If it does not answer.
        """
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._folder))
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        """Close its descriptor, when no call is made with it any more."""
        folder, self._folder = self._folder, -1
        if folder >= 0:
            self.answering.afterwards(lambda: os.close(folder))
            self.answering.close()

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a root cannot be pickled or copied")

    # ---- what is in it

    @asked
    def names(self, sub: str) -> list[str]:
        """Return what is in one of its folders, sorted.

        Raises
        ------
        ReadError
        """
        with self.sub(sub) as folder:
            return sorted(called(self.path / sub, "listdir", lambda: os.listdir(folder)))

    @asked
    def read(self, sub: str, name: str, nbytes_max: int) -> bytes:
        """Return a file.

        Raises
        ------
        FileNotFoundError
        FormatError
            If it is longer.
        ReadError
        """
        with self.sub(sub) as folder:
            return read(folder, name, self.path / sub / name, nbytes_max)

    @asked
    def size(self, sub: str, name: str) -> int:
        """Return the bytes of a file.

        Raises
        ------
        FileNotFoundError, ReadError
        """
        path = self.path / sub / name
        with self.sub(sub) as folder:
            status = called(
                path, "stat", lambda: os.stat(name, dir_fd=folder, follow_symlinks=False)
            )
            if not stat.S_ISREG(status.st_mode):
                raise ReadError(errno.EINVAL, "stat", path, detail=misplaced(folder, name))
        return status.st_size

    @asked
    def sizes(self, sub: str) -> dict[str, int]:
        """Return the bytes of each regular file in one of its folders, by name.

        Raises
        ------
        ReadError
        """
        found = {}
        with self.sub(sub) as folder:
            for name in called(self.path / sub, "listdir", lambda: os.listdir(folder)):
                with contextlib.suppress(OSError):  # it was removed meanwhile
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        found[name] = status.st_size
                progress()
        return found

    @asked
    def unreadable(self, sub: str, wanted: Mapping[str, int]) -> dict[str, str]:
        """Return which files cannot be read, or have another size, by name with the reason.

        No byte is read. Each is opened: rights alone do not tell on every filesystem.

        Parameters
        ----------
        sub : str
        wanted : mapping of str to int
            Bytes of each file.

        Raises
        ------
        ReadError
            If the folder cannot be read.
        """
        found = {}
        with self.sub(sub) as folder:
            for name, nbytes in wanted.items():
                progress()
                problem = _unreadable(folder, name, nbytes)
                if problem:
                    found[name] = problem
        return found

    @asked
    def space(self) -> tuple[int, int] | None:
        """Return bytes that are free for whoever may write here, and bytes in all; None where the
        filesystem does not say.

        Raises
        ------
        ReadError
        """
        status = called(self.path, "statvfs", lambda: os.fstatvfs(self._folder))
        if not status.f_blocks:  # ramfs, and some filesystems of the network
            return None
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize

    @asked
    def disk(self) -> int:
        """Return the number of the disk that it is on, as st_dev.

        Raises
        ------
        ReadError
            If it does not answer.
        """
        return os.fstat(self._folder).st_dev

    @contextlib.contextmanager
    def sub(self, sub: str) -> Iterator[int]:
        """A descriptor of one of its folders, for a call that this root's thread makes.

        Raises
        ------
        ReadError
        """
        if not sub:
            yield self._folder
            return
        path = self.path / sub
        flags = FOLDER | os.O_NOFOLLOW
        try:
            folder = os.open(sub, flags, dir_fd=self._folder)
        except OSError as error:
            detail = misplaced(self._folder, sub, is_folder=True)
            raise ReadError(error.errno or errno.EIO, "open", path, detail=detail) from error
        try:
            yield folder
        finally:
            os.close(folder)

    # ---- what is put there

    @asked
    def put(
        self, sub: str, name: str, data: bytes, *, mode: int = FILE_MODE, replace: bool = False
    ) -> None:
        """Write a file and bring it, and then its name, to the disk.

        Raises
        ------
        ConflictError
            If there is one already, and it is not to be replaced.
        WriteError
        """
        path = self.path / sub / name
        with self.sub(sub) as folder:  # a symlink in place of the folder is met here
            _check_replaceable(folder, name, path)
        replacement = Replacement(path, FILE_MODE, written_as=self.path / sub / "new")
        try:
            replacement.reserve(len(data))
            if not replacement.renames:
                detail = "a store replaces files, and this filesystem cannot rename"
                raise WriteError(errno.ENOSYS, "rename", path, detail=detail)
            replacement.begin()
            replacement.file.write(0, data)
            replacement.allow(mode)
            replacement.settle()
            if replace:
                replacement.link()
                replacement.rename()
            elif not replacement.claim():
                raise ConflictError(path, "is there already")
            replacement.sync_name()
        finally:
            replacement.close()

    @asked
    def remove(self, sub: str, name: str) -> None:
        """Remove a file, if it is there.

        Raises
        ------
        WriteError
        """
        path = self.path / sub / name
        with self.sub(sub) as folder, contextlib.suppress(FileNotFoundError):
            write_called(path, "unlink", lambda: os.unlink(name, dir_fd=folder))

    @asked
    def sync(self, sub: str) -> None:
        """Bring the names in one of its folders to the disk.

        Raises
        ------
        WriteError
        """
        sync_folder(self.path / sub, blamed=self.path / sub)


def _unreadable(folder: int, name: str, nbytes: int) -> str:
    try:
        fd = opened(folder, name)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        if misplaced(folder, name) is not None:
            return "no regular file"
        return f"closed to this process ({errno.errorcode.get(error.errno or 0)}, {error.strerror})"
    try:
        status = os.fstat(fd)
    finally:
        os.close(fd)
    if not stat.S_ISREG(status.st_mode):
        return "no regular file"
    return "" if status.st_size == nbytes else "of another size"


def _check_replaceable(folder: int, name: str, path: Path) -> None:
    """Refuse to put a file into the place of a folder: no rename does that."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        raise WriteError(errno.EISDIR, "rename", path, detail=misplaced(folder, name))
