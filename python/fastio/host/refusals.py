"""Errors that say "cannot" and not "went wrong": which they are, who is told, what else to do.

A filesystem need not have every call: FUSE filesystems over object stores and HDFS, old CIFS, and
sandboxes lack some. A save does without, as far as it can, and says so once a mount.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import stat
from pathlib import Path

from fastio.report.events import Event, emit

_CANNOT = frozenset(
    (
        errno.EPERM,
        errno.EACCES,
        errno.EINVAL,
        errno.ENOSYS,
        errno.EOPNOTSUPP,
        errno.ENOTTY,
        errno.EOVERFLOW,  # an id that has no number in this user namespace
    )
)
_GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS, linux/fs.h
_APPEND_ONLY, _IMMUTABLE = 0x20, 0x10  # FS_APPEND_FL, FS_IMMUTABLE_FL
IN_PLACE = "Options(in_place=True) writes into it instead, and a crash meanwhile loses it"

_told: set[tuple[int, str]] = set()
"""By disk: the causes that were said of it already."""


def is_refusal(error: OSError) -> bool:
    """Return whether a call cannot be had here, rather than has failed."""
    return error.errno in _CANNOT


def named(error: OSError) -> str:
    """Return the name of an error number, as "ENOSYS"."""
    code = error.errno or 0
    return errno.errorcode.get(code, str(code))


def note(path: Path, cause: str, remedy: str) -> str:
    """Return what could not be had for a file, and why; say it, unless the mount is known for it.

    Parameters
    ----------
    path : pathlib.Path
    cause, remedy : str
        What was refused, and what was done instead.

    Raises
    ------
    Nothing.
    """
    try:
        disk = os.stat(path.parent).st_dev
    except OSError:
        disk = -1
    if (disk, cause) not in _told:
        _told.add((disk, cause))
        emit(Event("fallback", str(path), cause, remedy))
    return f"{cause}; {remedy}"


def advice(error: OSError, path: Path) -> str | None:
    """Return what else can be done where a file cannot be replaced.

    Parameters
    ----------
    error : OSError
        Of the call that should have made the new file, or given it its name.
    path : pathlib.Path
        The file that is to be replaced; need not be there.

    Raises
    ------
    Nothing.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    reason = _reason(error, path, status)
    if reason is None or not os.access(path, os.W_OK, effective_ids=True):
        return reason
    return f"{reason}; {IN_PLACE}"


def _reason(error: OSError, path: Path, status: os.stat_result) -> str | None:
    if error.errno == errno.EBUSY:
        return "something is mounted on this file, so no other can take its name"
    if error.errno == errno.EROFS:
        return "its folder is on a read-only filesystem"
    if error.errno == errno.EXDEV:
        return "the file and its folder are on different mounts"
    if error.errno == errno.EACCES:
        return "its folder may not be written to"
    if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
        return "the filesystem cannot rename, so a file that is there cannot be replaced"
    if error.errno != errno.EPERM:
        return None
    flags = _flags(path)
    if flags & _IMMUTABLE:
        return "the file is immutable; `chattr -i` makes it a file like others"
    if flags & _APPEND_ONLY or _flags(path.parent) & _APPEND_ONLY:
        return "the file or its folder is append-only; `chattr -a` makes it one like others"
    try:
        folder = os.stat(path.parent)
    except OSError:
        return None
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, folder.st_uid, status.st_uid):
        return "its folder is sticky: only the owner of a file may replace it there"
    return "the filesystem does not let the file be replaced"


def _flags(path: Path) -> int:
    """The flags that `lsattr` shows; 0 if the filesystem has none."""
    flags = array.array("l", [0])
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.ioctl(fd, _GET_FLAGS, flags)
    except OSError:
        return 0
    finally:
        os.close(fd)
    return flags[0]
