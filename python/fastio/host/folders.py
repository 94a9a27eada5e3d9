"""Folders that are missing on the way to a file: found, made, and removed again."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from fastio.errors import WriteError
from fastio.host.durability import sync_folder


def missing(folder: Path, *, blamed: Path) -> list[Path]:
    """Return which folders are missing from a folder upwards, the outermost first.

    Parameters
    ----------
    folder : pathlib.Path
    blamed : pathlib.Path
        The file that an error names.

    Raises
    ------
    WriteError
        If something on the way is no folder, or cannot be looked at.
    """
    found: list[Path] = []
    above = folder
    while True:
        try:
            status = os.stat(above)
        except FileNotFoundError:
            if above.is_symlink():
                detail = f"{above} is a symlink that leads nowhere"
                raise WriteError(errno.ENOENT, "open", blamed, detail=detail) from None
            found.insert(0, above)
        except NotADirectoryError:
            found = []  # a file in the way is found above
        except OSError as error:
            raise WriteError(error.errno or errno.EIO, "open", blamed) from error
        else:
            if not stat.S_ISDIR(status.st_mode):
                detail = f"{above} is a file, and no folder"
                raise WriteError(errno.ENOTDIR, "open", blamed, detail=detail)
            return found
        if above == above.parent:
            return found
        above = above.parent


def make(missing: Sequence[Path], *, durable: bool, blamed: Path) -> list[Path]:
    """Make folders that are missing, and return those that were not there.

    Parameters
    ----------
    missing : sequence of pathlib.Path
        The outermost first. One that another process makes meanwhile is taken.
    durable : bool
        Whether their names are on the disk when this returns.
    blamed : pathlib.Path
        The file that an error names.

    Raises
    ------
    WriteError
        If one cannot be made; those that were made are removed again.
    """
    made: list[Path] = []
    try:
        for folder in missing:
            try:
                os.mkdir(folder)
            except FileExistsError:
                continue
            except OSError as error:
                detail = f"the folder {folder} is missing, and cannot be made"
                raise WriteError(
                    error.errno or errno.EIO, "mkdir", blamed, detail=detail
                ) from error
            made.append(folder)
            if durable:
                sync_folder(folder.parent, blamed=blamed)
    except BaseException:
        remove(made)
        raise
    return made


def remove(made: Sequence[Path]) -> None:
    """Remove folders that were made and are still empty.

    Parameters
    ----------
    made : sequence of pathlib.Path
        The outermost first.

    Raises
    ------
    Nothing: what cannot be removed stays.
    """
    for folder in reversed(made):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
