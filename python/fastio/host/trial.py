"""How a file can be written, found by trying: where no space is set aside, more may be missing.

Never by a filesystem's name or a kernel's version: the same FUSE program can be mounted either way.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import msgspec

import fastio._native as _native
from fastio.errors import WriteError
from fastio.host.refusals import is_refusal, named


class Abilities(msgspec.Struct):
    """Calls that work on a file.

    Attributes
    ----------
    set_aside : bool
        Space was set aside for it. Nothing else is tried then.
    cut : bool
        It can be made shorter (ftruncate).
    in_order : str
        Why its bytes must be written one after another, from the first one on; empty where they
        need not. A file that was tried so must be begun anew.
    """

    set_aside: bool = True
    cut: bool = True
    in_order: str = ""


def reserve(file: _native.TargetFile, nbytes: int, padded_nbytes: int) -> Abilities:
    """Have space set aside for a file; where that cannot be had, find out how it can be written.

    Parameters
    ----------
    file : _native.TargetFile
        Empty.
    nbytes, padded_nbytes : int
        That it will have; and that it may have before it is cut.

    Raises
    ------
    WriteError
        If there is not enough space, or a call fails.
    """
    found = Abilities()
    try:
        found.set_aside = file.reserve(padded_nbytes)
    except WriteError as error:
        if error.operation != "ftruncate" or not is_refusal(error):
            raise
        found.set_aside = found.cut = False
    if not found.set_aside and nbytes > 1:
        # Some take no byte but the next one, others say that ftruncate worked and do nothing.
        try:
            file.write(nbytes - 1, b"\0")
        except WriteError as error:
            if not is_refusal(error) and error.errno != errno.ESPIPE:
                raise
            found.in_order = f"a write at an offset is refused here ({named(error)})"
    return found


def can_rename(temporary: Path, other: Path) -> tuple[bool, Path]:
    """Return whether files can be renamed where a temporary one lies, and what it is called now.

    It is tried each time: another filesystem may have the same number (st_dev) by now.

    Parameters
    ----------
    temporary : pathlib.Path
    other : pathlib.Path
        A name that nothing has.

    Raises
    ------
    Nothing.
    """
    try:
        os.rename(temporary, other)
    except OSError as error:
        return not is_refusal(error), temporary
    return True, other


def close_heard(fd: int, path: Path) -> None:
    """Have a file closed once, while its descriptor stays.

    Network filesystems, and those without fsync, tell of a failure only then.

    Raises
    ------
    WriteError
        If it fails.
    """
    try:
        os.close(os.dup(fd))
    except OSError as error:
        raise WriteError(error.errno or errno.EIO, "close", path) from error


def abandon(fd: int) -> None:
    """Keep what was written so far from becoming a file, where closing makes it one.

    A filesystem that takes bytes in their order only gives an upload up when it refuses a write.
    """
    with contextlib.suppress(OSError):
        os.pwrite(fd, b"\0", 2**40)
