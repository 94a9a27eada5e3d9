"""A file is opened to be located; the error for a missing one says which was perhaps meant."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import fastio._native as _native
from fastio.arguments.missing import advice_to_read
from fastio.arguments.paths import not_found
from fastio.errors import ReadError


def open_file(path: str | Path, *, typed: str | None = None) -> _native.File:
    """Open a file for reading.

    Parameters
    ----------
    path : str or pathlib.Path
    typed : str, optional
        What the caller gave for it, for advice; default: `path`.

    Raises
    ------
    FileNotFoundError
        With what was perhaps meant, and what to do.
    IsADirectoryError, ReadError
    """
    try:
        return _native.File(path)
    except FileNotFoundError:
        raise not_found(typed or os.fspath(path)) from None
    except NotADirectoryError:
        advice = advice_to_read(typed or os.fspath(path)) or None
        raise ReadError(errno.ENOTDIR, "open", path, detail=advice) from None
