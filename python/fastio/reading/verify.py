"""Every byte of sealed files, compared with their checksums past the page cache."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from fastio.catalog import Shard
from fastio.display.progress import progress_bar
from fastio.errors import FastioError, FormatError, ReadError
from fastio.formats import huggingface, index, known
from fastio.formats.opening import open_file
from fastio.host import collector
from fastio.host.descriptors import make_room_for_files
from fastio.options import Options
from fastio.reading.fetch import native_files
from fastio.reading.findings import Verification, tell
from fastio.reading.survey import headers, survey
from fastio.report.events import Event

_REPLACED_MAX = 100  # how often a folder may get another checkpoint while its files are opened
_ABSENT_SHOWN_MAX = 3
_HEADERS_AT_ONCE = 16


def verify(
    paths: str | list[str], *, options: Options | None = None, progress: bool = False
) -> Verification:
    """Verify files, as `fastio.verify` does.

    Parameters
    ----------
    paths : str or list of str
        A file, a folder or an index, or several files; as `fastio.locate.anchored_if_several` has
        them.
    options, progress
        As `fastio.verify` takes them.

    Raises
    ------
    As `fastio.verify` does.
    """
    begun = time.perf_counter()
    options = options if options is not None else Options()
    name = paths if isinstance(paths, str) else paths[0]
    shards, damaged = _opened(paths)
    files = len(shards) + len(damaged)
    own = [shard for shard in shards if shard.table is not None]
    for first in range(0, len(own), _HEADERS_AT_ONCE):
        damaged.update(_headers_on_disk(own[first : first + _HEADERS_AT_ONCE], options))
    sealed = [shard for shard in own if shard.path not in damaged]
    total = sum(shard.files.nbytes for shard in sealed)
    with progress_bar(name, total, shown=progress) as advance:
        found = survey(sealed, options, progress=advance)
    damaged.update(found.damaged)
    unverified = [s.path for s in shards if s.table is None and s.path not in damaged]
    verified = Verification(
        source=name if isinstance(paths, str) else f"{name} and {len(paths) - 1} more files",
        files=files,
        nbytes=found.nbytes + sum(_start(shard) for shard in sealed),
        seconds=time.perf_counter() - begun,
        damaged=tuple(damaged[path] for path in sorted(damaged)),
        unverified=tuple(unverified),
        notes=(*found.notes, *map(str, found.read_again.values())),
    )
    tell(verified)
    return verified


def _opened(paths: str | list[str]) -> tuple[list[Shard], dict[str, Event]]:
    """The files of a source, located; and those that cannot be, as damage.

    All are of one checkpoint: one that is saved meanwhile takes the place of the index.
    """
    for _ in range(_REPLACED_MAX):
        files, named_by = huggingface.files_of(paths)
        before = None if named_by is None else index.identity(named_by)
        make_room_for_files(len(files), paths if isinstance(paths, str) else paths[0])
        given = named_by is None and not (isinstance(paths, str) and os.path.isdir(paths))
        with collector.CollectorPaused():
            located = _located(files, named_by, given=given)
        if named_by is None or index.identity(named_by) == before:
            return located
    raise FormatError(
        str(named_by),
        f"was replaced {_REPLACED_MAX} times while its files were opened",
        expected="a folder that is not saved to all the time",
    )


def _located(
    files: Mapping[str, set[str]], named_by: Path | None, *, given: bool
) -> tuple[list[Shard], dict[str, Event]]:
    shards, damaged = [], {}
    for path, listed in files.items():
        try:
            shard = known.locate(open_file(path))
            if shard.unsound is not None and not shard.unsound.is_copied:
                raise shard.unsound.error(path)
        except FileNotFoundError:
            if named_by is None:
                raise
            damaged[path] = Event("damage", path, f"is missing, and {named_by} names it", "")
        except FormatError as error:
            damaged[path] = _damage_of(path, error)
        except ReadError as error:
            if given and error.operation == "open":
                raise
            damaged[path] = _damage_of(path, error)
        else:
            shards.append(shard)
            if absent := sorted(listed.difference(shard.names)):
                some = ", ".join(absent[:_ABSENT_SHOWN_MAX])
                cause = f"lacks {len(absent)} tensors that {named_by} lists: {some}"
                damaged[path] = Event("damage", path, cause, "", tensors=tuple(absent))
    return shards, damaged


def _headers_on_disk(shards: list[Shard], options: Options) -> dict[str, Event]:
    """Headers that are not on the disk as they were located: that was by way of the page cache."""
    wanted = [(file, _start(shard)) for shard in shards for file in native_files(shard.files)]
    damaged = {}
    located = [file.read(0, start) for file, start in wanted]
    found = headers(wanted, options, lambda at, data: data == located[at])
    for (file, start), read, other in zip(wanted, found, located, strict=True):
        if isinstance(read, ReadError):
            damaged[file.path] = _damage_of(file.path, read)
        elif read != other:
            cause = "its header is damaged on the disk; the page cache still has a sound one"
            damaged[file.path] = Event(
                "damage", file.path, cause, "", 0, start, ranges=((0, start),)
            )
    return damaged


def _start(shard: Shard) -> int:
    return shard.table.start if shard.table is not None else 0


def _damage_of(path: str, error: FastioError) -> Event:
    return Event("damage", path, str(error).removeprefix(f"{path}: "), "")
