"""Tensors spread over the files of a folder, in the layout that Hugging Face's loaders read.

The index decides what a folder holds: its shards get their names first, which no index names yet,
and the new index then takes the place of the old one in one step. Where there was no checkpoint,
the index comes first, and until all of its shards are there, nothing can be loaded. The new index
lies there under a temporary name before, and the old one does afterwards, so that a save that was
cut off can be cleaned up by the next one: what such an index names and the real one does not is
removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from fastio.errors import WriteError
from fastio.filesystem.durability import sync_folder
from fastio.filesystem.leftovers import leftovers, remove_leftovers
from fastio.filesystem.refusals import IN_PLACE
from fastio.in_place import InPlace
from fastio.replacement import Replacement, status_of_file
from fastio.saving.sources import Sources

_log = logging.getLogger("fastio")

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
"""What shards have their temporary names of."""
_SHARD = re.compile(r"model(-[0-9a-f]{8})?-[0-9]{5}-of-[0-9]{5}\.safetensors")


def partition(order: Sequence[str], sources: Sources, shard_bytes: int) -> list[Sources]:
    """Spread tensors over shards, in the order in which they were handed over.

    Parameters
    ----------
    order : sequence of str
        Their names, as they were handed over.
    sources : Sources
    shard_bytes : int
        What the tensors of one shard come to, at most; a larger tensor has a shard of its own.

    Raises
    ------
    Nothing.
    """
    row_of = {name: row for row, name in enumerate(sources.names)}
    shards: list[list[int]] = [[]]
    filled = 0
    for name in order:
        row = row_of[str(name)]
        nbytes = int(sources.nbytes[row])
        if shards[-1] and filled + nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(row)
        filled += nbytes
    return [sources.take(sorted(rows)) for rows in shards]


def make(folder: Path, *, durable: bool) -> None:
    """Make the folder, unless it is there.

    Raises
    ------
    WriteError
        If it cannot be made, or something else than a folder is there.
    """
    try:
        os.mkdir(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise WriteError(
                errno.ENOTDIR, "open", folder, detail="shard_bytes needs a folder to write to"
            ) from None
    except OSError as error:
        raise WriteError(error.errno or errno.EIO, "mkdir", folder) from error
    else:
        if durable:
            sync_folder(folder.parent, blamed=folder)


def provisional_paths(folder: Path, count: int) -> list[Path]:
    """Return what errors call shards that have no names yet."""
    return [folder / name for name in _names("", count)]


def predecessor(folder: Path) -> Path | None:
    """Return the file whose owner, mode and access list new shards take over; None if there is
    none.
    """
    try:
        there = set(os.listdir(folder))
    except OSError:
        return None
    shards = sorted(filter(_SHARD.fullmatch, there))
    return next((folder / name for name in (*shards, SINGLE) if name in there), None)


def clean_up(folder: Path) -> None:
    """Remove what saves into a folder that did not end left behind; what cannot be removed stays.

    Raises
    ------
    WriteError
        If the folder cannot be opened.
    """
    index = folder / INDEX
    # Locked: whoever gives names right now may give those that a crashed save never came to.
    with _locked(folder), leftovers(index) as found:
        remove_leftovers(folder / SINGLE)
        for leftover in found:
            if not _remove_shards(folder, _shards_named_by(leftover) - _shards_named_by(index)):
                continue
            with contextlib.suppress(OSError):
                os.unlink(leftover)
                _log.info("removed %s and its shards: a save that did not end left them", leftover)


def commit(
    folder: Path,
    shards: Sequence[Sources],
    replacements: Sequence[Replacement],
    *,
    durable: bool,
) -> list[str]:
    """Let shards that are whole take their names, and then their index the place of the old one.

    Returns
    -------
    list of str
        What could not be had from the filesystem.

    Raises
    ------
    WriteError
        If that fails: what the folder held before, it still holds, unless the error is of the last
        fsync of the folder.
    """
    path = folder / INDEX
    with _locked(folder), contextlib.ExitStack() as indexes:
        names = _free_names(folder, len(shards))
        for replacement, name in zip(replacements, names, strict=True):
            replacement.path = folder / name
        new = indexes.enter_context(_index(path, _index_text(names, shards), durable=durable))
        new.link()
        old, moved_aside = _shards_named_by(path), new
        # Of a folder without either, loaders take every shard that is there: some of these, so far.
        # An index that names what is still missing is refused.
        index_first = not any(os.path.lexists(folder / name) for name in (INDEX, SINGLE))
        try:
            if index_first:
                new.rename()
            if durable:  # the shards' names do not reach the disk before the one that lists them
                new.sync_name()
            for replacement in replacements:
                replacement.link()
                replacement.rename()
            if durable:
                new.sync_name()
            if not index_first:
                if not new.exchange():
                    if old:
                        text = path.read_bytes()
                        moved_aside = indexes.enter_context(_index(path, text, durable=durable))
                        moved_aside.link()
                    new.rename()
                if durable:
                    new.sync_name()
        except BaseException:
            _step_back(folder, names, moved_aside)
            raise
        # transformers looks for the one file before it looks for an index.
        if not _remove_shards(folder, (old | {SINGLE}) - set(names)):
            moved_aside.leave()  # the next save tries again
        return new.shortfalls


def begin_with_names(
    folder: Path,
    shards: Sequence[Sources],
    replacements: Sequence[Replacement],
    *,
    in_place: bool,
) -> Replacement | None:
    """Choose the names of shards ahead, and write the index that lists them if there is none.

    A folder without a checkpoint gets its index first here, too. It keeps loaders from taking
    some of the shards for all of them.

    Parameters
    ----------
    folder : pathlib.Path
    shards, replacements
        As `commit` takes them.
    in_place : bool
        An index that is there may be written into.

    Returns
    -------
    Replacement or None
        The index, to be committed or discarded; None where there is one that is written into.

    Raises
    ------
    WriteError
        If there is an index, and it may not be written into.
    """
    path = folder / INDEX
    with _locked(folder):
        names = _free_names(folder, len(shards))
        for replacement, name in zip(replacements, names, strict=True):
            replacement.path = folder / name
        if os.path.lexists(path):
            if in_place:
                return None
            detail = f"the filesystem cannot rename, so its index stays as it is; {IN_PLACE}"
            raise WriteError(errno.ENOSYS, "rename", path, detail=detail)
        return _written(Replacement(path, 0o666), _index_text(names, shards), durable=True)


def commit_with_names(
    folder: Path,
    shards: Sequence[Sources],
    replacements: Sequence[Replacement],
    index: Replacement | None,
    *,
    durable: bool,
) -> list[str]:
    """Let shards whose names are chosen be a checkpoint.

    Parameters
    ----------
    folder, shards, replacements
        As `commit` takes them.
    index : Replacement or None
        What `begin_with_names` returned.
    durable : bool

    Returns
    -------
    list of str
        What could not be had from the filesystem.

    Raises
    ------
    WriteError
        If the old index could not be written into, which may have lost it; or if the error is of
        the last fsync of the folder.
    """
    path = folder / INDEX
    names = [replacement.path.name for replacement in replacements]
    old = _shards_named_by(path)
    for replacement in replacements:
        replacement.link()
        replacement.rename()
    if durable:
        replacements[0].sync_name()
    if index is None:
        index = _written(InPlace(path), _index_text(names, shards), durable=durable)
        index.rename()
        index.discard()
    else:
        index.rename()
        if durable:
            index.sync_name()
    _remove_shards(folder, (old | {SINGLE}) - set(names))
    return index.shortfalls


def _written(file: Replacement, text: bytes, *, durable: bool) -> Replacement:
    try:
        file.reserve(len(text))
        file.begin()
        file.file.write(0, text)
        file.settle(durable=durable)
    except BaseException:
        file.discard()
        raise
    return file


def _step_back(folder: Path, names: Sequence[str], moved_aside: Replacement) -> None:
    """After a failure or an interrupt: have either the new shards with their index, or neither."""
    index = folder / INDEX
    in_place = _shards_named_by(index) >= set(names)
    if in_place and all(os.path.lexists(folder / name) for name in names):
        # It may still be the old index that a power cut leaves: its shards go with the next save.
        moved_aside.leave()
        return
    if in_place:
        _remove_shards(folder, {INDEX})
    _remove_shards(folder, set(names) - _shards_named_by(index))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one process at a time gives names in a folder; where locks cannot be had, all do."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise WriteError(error.errno or errno.EIO, "open", folder) from error
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _free_names(folder: Path, count: int) -> list[str]:
    there = {*os.listdir(folder), *_shards_named_by(folder / INDEX)}
    # Names do not come again while there is a checkpoint: who has just read the index of an earlier
    # one is to find its shards gone, and not others.
    mark = "" if INDEX not in there else f"-{os.urandom(4).hex()}"
    while True:
        names = _names(mark, count)
        if there.isdisjoint(names):
            return names
        mark = f"-{os.urandom(4).hex()}"


def _names(mark: str, count: int) -> list[str]:
    return [f"model{mark}-{at:05d}-of-{count:05d}.safetensors" for at in range(1, count + 1)]


def _index_text(names: Sequence[str], shards: Sequence[Sources]) -> bytes:
    weight_map = {
        tensor: file for file, shard in zip(names, shards, strict=True) for tensor in shard.names
    }
    index = {
        "metadata": {"total_size": sum(shard.data_bytes for shard in shards)},
        "weight_map": dict(sorted(weight_map.items())),
    }
    return msgspec.json.format(msgspec.json.encode(index), indent=2) + b"\n"


@contextlib.contextmanager
def _index(path: Path, text: bytes, *, durable: bool) -> Iterator[Replacement]:
    status = status_of_file(path)
    new = Replacement(path, 0o666 if status is None else 0o600)
    try:
        new.file.write(0, text)
        if status is not None:
            new.imitate(status)
        new.settle(durable=durable)
        yield new
    finally:
        new.discard()


def _shards_named_by(index: Path) -> set[str]:
    """The files that an index names, of those that are called as shards are; none where it is not
    to be read.
    """
    try:
        with open(index, "rb") as file:
            files = set(msgspec.json.decode(file.read())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()
    return {name for name in files if isinstance(name, str) and _SHARD.fullmatch(name)}


def _remove_shards(folder: Path, names: set[str]) -> bool:
    """Whether all of them are gone."""
    gone = True
    for name in sorted(names):
        try:
            os.unlink(folder / name)
        except FileNotFoundError:
            pass
        except OSError:
            gone = False
    return gone
