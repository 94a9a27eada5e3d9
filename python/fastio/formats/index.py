"""An index of shards: JSON whose ``weight_map`` says which file beside it has which tensor."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

import fastio._native as _native
from fastio.catalog import Catalog, Shard
from fastio.catalog.absent import AbsentTensors
from fastio.display.values import shown
from fastio.errors import FormatError, ReadError
from fastio.formats import known, strict_json
from fastio.formats.opening import open_file
from fastio.host.descriptors import make_room_for_files

# An entry takes about a hundred bytes; the largest public index has some hundred thousand.
_INDEX_BYTES_MAX = 2**28
# How often a folder may get another checkpoint while its files are opened.
_REPLACED_MAX = 100
_SNIFFED_BYTES = 2**12


def is_index(path: str) -> bool:
    """Whether a file is an index, whatever its name: a JSON text that has a ``weight_map``.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ReadError
    """
    file = _native.File(path)
    if file.nbytes > _INDEX_BYTES_MAX:
        return False
    return known.is_json(file.read(0, min(file.nbytes, _SNIFFED_BYTES))) and (
        b'"weight_map"' in file.read(0, file.nbytes)
    )


def locate(index: Path, names: Collection[str] | None, source: str) -> Catalog:
    """Say which tensors the files of an index have, of those that it names.

    All files are of the checkpoint that the index is of: one that is saved meanwhile takes the
    place of the index, and then the old files go.

    Parameters
    ----------
    index : pathlib.Path
    names : collection of str or None
        What will be asked for: only the files that have these are opened, if the index knows them
        all.
    source : str
        What was asked for, as messages call it.

    Raises
    ------
    FileNotFoundError
        If the index is not there, or a file that it names.
    FormatError
        If it is not valid, names a file outside its folder, or two files have a tensor of the same
        name.
    ReadError
        If reading fails.
    """
    for _ in range(_REPLACED_MAX):
        before = identity(index)
        try:
            catalog = _located(index, _read_weight_map(index), names, source)
        except (FileNotFoundError, FormatError):
            if identity(index) == before:
                raise
        else:
            if identity(index) == before:
                return catalog
    raise FormatError(
        str(index),
        f"was replaced {_REPLACED_MAX} times while its files were opened",
        expected="a folder that is not saved to all the time",
    )


def listed(index: Path) -> dict[str, set[str]]:
    """Return the files that an index names, each with the tensors that it lists for it.

    Raises
    ------
    FileNotFoundError, FormatError, ReadError
        As `locate` does of the index itself.
    """
    return _by_file(_read_weight_map(index))


def _by_file(weight_map: dict[str, str]) -> dict[str, set[str]]:
    of_files: dict[str, set[str]] = {}
    for name, file_name in weight_map.items():
        of_files.setdefault(file_name, set()).add(name)
    return of_files


def identity(index: Path) -> tuple[int, int, int] | None:
    """Disk, inode and time of change of an index; None for a missing one, which opening names."""
    try:
        status = os.stat(index)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReadError(error.errno or errno.EIO, "stat", index) from error
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _located(
    index: Path, weight_map: dict[str, str], names: Collection[str] | None, source: str
) -> Catalog:
    of_files = _by_file(weight_map)
    if names is not None and all(weight_map.get(name) is not None for name in names):
        of_files = {weight_map[name]: of_files[weight_map[name]] for name in names}
    make_room_for_files(len(of_files), source)
    shards, absent = [], {}
    for file_name, listed in sorted(of_files.items()):
        shard = _shard(index, file_name)
        rows = [row for row, name in enumerate(shard.names) if name in listed]
        if len(rows) < len(listed):
            absent.update(dict.fromkeys(sorted(listed.difference(shard.names)), shard.path))
        shards.append(shard if len(rows) == len(shard.names) else shard.take(rows))
    return Catalog(shards, source, absent=AbsentTensors(str(index), absent))


def _shard(index: Path, file_name: str) -> Shard:
    try:
        return known.locate(_native.File(index.parent / file_name))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            errno.ENOENT,
            f"{os.strerror(errno.ENOENT)}, and {index} names it; names=[…] loads tensors of the "
            "files that are there",
            error.filename,
        ) from None


def _read_weight_map(index: Path) -> dict[str, str]:
    """Which file has which tensor; every file is inside the index's folder."""
    file = open_file(index)
    if file.nbytes > _INDEX_BYTES_MAX:
        raise FormatError(
            file.path,
            f"is {file.nbytes} bytes long",
            expected=f"an index of at most {_INDEX_BYTES_MAX}",
        )
    text = file.read(0, file.nbytes)
    decoded = strict_json.decode(text, file.path)
    weight_map = decoded.get("weight_map") if isinstance(decoded, dict) else None
    if not isinstance(weight_map, dict) or not (weight_map or _is_of_nothing(decoded)):
        raise FormatError(
            file.path,
            f"has the weight_map {shown(weight_map)}",
            offset=strict_json.position(text, "weight_map"),
            expected="an object: the file of each tensor",
        )
    for file_name in _distinct(weight_map):
        if not isinstance(file_name, str) or not _stays_inside(file_name):
            name = next(name for name, of_name in weight_map.items() if of_name is file_name)
            raise FormatError(
                file.path,
                f"names the file {shown(file_name)} for tensor {shown(name)}",
                offset=strict_json.position(text, str(file_name)),
                expected="a file in the index's folder",
            )
    return weight_map


def _distinct(weight_map: dict[str, Any]) -> list[Any]:
    """The files that an index names, each once; it may have millions of tensors in some files."""
    try:
        return list(dict.fromkeys(weight_map.values()))
    except TypeError:  # a list or an object in the place of a name
        return list(weight_map.values())


def _is_of_nothing(index: dict[str, Any]) -> bool:
    """Whether an index says itself that there is no tensor, as one of no tensors does."""
    metadata = index.get("metadata")
    return isinstance(metadata, dict) and metadata.get("total_size") == 0


def _stays_inside(file_name: str) -> bool:
    path = PurePosixPath(file_name)
    return (
        bool(path.name)
        and not path.is_absolute()
        and ".." not in path.parts
        and "\0" not in file_name
    )
