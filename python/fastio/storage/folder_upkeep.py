"""The upkeep of a local folder: its problems (files, folders, rights, locks), and their repair."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastio.errors import FastioError, ReadError, WriteError
from fastio.host.durability import sync_folder
from fastio.host.leftovers import remove_leftovers
from fastio.storage.answering import Answering, asked, progress
from fastio.storage.folder_files import (
    FOLDER,
    OpenFolder,
    called,
    folder_mode,
    make_folder,
    misplaced,
    opened,
    write_called,
)
from fastio.storage.folder_writing import WRITTEN_AS, replace

_FULL_BYTES = 2**20  # a folder with less free space takes no more generations


class FolderUpkeep:
    """The `Upkeep` of a folder."""

    def __init__(self, folder: OpenFolder, answering: Answering) -> None:
        self.answering = answering
        self._folder = folder

    # ---- what is wrong

    @asked
    def folder_problem(self, folder: str) -> str:
        try:
            with self._folder.sub(folder):
                return ""
        except ReadError as error:
            path = self._folder.path / folder
            if path.is_symlink():
                return "is a symlink, which is not followed: what it leads to is out of the root"
            return "is missing" if not os.path.lexists(path) else _cause(error, path)

    @asked
    def lock_problem(self, name: str) -> str:
        path = self._folder.path / name
        try:
            with self._folder.sub("", name) as folder:
                problem = misplaced(folder, name)
                if problem:
                    return f"cannot be locked: {problem}"
                os.close(called(path, "open", lambda: opened(folder, name, os.O_RDWR)))
        except FileNotFoundError:
            return ""
        except (FastioError, OSError) as error:
            # That a root is read-only is told once, of the root.
            is_read_only = getattr(error, "errno", None) == errno.EROFS
            return "" if is_read_only else f"cannot be locked: {_cause(error, path)}"
        return ""

    @asked
    def write_problems(self, folders: Sequence[str]) -> list[str]:
        try:
            with self._folder.sub("") as fd:
                filesystem = os.fstatvfs(fd)
        except (FastioError, OSError) as error:
            return [f"cannot be looked at: {error}"]
        found = []
        paths = (self._folder.path, *(self._folder.path / folder for folder in folders))
        if filesystem.f_flag & os.ST_RDONLY:
            found.append("is mounted read-only")
        elif locked := [path for path in paths if path.is_dir() and not os.access(path, os.W_OK)]:
            found.append(f"is read-only: nothing can be written to {locked[0]}")
        # Filesystems that do not tell have no blocks, or no inodes, in all.
        if filesystem.f_blocks and filesystem.f_bavail * filesystem.f_frsize < _FULL_BYTES:
            found.append("is full")  # how much is free is told of every root
        if filesystem.f_files and not filesystem.f_favail:
            found.append("is full: no inodes are free")
        return found

    @asked
    def unreadable(self, folder: str, wanted: Mapping[str, int]) -> dict[str, str]:
        found = {}
        with self._folder.sub(folder, *wanted) as fd:
            for name, nbytes in wanted.items():
                progress()
                problem = _unreadable(fd, name, nbytes)
                if problem:
                    found[name] = problem
        return found

    @asked
    def drop_cached(self, folder: str, name: str) -> None:
        progress()
        with contextlib.suppress(FastioError, OSError), self._folder.sub(folder, name) as at:
            fd = opened(at, name)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)

    # ---- what can be done

    def mend_folder(self, folder: str, mode: int) -> None:
        self._make_folder(folder, mode)
        self._sync()

    @asked
    def _make_folder(self, folder: str, mode: int) -> None:
        path = self._folder.path / folder
        if os.path.lexists(path):
            with self._folder.sub("") as fd:
                detail = misplaced(fd, folder, is_folder=True)
            if detail:
                raise WriteError(errno.ENOTDIR, "mkdir", path, detail=detail)
        make_folder(path, folder_mode(mode))

    @asked
    def _sync(self) -> None:
        sync_folder(self._folder.path, blamed=self._folder.path)

    @asked
    def mend_lock(self, name: str) -> None:
        path = self._folder.path / name
        with self._folder.sub("", name) as folder:
            fd = write_called(path, "open", lambda: os.open(".", FOLDER, dir_fd=folder))
        try:
            # One at a time: else the second would remove the file that the first has made.
            write_called(path, "flock", lambda: fcntl.flock(fd, fcntl.LOCK_EX))
            if self.lock_problem(name):
                _remove_lock(fd, name, path)
        finally:
            os.close(fd)
        problem = self.lock_problem(name)
        if problem:
            raise WriteError(errno.EINVAL, "open", path, detail=problem)

    @asked
    def mend_file(self, folder: str, name: str, data: bytes, mode: int) -> None:
        # A regular file stays the same inode: whoever reads its generation holds a lock on it.
        if not self._is_overwritten(folder, name, data):
            replace(self._folder, folder, name, data, mode)

    def _is_overwritten(self, folder: str, name: str, data: bytes) -> bool:
        """Whether there is a regular file, which has the data now."""
        path = self._folder.path / folder / name
        with self._folder.sub(folder, name) as at:
            fd = _opened_if_regular(at, name, path)
            if fd < 0:
                _remove_empty_folder(at, name, path)
                return False
        try:
            write_called(path, "write", lambda: _overwrite(fd, data))
        finally:
            os.close(fd)
        return True

    @asked
    def make_way(self, folder: str, name: str) -> None:
        with self._folder.sub(folder, name) as fd:
            _remove_empty_folder(fd, name, self._folder.path / folder / name)

    @asked
    def remove_leftovers(self, folders: Sequence[str]) -> None:
        for folder in folders:
            remove_leftovers(self._folder.path / folder / WRITTEN_AS)


def _cause(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


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


def _opened_if_regular(folder: int, name: str, path: Path) -> int:
    """A descriptor to write to a regular file; -1 where there is none."""
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return -1
        return opened(folder, name, os.O_RDWR)
    except FileNotFoundError:
        return -1
    except OSError as error:
        raise WriteError(error.errno or errno.EIO, "open", path) from error


def _overwrite(fd: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], done)
    os.ftruncate(fd, len(data))
    os.fsync(fd)


def _remove_empty_folder(folder: int, name: str, path: Path) -> None:
    try:
        os.rmdir(name, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        detail = misplaced(folder, name)
        raise WriteError(error.errno or errno.EIO, "rmdir", path, detail=detail) from error


def _remove_lock(folder: int, name: str, path: Path) -> None:
    """Remove a lock, unless it is a regular file: somebody may hold that one."""
    _remove_empty_folder(folder, name, path)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            write_called(path, "unlink", lambda: os.unlink(name, dir_fd=folder))
