"""Sources that loaders get: a file, several files, a Hugging Face folder, or its index."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection
from pathlib import Path

from fastio.arguments.paths import Source, paths_of
from fastio.catalog import Catalog, Shard
from fastio.display.values import shown
from fastio.errors import FormatError, ReadError
from fastio.formats import index, known
from fastio.formats.opening import open_file
from fastio.host import collector
from fastio.host.descriptors import make_room_for_files
from fastio.host.shortage import memory_named

_INDEX_SUFFIX = ".safetensors.index.json"
_FILE_SUFFIX = ".safetensors"
# transformers and diffusers put the variant of a checkpoint before the last ending of its files.
_INDEX_OF_VARIANT = re.compile(r".*\.safetensors\.index\.([^.]+)\.json", re.DOTALL)
_TORCH_FILE = "pytorch_model.bin"
_TORCH_INDEX = "pytorch_model.bin.index.json"
_SHOWN_MAX = 8


def locate(source: Source, names: Collection[str] | None = None) -> Catalog:
    """Say which tensors a source has, and where they lie.

    Parameters
    ----------
    source : path, or collection of paths
        A file of a format that `fastio.formats.known` loads; several, in the order given, those of
        a set sorted; a folder; or an index, which is any JSON file that has a ``weight_map``. Of a
        folder ``model.safetensors.index.json`` is taken, else its only
        ``*.safetensors.index.json``, else ``model.safetensors``, else its only index of a variant
        (``*.safetensors.index.fp16.json``), else every ``*.safetensors`` in it, else
        ``pytorch_model.bin.index.json`` or ``pytorch_model.bin``. Of the files that an index names,
        only the tensors are offered that it names.
    names : collection of str, optional
        What will be asked for: an index is then followed only to the files that have these, if it
        knows them all.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If the source is not there, or a file that an index names; if one of several is a folder.
    FormatError
        If a file or an index is not valid, a folder has no safetensors files or several indexes, an
        index names a file outside its folder, or two files have a tensor of the same name.
    ReadError
        If reading fails.
    TypeError, ValueError
        If the source is none of the above; an empty collection.
    """
    paths = paths_of(source)
    subject = paths if isinstance(paths, str) else paths[0]
    with memory_named(subject, lambda: "what its headers say"), collector.CollectorPaused():
        if isinstance(paths, list):
            more = f" and {len(paths) - 1} more files" if len(paths) > 1 else ""
            make_room_for_files(len(paths), paths[0])
            return Catalog(map(_file_of_several, paths), paths[0] + more)
        if paths.endswith(_INDEX_SUFFIX):
            return index.locate(Path(paths), names, paths)
        try:
            return Catalog([_shard(paths)], paths)
        except IsADirectoryError:
            return _folder(Path(paths), names, paths)
        except FormatError:
            if not index.is_index(paths):
                raise
            return index.locate(Path(paths), names, paths)


def files_of(paths: str | list[str]) -> tuple[dict[str, set[str]], Path | None]:
    """Return the files of a source, each with the tensors that an index lists for it, and the
    index.

    Parameters
    ----------
    paths : str or list of str
        What `locate` takes. Whether the files are there, and valid, is not looked at.

    Raises
    ------
    FileNotFoundError, FormatError, ReadError
        As `locate` does of a folder or an index.
    """
    if isinstance(paths, list):
        return {path: set() for path in paths}, None
    found: Path | None = Path(paths)
    files = [Path(paths)]
    if os.path.isdir(paths):
        found, files = _chosen(Path(paths))
    elif not paths.endswith(_INDEX_SUFFIX) and not _is_index(paths):
        found = None
    if found is None:
        return {str(file): set() for file in files}, None
    of_files = index.listed(found)
    return {str(found.parent / name): of_files[name] for name in sorted(of_files)}, found


def _is_index(path: str) -> bool:
    """Whether a file is an index; what cannot be read is taken for a file with tensors."""
    try:
        return index.is_index(path)
    except (FileNotFoundError, ReadError):
        return False


def _shard(path: str | Path) -> Shard:
    return known.locate(open_file(path))


def _file_of_several(path: str) -> Shard:
    try:
        return _shard(path)
    except IsADirectoryError as error:
        raise IsADirectoryError(
            errno.EISDIR,
            f"{os.strerror(errno.EISDIR)}, where a file is expected; fastio.load and fastio.open "
            "take a folder by its path alone",
            error.filename,
        ) from None


def _folder(folder: Path, names: Collection[str] | None, source: str) -> Catalog:
    found, files = _chosen(folder)
    if found is not None:
        return index.locate(found, names, source)
    make_room_for_files(len(files), source)
    return Catalog([_shard(file) for file in files], source)


def _chosen(folder: Path) -> tuple[Path | None, list[Path]]:
    """The index of a folder that is taken; or without one its files."""
    there = _files_in(folder)
    indexes = [name for name in there if name.endswith(_INDEX_SUFFIX)]
    files = [name for name in there if name.endswith(_FILE_SUFFIX)]
    first_index, first_file = "model" + _INDEX_SUFFIX, "model" + _FILE_SUFFIX
    if first_index in indexes:
        indexes = [first_index]
    elif not indexes and first_file in files:
        return None, [folder / first_file]
    elif not indexes:
        indexes = _indexes_of_variants(folder, there, files)
    if len(indexes) > 1:
        raise FormatError(
            str(folder),
            f"has {len(indexes)} indexes: {_some(indexes)}",
            expected=f"one, or one called {first_index}; or pass the path of one of them",
        )
    if indexes:
        return folder / indexes[0], []
    if not files:
        # As transformers does: what torch.save wrote comes after every safetensors file.
        if _TORCH_INDEX in there:
            return folder / _TORCH_INDEX, []
        if _TORCH_FILE in there:
            return None, [folder / _TORCH_FILE]
        raise _no_files(folder, there)
    return None, [folder / name for name in files]


def _files_in(folder: Path) -> list[str]:
    try:
        # A broken link is no folder: it is met later, by its name.
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not (e.name.startswith(".") or e.is_dir()))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ReadError(error.errno or errno.EIO, "scandir", folder) from error


def _indexes_of_variants(folder: Path, there: list[str], files: list[str]) -> list[str]:
    """The indexes of variants in a folder that has no other, nor ``model.safetensors``."""
    variants = {
        name: found[1] for name in there if (found := _INDEX_OF_VARIANT.fullmatch(name)) is not None
    }
    # As in model-00001-of-00002.fp16.safetensors, or model.fp16-00001-of-00002.safetensors.
    marks = [f".{variant}{end}" for variant in variants.values() for end in ".-"]
    others = [name for name in files if not any(mark in name for mark in marks)]
    if len(variants) == 1 and others:
        raise FormatError(
            str(folder),
            f"has the index {next(iter(variants))}, and files of another variant: {_some(others)}",
            expected="files of one variant; or pass the path of the index, or of a file",
        )
    return list(variants)


def _no_files(folder: Path, there: list[str]) -> FormatError:
    """The error of a folder without safetensors files, with what it has in their place."""
    expected = f"model{_INDEX_SUFFIX}, model{_FILE_SUFFIX} or other *{_FILE_SUFFIX} files"
    problem = "has no safetensors files"
    found = known.known_endings(there)
    if found:
        kinds = "; ".join(f"{kind}: {_some(names)}" for kind, names in found.items())
        problem += f", but others, going by their names: {kinds}"
        expected += "; or pass the path of one of the others, if fastio loads its format"
    below = _folders_with_files(folder)
    if below:
        expected = f"a folder that has; these below it do: {_some(below)}"
    return FormatError(str(folder), problem, expected=expected)


def _folders_with_files(folder: Path) -> list[str]:
    """Folders below one that have safetensors files: parts of a pipeline, snapshots of a cache."""
    found = []
    for pattern in ("*", "snapshots/*"):
        for below in sorted(folder.glob(pattern)):
            if any(below.glob("*" + _FILE_SUFFIX)):
                found.append(str(below.relative_to(folder)))
    return found


def _some(names: list[str]) -> str:
    listed = ", ".join(name if name.isprintable() else shown(name) for name in names[:_SHOWN_MAX])
    more = len(names) - _SHOWN_MAX
    return f"{listed} and {more} more" if more > 0 else listed
