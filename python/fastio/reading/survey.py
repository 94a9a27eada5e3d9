"""Files read from end to end past the page cache, compared with their checksums, and not kept.

A survey goes on behind what is damaged or cannot be read, and so finds all of it. Its memory is
that of the blocks in flight, however large the files are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
import numpy as np

import fastio._native as _native
from fastio.catalog import Shard
from fastio.errors import ReadError
from fastio.options import Options
from fastio.reading.fetch import native_files, within_limit
from fastio.reading.watch import BadReplica
from fastio.report.events import Event

MEMORY_BYTES = 96 * 2**20
"""Of all surveys that run at once, for blocks in flight; bookkeeping comes on top."""
_HEADERS_BYTES_MAX = 2**24  # of those that are read together

Advance = Callable[[int, int], None]


class Findings(msgspec.Struct):
    """The findings of one survey.

    Attributes
    ----------
    damaged : dict of str to Event
        By path.
    read_again : dict of str to Event
        By path: chunks that were sound in a second read.
    nbytes : int
        Bytes that were read.
    notes : tuple of str
        What did not go as planned, such as reads through the page cache.
    """

    damaged: dict[str, Event] = msgspec.field(default_factory=dict)
    read_again: dict[str, Event] = msgspec.field(default_factory=dict)
    nbytes: int = 0
    notes: tuple[str, ...] = ()


def survey(
    shards: Sequence[Shard],
    options: Options,
    *,
    memory_bytes: int = MEMORY_BYTES,
    progress: Advance | None = None,
) -> Findings:
    """Read all chunks of sealed files, in bounded memory, and return what is damaged.

    Parameters
    ----------
    shards : sequence of Shard
        Open files with their checksum tables.
    options : Options
        Its engine, lanes, queue depth and block size are used as far as the memory allows.
    memory_bytes : int
        Bound on the blocks in flight; at least one chunk.
    progress : callable, optional
        Called with the bytes done and the bytes in all; what it raises ends the survey.

    Raises
    ------
    MemoryLimitError
        If `memory_bytes` or the limit of `options` is less than a chunk.
    MemoryError
    """
    wanted = [
        shard
        for shard in shards
        if shard.table is not None and shard.files.nbytes > shard.table.start
    ]
    found = Findings()
    if not wanted:
        return found
    requests = [_data_of(shard) for shard in wanted]
    limit = min(memory_bytes, options.memory_limit_bytes or memory_bytes)
    own = replace(options, cache="bypass", mapping="never", memory_limit_bytes=limit)
    incidents, counted = within_limit(lambda: _native.survey(requests, own, progress=progress))
    found.nbytes = counted["bytes_direct"] + counted["bytes_buffered"] + counted["bytes_fed"]
    found.notes = tuple(counted["fallbacks"])
    _sort_out(wanted, incidents, found)
    return found


def _data_of(shard: Shard) -> _native.ShardRequest:
    assert shard.table is not None
    (file,) = native_files(shard.files)
    start, end = shard.table.start, file.nbytes
    extent = np.array([start], np.int64), np.array([end], np.int64)
    return [file], *extent, shard.table.native, False


def _sort_out(
    shards: Sequence[Shard], incidents: Sequence[_native.Incident], found: Findings
) -> None:
    of_file: dict[tuple[int, bool], BadReplica] = {}
    for incident in incidents:
        shard = shards[incident["shard"]]
        assert shard.table is not None
        again = incident["remedy"] == "read_again"
        bad = of_file.setdefault((incident["shard"], again), BadReplica(shard.path))
        bad.chunk_bytes = shard.table.chunk_bytes
        extent = incident["offset"], incident["offset"] + incident["nbytes"]
        bad.add(extent, incident["detail"], "was sound when it was read again" if again else "")
    for (at, again), bad in of_file.items():
        for begin, end in bad.new_ranges():
            bad.tensors.update(dict.fromkeys(shards[at].names_within(begin, end - begin)))
        into = found.read_again if again else found.damaged
        into[shards[at].path] = replace(bad.event(), kind="damage")


def headers(
    files: Sequence[tuple[_native.Replica, int]],
    options: Options,
    is_sound: Callable[[int, bytes], bool],
) -> list[bytes | ReadError]:
    """Return the beginnings of files, read past the page cache; twice where one is not sound.

    Parameters
    ----------
    files : sequence of (File, int)
        Each with the bytes that are wanted.
    options : Options
    is_sound : callable
        Given the place of a file in `files`, and its beginning.

    Returns
    -------
    list of bytes or ReadError
        The error where a file cannot be read.

    Raises
    ------
    MemoryError
    """
    own = replace(options, cache="bypass", mapping="never", memory_limit_bytes=None)
    found: list[bytes | ReadError] = []
    batch: list[tuple[_native.Replica, int]] = []
    nbytes = 0
    for each in files:
        if batch and nbytes + each[1] > _HEADERS_BYTES_MAX:
            found += _read(batch, own)
            batch, nbytes = [], 0
        batch.append(each)
        nbytes += each[1]
    found += _read(batch, own) if batch else []
    for at, header in enumerate(found):
        if isinstance(header, bytes) and not is_sound(at, header):
            found[at : at + 1] = _read([files[at]], own)
    return found


def _read(
    files: Sequence[tuple[_native.Replica, int]], options: Options
) -> list[bytes | ReadError]:
    none = np.array([0], np.int64)
    requests: list[_native.ShardRequest] = [
        ([file], none, np.array([nbytes], np.int64), None, False) for file, nbytes in files
    ]
    try:
        loaded = _native.load(requests, options)
    except ReadError as error:
        if len(files) == 1:
            return [error]
        return [each for one in files for each in _read([one], options)]
    return [
        loaded.numpy(at, [np.dtype(np.uint8)], [(nbytes,)])[0].tobytes()
        for at, (_, nbytes) in enumerate(files)
    ]
