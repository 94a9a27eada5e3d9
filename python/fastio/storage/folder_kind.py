"""A local folder as a kind of storage: opened, made, and checked before something is made of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePath

from fastio.errors import WriteError
from fastio.host import folders
from fastio.host.durability import sync_folder
from fastio.host.leftovers import is_temporary
from fastio.storage.answering import Answering
from fastio.storage.folder import Folder
from fastio.storage.folder_files import (
    FOLDER,
    OpenFolder,
    folder_mode,
    make_folder,
    write_called,
)
from fastio.storage.kind import Skeleton

_OF_FILESYSTEMS = {"lost+found"}
"""The names on a fresh filesystem."""
_NOT_EMPTY = "there is something in it; a root is made of an empty folder"


def open_storage(path: PurePath, answering: Answering) -> Folder:
    """Open a folder."""
    return Folder(OpenFolder.at(Path(path)), answering)


def make_storage(path: PurePath, skeleton: Skeleton, mode: int, answering: Answering) -> Folder:
    """Make a folder, those above it, and those in it; open it."""
    path = Path(path)
    folders.make(folders.missing(path.parent, blamed=path), durable=True, blamed=path)
    wanted = [path / name for name in ("", *skeleton.folders)]
    made = [each for each in wanted if make_folder(each, folder_mode(mode))]
    if path in made:
        sync_folder(path.parent, blamed=path)
    fd = write_called(path, "open", lambda: os.open(path, FOLDER))
    return Folder(OpenFolder(path, fd), answering, made)


def require_free(path: PurePath, skeleton: Skeleton) -> None:
    """Refuse a folder that has files, or lies in a root; something else than a folder, as well."""
    path = Path(path)
    if path.exists():
        require_own(path, skeleton)
        if any(_names_in(path / name) for name in _names_in(path) & {*skeleton.folders}):
            raise WriteError(errno.ENOTEMPTY, "mkdir", path, detail=_NOT_EMPTY)
    for above in Path(os.path.realpath(path)).parents:
        if os.path.lexists(above / skeleton.identity):
            detail = f"it is inside {above}, which is a root of a store; choose another folder"
            raise WriteError(errno.EEXIST, "mkdir", path, detail=detail)
    folders.missing(path.parent, blamed=path)


def require_own(path: PurePath, skeleton: Skeleton) -> None:
    """Refuse a folder that has something else in it than a root."""
    if not _names_in(Path(path)) <= {*_OF_FILESYSTEMS, *skeleton.files, *skeleton.folders}:
        raise WriteError(errno.ENOTEMPTY, "mkdir", path, detail=_NOT_EMPTY)


def _names_in(folder: Path) -> set[str]:
    """The files in a folder, without the temporary files of a killed writer."""
    names = write_called(folder, "listdir", lambda: os.listdir(folder))
    return {name for name in names if not is_temporary(name)}
