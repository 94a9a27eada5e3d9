"""Tensors spread over the files of a folder, in the layout that Hugging Face's loaders read.

The index decides what a folder holds. New shards get names that no index has yet. The new index
then replaces the old one in one step. In a folder without a checkpoint, the index comes first; it
cannot be loaded until all of its shards are there.

The new index has a temporary name before that step, and the old index afterwards. So the next save
can clean up after a killed one: it removes the shards that only a temporary index names.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

import fastio._native as _native
from fastio.errors import WriteError
from fastio.host.in_place import InPlace
from fastio.host.leftovers import leftovers, remove_leftovers
from fastio.host.refusals import IN_PLACE
from fastio.host.replacement import Replacement
from fastio.saving.folder_lock import locked
from fastio.saving.origins import Origins

_log = logging.getLogger("fastio")

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
"""What shards have their temporary names of."""
_SHARD = re.compile(r"model(-[0-9a-f]{8})?-[0-9]{5}-of-[0-9]{5}\.safetensors")


def partition(order: Sequence[str], origins: Origins, shard_bytes: int) -> list[Origins]:
    """Spread tensors over shards, in the order in which they were handed over.

    Parameters
    ----------
    order : sequence of str
        Their names, as they were handed over.
    origins : Origins
    shard_bytes : int
        What the tensors of one shard come to, at most; a larger tensor has a shard of its own.

    Raises
    ------
    Nothing.
    """
    row_of = {name: row for row, name in enumerate(origins.names)}
    shards: list[list[int]] = [[]]
    filled = 0
    for name in order:
        row = row_of[str(name)]
        nbytes = int(origins.nbytes[row])
        if shards[-1] and filled + nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(row)
        filled += nbytes
    return [origins.take(sorted(rows)) for rows in shards]


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
    with locked(folder), leftovers(index) as found:
        remove_leftovers(folder / SINGLE)
        for leftover in found:
            if not _remove_shards(folder, _shards_named_by(leftover) - _shards_named_by(index)):
                continue
            with contextlib.suppress(OSError):
                os.unlink(leftover)
                _log.info("removed %s and its shards: a save that did not end left them", leftover)


def new_index(folder: Path) -> Replacement:
    """Open the file that will be the index of a folder; nothing is in it yet.

    Raises
    ------
    WriteError
        If it cannot be made.
    """
    return Replacement.heir(folder / INDEX)


def commit(
    new: Replacement,
    shards: Sequence[Origins],
    replacements: Sequence[Replacement],
    *,
    durable: bool,
) -> list[str]:
    """Let shards that are whole take their names, and then their index the place of the old one.

    Parameters
    ----------
    new : Replacement
        What `new_index` returned; it is discarded here, whatever happens.
    shards : sequence of Origins
    replacements : sequence of Replacement
        A file for each shard.
    durable : bool

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
    path, folder = new.path, new.path.parent
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(folder))
        finally:
            held.callback(new.close)
        names = _free_names(folder, len(shards))
        for replacement, name in zip(replacements, names, strict=True):
            replacement.path = folder / name
        _fill(new, _index_text(names, shards), durable=durable)
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
                        moved_aside = new_index(folder)
                        held.callback(moved_aside.close)
                        _fill(moved_aside, text, durable=durable)
                        moved_aside.link()
                    new.rename()
                if durable:
                    new.sync_name()
        except BaseException:
            _step_back(folder, names, moved_aside)
            raise
        # transformers looks for the one file before it looks for an index.
        if not _remove_shards(folder, (old | {SINGLE}) - set(names)):
            moved_aside.keep_as_leftover()  # the next save tries again
        return new.shortfalls


def begin_with_names(
    new: Replacement,
    shards: Sequence[Origins],
    replacements: Sequence[Replacement],
    *,
    in_place: bool,
) -> bool:
    """Choose the names of shards ahead, and write the index that lists them if there is none.

    A folder without a checkpoint gets its index first here, too. It keeps loaders from taking
    some of the shards for all of them.

    Parameters
    ----------
    new, shards, replacements
        As `commit` takes them; `new` is not discarded.
    in_place : bool
        An index that is there may be written into.

    Returns
    -------
    bool
        Whether `new` is the index; else there is one, which is to be written into.

    Raises
    ------
    WriteError
        If there is an index, and it may not be written into.
    """
    path, folder = new.path, new.path.parent
    with locked(folder):
        names = _free_names(folder, len(shards))
        for replacement, name in zip(replacements, names, strict=True):
            replacement.path = folder / name
        if os.path.lexists(path):
            if in_place:
                return False
            detail = f"the filesystem cannot rename, so its index stays as it is; {IN_PLACE}"
            raise WriteError(errno.ENOSYS, "rename", path, detail=detail)
        _write_whole(new, _index_text(names, shards), durable=True)
        return True


def commit_with_names(
    folder: Path,
    index: Replacement | None,
    shards: Sequence[Origins],
    replacements: Sequence[Replacement],
    *,
    durable: bool,
) -> list[str]:
    """Let shards whose names are chosen be a checkpoint.

    Parameters
    ----------
    folder : pathlib.Path
    index : Replacement or None
        The one that `begin_with_names` wrote; None where there is one to be written into.
    shards, replacements
        As `commit` takes them.
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
        index = InPlace(path)
        try:
            _write_whole(index, _index_text(names, shards), durable=durable)
            index.rename()
        finally:
            index.close()
    else:
        index.rename()
        if durable:
            index.sync_name()
    _remove_shards(folder, (old | {SINGLE}) - set(names))
    return index.shortfalls


def _write_whole(index: Replacement, text: bytes, *, durable: bool) -> None:
    index.reserve(len(text))
    index.begin()
    index.file.write(0, text)
    index.settle(durable=durable)


def _step_back(folder: Path, names: Sequence[str], moved_aside: Replacement) -> None:
    """After a failure or an interrupt: have either the new shards with their index, or neither."""
    index = folder / INDEX
    in_place = _shards_named_by(index) >= set(names)
    if in_place and all(os.path.lexists(folder / name) for name in names):
        # It may still be the old index that a power cut leaves: its shards go with the next save.
        moved_aside.keep_as_leftover()
        return
    if in_place:
        _remove_shards(folder, {INDEX})
    _remove_shards(folder, set(names) - _shards_named_by(index))


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


def _index_text(names: Sequence[str], shards: Sequence[Origins]) -> bytes:
    weight_map = {
        tensor: file for file, shard in zip(names, shards, strict=True) for tensor in shard.names
    }
    index = {
        "metadata": {"total_size": sum(shard.data_bytes for shard in shards)},
        "weight_map": dict(sorted(weight_map.items())),
    }
    return msgspec.json.format(msgspec.json.encode(index), indent=2) + b"\n"


def _fill(index: Replacement, text: bytes, *, durable: bool) -> None:
    """Write an index that is as the one before it may be used."""
    index.file.write(0, text)
    index.inherit()
    index.settle(durable=durable)


def _shards_named_by(index: Path) -> set[str]:
    """The files that an index names, of those that are called as shards are; none where it is not
    to be read.
    """
    try:
        file = _native.File(index)  # which waits for no pipe
        files = set(msgspec.json.decode(file.read(0, file.nbytes))["weight_map"].values())
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
