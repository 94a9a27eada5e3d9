"""A local folder as a storage: its files, below a descriptor of it.

No symlink is followed there, so that what a manifest names stays inside. A file gets its name when
it is whole and on the disk.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePath

import fastio._native as _native
from fastio.host.durability import sync_folder
from fastio.host.replacement import Replacement
from fastio.storage.answering import Answering, asked, progress
from fastio.storage.folder_files import (
    OpenFolder,
    called,
    read,
    read_range,
    status,
    write_called,
)
from fastio.storage.folder_locks import FolderLocks
from fastio.storage.folder_upkeep import FolderUpkeep
from fastio.storage.folder_writing import check_folder, new_file, put_if_absent, replace


class Folder:
    """A `Storage`; see there what each method promises.

    Parameters
    ----------
    folder : OpenFolder
        Closed with this object.
    answering : Answering
    made : sequence of pathlib.Path
        Those of its folders, and itself, that were made just now, the outermost first.
    """

    def __init__(self, folder: OpenFolder, answering: Answering, made: Sequence[Path] = ()) -> None:
        self.path = folder.path
        self.answering = answering
        self.locks = FolderLocks(folder, answering)
        self.upkeep = FolderUpkeep(folder, answering)
        self._folder = folder
        self._made = list(made)
        with contextlib.suppress(OSError):
            answering.disk = os.fstat(folder.fd).st_dev

    @property
    def is_new(self) -> bool:
        return bool(self._made)

    def close(self) -> None:
        fd, self._folder.fd = self._folder.fd, -1
        if fd >= 0:
            self.answering.afterwards(lambda: os.close(fd))
            self.answering.close()

    def __del__(self) -> None:
        self.close()

    # ---- what is there

    @asked
    def names(self, folder: str) -> list[str]:
        with self._folder.sub(folder) as fd:
            return sorted(called(self.path / folder, "listdir", lambda: os.listdir(fd)))

    @asked
    def sizes(self, folder: str) -> dict[str, int]:
        found = {}
        with self._folder.sub(folder) as fd:
            for name in called(self.path / folder, "listdir", lambda: os.listdir(fd)):
                with contextlib.suppress(OSError):  # it was removed meanwhile
                    file = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if stat.S_ISREG(file.st_mode):
                        found[name] = file.st_size
                progress()
        return found

    @asked
    def size(self, folder: str, name: str) -> int:
        return status(self._folder, folder, name).st_size

    @asked
    def mode(self, folder: str, name: str) -> int:
        return stat.S_IMODE(status(self._folder, folder, name).st_mode)

    @asked
    def read(self, folder: str, name: str, nbytes_max: int) -> bytes:
        with self._folder.sub(folder, name) as fd:
            return read(fd, name, self.path / folder / name, nbytes_max)

    @asked
    def read_range(self, folder: str, name: str, begin: int, nbytes: int) -> bytes:
        with self._folder.sub(folder, name) as fd:
            return read_range(fd, name, self.path / folder / name, begin, nbytes)

    @asked
    def open_file(self, folder: str, name: str) -> _native.File:
        with self._folder.sub(folder, name) as fd:
            return _native.File.open_in(fd, name, str(self.path / folder / name))

    # ---- what is put there

    @asked
    def put_if_absent(self, folder: str, name: str, data: bytes, mode: int) -> None:
        put_if_absent(self._folder, folder, name, data, mode)

    @asked
    def replace(self, folder: str, name: str, data: bytes, mode: int) -> None:
        replace(self._folder, folder, name, data, mode)

    def new_file(self, folder: str, name: str) -> Replacement:
        self.answering.ask(lambda: check_folder(self._folder, folder, name))
        return new_file(self._folder, folder, name)

    @asked
    def remove(self, folder: str, name: str) -> None:
        path = self.path / folder / name
        with self._folder.sub(folder, name) as fd, contextlib.suppress(FileNotFoundError):
            write_called(path, "unlink", lambda: os.unlink(name, dir_fd=fd))

    @asked
    def sync(self, folder: str) -> None:
        sync_folder(self.path / folder, blamed=self.path / folder)

    # ---- itself

    @asked
    def is_at(self, path: str | PurePath) -> bool:
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._folder.fd))
        except (OSError, ValueError):
            return False

    @asked
    def disk(self) -> int:
        return os.fstat(self._folder.fd).st_dev

    @asked
    def space(self) -> tuple[int, int] | None:
        found = called(self.path, "statvfs", lambda: os.fstatvfs(self._folder.fd))
        if not found.f_blocks:  # ramfs, and some filesystems of the network
            return None
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    @asked
    def unmake(self) -> None:
        while self._made:
            self._made[-1].rmdir()
            self._made.pop()
