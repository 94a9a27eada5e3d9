"""Files and names brought to the disk; where a filesystem has no fsync, that is said."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import fastio._native as _native
from fastio.errors import WriteError
from fastio.host.refusals import is_refusal, named, note


def sync_file(file: _native.TargetFile) -> str | None:
    """Bring a file to the disk.

    Returns
    -------
    str or None
        What could not be had, where the filesystem has no fsync.

    Raises
    ------
    WriteError
        If it has one and that fails.
    """
    try:
        file.sync()
    except WriteError as error:
        if not is_refusal(error):
            raise
        return note(
            Path(error.path),
            f"fsync is refused here ({named(error)})",
            "whether the bytes are on the disk could not be asked",
        )
    return None


def sync_folder(folder: Path, *, blamed: Path) -> str | None:
    """Bring the names in a folder to the disk.

    Parameters
    ----------
    folder : pathlib.Path
    blamed : pathlib.Path
        The file that an error names.

    Returns
    -------
    str or None
        What could not be had, where the filesystem has no fsync of folders, or the folder may not
        be read.

    Raises
    ------
    WriteError
        If it has one and that fails.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if not is_refusal(error):
            raise WriteError(error.errno or errno.EIO, "open", blamed) from error
        return _not_asked(blamed, error)
    try:
        _native.TargetFile(fd, blamed, folder).sync()
    except WriteError as error:
        # EBADF is what some say of a descriptor that was opened to be read only.
        if not is_refusal(error) and error.errno != errno.EBADF:
            raise
        return _not_asked(blamed, error)
    finally:
        os.close(fd)
    return None


def _not_asked(path: Path, error: OSError) -> str:
    return note(
        path,
        f"fsync of a folder is refused here ({named(error)})",
        "whether the file's name survives a power cut could not be asked",
    )
