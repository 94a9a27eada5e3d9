"""Folders and small files below a descriptor, with errors that name them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from fastio.errors import FormatError, ReadError, WriteError
from fastio.host.inheritance import allow
from fastio.host.refusals import note
from fastio.storage.answering import progress

# A name that stands for a link is refused, and a pipe is not waited for.
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a symlink, which is not followed,"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)

_Result = TypeVar("_Result")


class OpenFolder:
    """A folder that is held open, so that what is below it is found wherever it is moved.

    Parameters
    ----------
    path : pathlib.Path
        Absolute.
    fd : int
        A descriptor of it, which is closed with this object.

    Attributes
    ----------
    path : pathlib.Path
    fd : int
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    @classmethod
    def at(cls, path: Path) -> OpenFolder:
        """Open a folder.

        Raises
        ------
        FileNotFoundError, ReadError
        """
        return cls(path, called(path, "open", lambda: os.open(path, FOLDER)))

    @contextlib.contextmanager
    def sub(self, folder: str, *names: str) -> Iterator[int]:
        """A descriptor of a folder in it, and of no symlink there; of itself, for the empty name.

        Parameters
        ----------
        folder : str
        names : str
            Of files there that will be asked for, which are checked.

        Raises
        ------
        ReadError
        """
        for name in (folder, *names) if folder else names:
            if "/" in name or "\0" in name or name in ("", ".", ".."):
                path = self.path / folder
                raise ReadError(errno.EINVAL, "open", path, detail=f"{name!r} is no plain name")
        if not folder:
            yield self.fd
            return
        flags = FOLDER | os.O_NOFOLLOW
        try:
            fd = os.open(folder, flags, dir_fd=self.fd)
        except OSError as error:
            detail = misplaced(self.fd, folder, is_folder=True)
            path = self.path / folder
            raise ReadError(error.errno or errno.EIO, "open", path, detail=detail) from error
        try:
            yield fd
        finally:
            os.close(fd)


def folder_mode(file_mode: int) -> int:
    """Return the mode of folders: whoever may read or write may also search."""
    return file_mode | (file_mode & 0o444) >> 2


def misplaced(folder: int, name: str, *, is_folder: bool = False) -> str | None:
    """Say what stands in the place of a file or a folder of a store, and what to do about it; None
    where that is one.

    Raises
    ------
    Nothing.
    """
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return "it is missing; store.verify(repair=True) makes it anew" if is_folder else None
    except OSError:
        return None
    if stat.S_ISDIR(mode) if is_folder else stat.S_ISREG(mode):
        return None
    kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a device")
    return f"{kind} is in its place; remove that, and run store.verify(repair=True)"


def make_folder(path: Path, mode: int) -> bool:
    """Whether it was not there.

    Raises
    ------
    WriteError
        If it cannot be made. A mode that cannot be set is told, and the folder stays as it is.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError as error:
        if not path.is_dir():
            raise WriteError(errno.EEXIST, "mkdir", path) from error
        return False
    except OSError as error:
        raise WriteError(error.errno or errno.EIO, "mkdir", path) from error
    fd = write_called(path, "open", lambda: os.open(path, FOLDER))
    try:
        allow(fd, path, mode, lambda cause, remedy: note(path, cause, remedy))
    finally:
        os.close(fd)
    return True


def opened(folder: int, name: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """A descriptor of a file; of one with a lease of another process, once that is given back."""
    try:
        return os.open(name, flags | _SAFELY, mode, dir_fd=folder)
    except BlockingIOError:
        # A path descriptor opens nothing, and shows what the name stands for.
        place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            return os.open(name, flags | _SAFELY, dir_fd=folder)
        return os.open(f"/proc/self/fd/{place}", flags & ~os.O_CREAT | os.O_CLOEXEC)
    finally:
        os.close(place)


def status(folder: OpenFolder, sub: str, name: str) -> os.stat_result:
    """Return the status of a regular file.

    Raises
    ------
    FileNotFoundError, ReadError
    """
    path = folder.path / sub / name
    with folder.sub(sub, name) as fd:
        found = called(path, "stat", lambda: os.stat(name, dir_fd=fd, follow_symlinks=False))
        if not stat.S_ISREG(found.st_mode):
            raise ReadError(errno.EINVAL, "stat", path, detail=misplaced(fd, name))
    return found


def read(folder: int, name: str, path: Path, nbytes_max: int) -> bytes:
    with _opened_regular(folder, name, path) as (fd, nbytes):
        if nbytes > nbytes_max:
            raise FormatError(path, f"has {nbytes} bytes", expected=f"at most {nbytes_max}")
        parts = []
        while part := called(path, "read", lambda: os.read(fd, 2**24)):
            parts.append(part)
        return b"".join(parts)


def read_range(folder: int, name: str, path: Path, begin: int, nbytes: int) -> bytes:
    with _opened_regular(folder, name, path) as (fd, _):
        data = bytearray()

        def more() -> bytes:
            return os.pread(fd, nbytes - len(data), begin + len(data))

        while part := called(path, "read", more):
            data += part
        return bytes(data)


@contextlib.contextmanager
def _opened_regular(folder: int, name: str, path: Path) -> Iterator[tuple[int, int]]:
    """A descriptor of a regular file, and its bytes."""
    fd = called(path, "open", lambda: opened(folder, name), lambda: misplaced(folder, name))
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ReadError(errno.EINVAL, "open", path, detail=misplaced(folder, name))
        yield fd, status.st_size
    finally:
        os.close(fd)


def called(
    path: Path,
    operation: str,
    call: Callable[[], _Result],
    why: Callable[[], str | None] = lambda: None,
) -> _Result:
    progress()
    try:
        return call()
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except OSError as error:
        raise ReadError(error.errno or errno.EIO, operation, path, detail=why()) from error


def write_called(
    path: Path,
    operation: str,
    call: Callable[[], _Result],
    why: Callable[[], str | None] = lambda: None,
) -> _Result:
    progress()
    try:
        return call()
    except FileNotFoundError as error:
        if operation == "unlink":
            raise
        raise WriteError(errno.ENOENT, operation, path) from error
    except OSError as error:
        raise WriteError(error.errno or errno.EIO, operation, path, detail=why()) from error
