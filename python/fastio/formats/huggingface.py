"""What people hand to a loader: a file, several files, a Hugging Face folder, or its index."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from fastio import _native, collector
from fastio.catalog import Catalog, Shard
from fastio.descriptors import make_room
from fastio.errors import FormatError
from fastio.formats import safetensors, strict_json
from fastio.shown import shown

_INDEX_SUFFIX = ".safetensors.index.json"
_FILE_SUFFIX = ".safetensors"
# An entry takes about a hundred bytes; the largest public index has some hundred thousand.
_INDEX_BYTES_MAX = 2**28
# How often a folder may get another checkpoint while its files are opened.
_REPLACED_MAX = 100


def locate(
    source: str | os.PathLike[str] | list[Any] | tuple[Any, ...],
    names: Collection[str] | None = None,
) -> Catalog:
    """Say which tensors a source has, and where they lie.

    Parameters
    ----------
    source : path, or list or tuple of paths
        A ``.safetensors`` file; several; a folder, of which ``model.safetensors.index.json`` is
        taken, else its only ``*.safetensors.index.json``, else ``model.safetensors``, else every
        ``*.safetensors`` in it; or such an index. Of the files that an index names, only the
        tensors are offered that it names.
    names : collection of str, optional
        What will be asked for: an index is then followed only to the files that have these, if it
        knows them all.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If the source is not there, or a file that an index names; if one of several is a folder.
    FormatError
        If a file or an index is not valid, a folder has no safetensors files or several indexes, an
        index names a file outside its folder or a tensor that its file has not, or two files have a
        tensor of the same name.
    ReadError
        If reading fails.
    TypeError, ValueError
        If the source is none of the above; an empty list.
    """
    with collector.Paused():
        if isinstance(source, (list, tuple)):
            if not source:
                raise ValueError("source is empty: expected at least one file")
            paths = [_path(item) for item in source]
            more = f" and {len(paths) - 1} more files" if len(paths) > 1 else ""
            _make_room(len(paths), paths[0])
            return Catalog(map(_shard, paths), paths[0] + more)
        path = _path(source)
        if path.endswith(_INDEX_SUFFIX):
            return Catalog(_shards_of_index(Path(path), names), path)
        try:
            return Catalog([_shard(path)], path)
        except IsADirectoryError:
            return Catalog(_shards_of_folder(Path(path), names), path)


def _path(item: Any) -> str:
    if isinstance(item, (str, os.PathLike)):
        return os.fsdecode(item)
    raise TypeError(
        f"source must be a path or a list of paths, not {type(item).__name__}: {shown(item)}"
    )


def _make_room(files: int, source: str | Path) -> None:
    """For files that stay open, each with one descriptor for O_DIRECT and one without."""
    if files > 1:
        make_room(2 * files, str(source))


def _shard(path: str | Path) -> Shard:
    return safetensors.locate(_native.File(path), keep_unsound=True)


def _shards_of_folder(folder: Path, names: Collection[str] | None) -> list[Shard]:
    with os.scandir(folder) as entries:  # a broken link is no folder: it is met below, by its name
        there = sorted(e.name for e in entries if not (e.name.startswith(".") or e.is_dir()))
    indexes = [name for name in there if name.endswith(_INDEX_SUFFIX)]
    files = [name for name in there if name.endswith(_FILE_SUFFIX)]
    first_index, first_file = "model" + _INDEX_SUFFIX, "model" + _FILE_SUFFIX
    if first_index in indexes or len(indexes) == 1:
        index = first_index if first_index in indexes else indexes[0]
        return _shards_of_index(folder / index, names)
    if indexes:
        raise FormatError(
            str(folder),
            f"has {len(indexes)} indexes: {', '.join(indexes)}",
            expected=f"one, or one called {first_index}; or pass the path of one of them",
        )
    if not files:
        raise FormatError(
            str(folder),
            "has no safetensors files",
            expected=f"{first_index}, {first_file} or other *{_FILE_SUFFIX} files",
        )
    files = [first_file] if first_file in files else files
    _make_room(len(files), folder)
    return [_shard(folder / name) for name in files]


def _shards_of_index(index: Path, names: Collection[str] | None) -> list[Shard]:
    """The files that an index names, all of them of the checkpoint that it is of: one that is saved
    meanwhile takes the place of the index, and then the old files go.
    """
    for _ in range(_REPLACED_MAX):
        before = _identity(index)
        try:
            shards = _shards_listed(index, _read_weight_map(index), names)
        except (FileNotFoundError, FormatError):
            if _identity(index) == before:
                raise
        else:
            if _identity(index) == before:
                return shards
    raise FormatError(
        str(index),
        f"was replaced {_REPLACED_MAX} times while its files were opened",
        expected="a folder that is not saved to all the time",
    )


def _identity(index: Path) -> tuple[int, int, int]:
    status = os.stat(index)
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _shards_listed(
    index: Path, weight_map: dict[str, str], names: Collection[str] | None
) -> list[Shard]:
    of_files: dict[str, set[str]] = {}
    for name, file_name in weight_map.items():
        of_files.setdefault(file_name, set()).add(name)
    if names is not None and all(weight_map.get(name) is not None for name in names):
        of_files = {weight_map[name]: of_files[weight_map[name]] for name in names}
    _make_room(len(of_files), index)
    shards = []
    for file_name, listed in sorted(of_files.items()):
        try:
            shard = _shard(index.parent / file_name)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                errno.ENOENT, f"{os.strerror(errno.ENOENT)}, and {index} names it", error.filename
            ) from None
        rows = [row for row, name in enumerate(shard.names) if name in listed]
        if len(rows) < len(listed):
            missing = min(listed.difference(shard.names))
            raise FormatError(
                shard.path,
                f"has no tensor {shown(missing)}",
                expected=f"the {len(listed)} tensors for which {index} names this file",
            )
        shards.append(shard if len(rows) == len(shard.names) else shard.take(rows))
    return shards


def _read_weight_map(index: Path) -> dict[str, str]:
    """Which file has which tensor; every file is inside the index's folder."""
    file = _native.File(index)
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
    for name, file_name in weight_map.items():
        if not isinstance(file_name, str) or not _stays_inside(file_name):
            raise FormatError(
                file.path,
                f"names the file {shown(file_name)} for tensor {shown(name)}",
                offset=strict_json.position(text, str(file_name)),
                expected="a file in the index's folder",
            )
    return weight_map


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
