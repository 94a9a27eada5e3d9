"""Files that get their names in a local folder when they are whole and on the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from fastio.errors import ConflictError, WriteError
from fastio.host.replacement import Replacement
from fastio.storage.folder_files import OpenFolder, misplaced
from fastio.storage.protocol import FILE_MODE

WRITTEN_AS = "new"
"""What all temporary names are made of, by which those of killed writers are found."""


def put_if_absent(folder: OpenFolder, sub: str, name: str, data: bytes, mode: int) -> None:
    with _written(folder, sub, name, data, mode) as replacement:
        if not replacement.claim():
            raise ConflictError(replacement.path, "is there already")
        replacement.sync_name()


def replace(folder: OpenFolder, sub: str, name: str, data: bytes, mode: int) -> None:
    with _written(folder, sub, name, data, mode) as replacement:
        replacement.link()
        replacement.rename()
        replacement.sync_name()


@contextlib.contextmanager
def _written(
    folder: OpenFolder, sub: str, name: str, data: bytes, mode: int
) -> Iterator[Replacement]:
    """A file that is whole and on the disk, and only lacks its name."""
    _check(folder, sub, name)
    replacement = new_file(folder, sub, name)
    try:
        replacement.reserve(len(data))
        if not replacement.renames:
            detail = "a store replaces files, and this filesystem cannot rename"
            raise WriteError(errno.ENOSYS, "rename", replacement.path, detail=detail)
        replacement.begin()
        replacement.file.write(0, data)
        replacement.allow(mode)
        replacement.settle()
        yield replacement
    finally:
        replacement.close()


def new_file(folder: OpenFolder, sub: str, name: str) -> Replacement:
    """Open a file that is written by path: its folder is to be checked first."""
    below = folder.path / sub
    return Replacement(below / name, FILE_MODE, written_as=below / WRITTEN_AS)


def check_folder(folder: OpenFolder, sub: str, name: str) -> None:
    """Refuse a symlink in place of a folder: by path it would be followed.

    Raises
    ------
    ReadError
    """
    with folder.sub(sub, name):
        pass


def _check(folder: OpenFolder, sub: str, name: str) -> None:
    """Refuse a symlink in place of a folder, and a folder in place of a file."""
    path = folder.path / sub / name
    with folder.sub(sub, name) as fd:
        try:
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        except OSError:
            return
        if stat.S_ISDIR(mode):
            raise WriteError(errno.EISDIR, "rename", path, detail=misplaced(fd, name))
