"""The target of a save: the path that a caller gave, checked and anchored at the call."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

from fastio.arguments.anchored import anchored, is_homeless
from fastio.arguments.paths import AnyPath, path_to_write
from fastio.errors import WriteError


class Target(NamedTuple):
    """A path that is written to.

    Attributes
    ----------
    given : pathlib.Path
        As the caller gave it.
    path : pathlib.Path
        The same place, also when the working directory changes.
    """

    given: Path
    path: Path


def file_target(path: AnyPath) -> Target:
    """Return where a file is to be written.

    Raises
    ------
    TypeError, ValueError
        If it is no path, or has a null byte.
    WriteError
        If it is empty, or no file can be meant by it. If it ends as only the path of a folder does,
        is a symlink to a device, a pipe or a descriptor, or is relative to a working directory that
        was removed.
    """
    target = folder_target(path)
    if os.fsdecode(path).endswith(os.sep):
        detail = "it ends as a folder's does; fastio.save makes one with shard_bytes"
        raise WriteError(errno.EISDIR, "open", target.given, detail=detail)
    _refuse_streams(target.path)
    return target


def folder_target(path: AnyPath) -> Target:
    """Return where a folder of files is to be written.

    Raises
    ------
    TypeError, UsageError, WriteError
        As `file_target` does.
    """
    given = path_to_write(path)
    if not given.is_absolute() and is_homeless():
        detail = "it is relative, and the working directory was removed: pass an absolute path"
        raise WriteError(errno.ENOENT, "getcwd", given, detail=detail)
    return Target(given, Path(anchored(os.fspath(given))))


def _refuse_streams(path: Path) -> None:
    """Refuse a symlink such as /dev/stdout: with a file in its place, whoever writes there next
    would write to that file.
    """
    try:
        if not stat.S_ISLNK(os.lstat(path).st_mode):
            return
    except OSError:
        return  # the error comes when it is opened
    folder = os.path.realpath(path.parent)
    if folder != "/dev" and not folder.startswith("/proc/"):
        try:
            mode = os.stat(path).st_mode
        except OSError:
            return  # it leads nowhere, and is replaced
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            return
    detail = (
        "it leads to a device, a pipe or an open descriptor; expected the path of a file. "
        "fastio.serialize returns the bytes for a stream"
    )
    raise WriteError(errno.EEXIST, "open", path, detail=detail)
