"""The names of files and folders in a root, and whether a folder can become a root."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from fastio.errors import WriteError
from fastio.host import folders
from fastio.host.leftovers import is_temporary
from fastio.store import IDENTITY
from fastio.store.files import write_called

SHARDS, MANIFESTS, COMMITS = "shards", "manifests", "commits"
FOLDERS = (SHARDS, MANIFESTS, COMMITS)
PROMISE = "promise"
LOCK = "lock"
VERIFIED = "verified"
# The names on a fresh filesystem, and those that an unfinished creation leaves.
_NOTHING = {"lost+found", IDENTITY, PROMISE, VERIFIED, LOCK, *FOLDERS}
_NOT_EMPTY = "there is something in it; a root is made of an empty folder"


def record_name(generation: int) -> str:
    """Return the name of a commit record."""
    return f"{generation:016x}"


def manifest_name(digest: str) -> str:
    """Return the name of a manifest."""
    return f"{digest}.json"


def require_free(path: Path) -> None:
    """Refuse a folder that no root can be made of.

    Raises
    ------
    WriteError
        If there is something in it, something else than a folder is there or above, or it is
        inside a root of a store.
    """
    if path.exists():
        require_own_names(path)
        if any(_names_in(path / name) for name in _names_in(path) & {*FOLDERS}):
            raise WriteError(errno.ENOTEMPTY, "mkdir", path, detail=_NOT_EMPTY)
    for above in Path(os.path.realpath(path)).parents:
        if os.path.lexists(above / IDENTITY):
            detail = f"it is inside {above}, which is a root of a store; choose another folder"
            raise WriteError(errno.EEXIST, "mkdir", path, detail=detail)
    folders.missing(path.parent, blamed=path)


def require_own_names(path: Path) -> None:
    """Refuse a folder that has something else in it than a root.

    Raises
    ------
    WriteError
    """
    if not _names_in(path) <= _NOTHING:
        raise WriteError(errno.ENOTEMPTY, "mkdir", path, detail=_NOT_EMPTY)


def _names_in(folder: Path) -> set[str]:
    """The files in a folder, without the temporary files of a killed writer."""
    names = write_called(folder, "listdir", lambda: os.listdir(folder))
    return {name for name in names if not is_temporary(name)}
