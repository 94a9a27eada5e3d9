"""Paths as people type them: ``~``, ``file://``, bytes; one of them, or several in any collection.

A name that is there as it was typed is taken as it is, also one that begins with ``~``.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from fastio.arguments.missing import advice_to_read, advice_to_write
from fastio.display.values import shown
from fastio.errors import WriteError

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Source = AnyPath | Iterable[AnyPath]

# RFC 8089, appendix A: file:///path, file://localhost/path, file:/path. pathlib.Path makes the last
# one of the first.
_FILE_URI = re.compile(r"file:(?://(?:localhost)?(?=/)|(?!//))(/.*)", re.IGNORECASE | re.DOTALL)
_PERHAPS_NO_FILE = re.compile(r"[:$~\\]")


def path_of(given: object, what: str = "source") -> str:
    """Return one path: as it was typed where that is there, else with ``~`` and ``file:`` resolved.

    Parameters
    ----------
    given : str, bytes or os.PathLike
    what : str
        The argument, for messages.

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If it has a null byte, which no path has.
    """
    if not isinstance(given, (str, bytes, os.PathLike)):
        raise TypeError(f"{what} must be a path, not {type(given).__name__}: {shown(given)}")
    path = given if type(given) is str else os.fsdecode(given)
    if path.startswith(("~", "f", "F")):
        path = _resolved(path)
    if "\0" in path:
        raise ValueError(
            f"{what} has a null byte, which no path has: {shown(path)}. The bytes of a file are "
            "loaded by fastio.deserialize, fastio.numpy.load and fastio.torch.load"
        )
    return path


def _resolved(path: str) -> str:
    uri = _FILE_URI.fullmatch(path)
    if uri is None and not path.startswith("~"):
        return path
    if "\0" in path or os.path.lexists(path):
        return path
    if uri is None:
        return os.path.expanduser(path)
    return os.fsdecode(unquote_to_bytes(uri[1]))


def paths_of(source: Any) -> str | list[str]:
    """Return a path where `source` is one, else the paths of what it yields: those of a set sorted,
    others in their order.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or has nothing in it.
    """
    if not isinstance(source, (list, tuple)):
        if isinstance(source, (str, bytes, os.PathLike)):
            return path_of(source)
        _check_iterable(source)
    found = [path_of(each, "each source") for each in source]
    if not found:
        raise ValueError("source is empty: expected at least one file")
    return sorted(found) if isinstance(source, (set, frozenset)) else found


def _check_iterable(source: object) -> None:
    if hasattr(source, "read"):
        raise TypeError(
            f"source must be a path, not an open file ({type(source).__name__}): pass its name, or "
            "what it holds to fastio.deserialize"
        )
    if isinstance(source, (Mapping, bytearray, memoryview)) or not isinstance(source, Iterable):
        raise TypeError(
            f"source must be a path or a collection of paths, not {type(source).__name__}: "
            f"{shown(source)}"
        )


def path_to_write(given: object, what: str = "path") -> Path:
    """Return where something is to be written.

    Raises
    ------
    TypeError, ValueError
        As `path_of` does.
    WriteError
        If it is empty, or no file can be meant by it: an address (``s3://…``), a variable that the
        shell did not expand.
    """
    path = path_of(given, what)
    advice = "" if path and not _PERHAPS_NO_FILE.search(path) else advice_to_write(path)
    if advice:
        raise WriteError(errno.ENOENT, "open", path, detail=advice)
    return Path(path)


def not_found(path: str, problem: str = os.strerror(errno.ENOENT)) -> FileNotFoundError:
    """Return the error of a path that is not there, with advice.

    Raises
    ------
    Nothing.
    """
    advice = advice_to_read(path)
    return FileNotFoundError(errno.ENOENT, f"{problem}; {advice}" if advice else problem, path)
