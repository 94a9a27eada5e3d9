"""A bad replica of a shard, written anew from whatever replicas have its chunks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
from collections.abc import Collection, Sequence
from pathlib import PurePath

import fastio._native as _native
from fastio.catalog.table import ChecksumTable
from fastio.errors import FastioError, WriteError
from fastio.formats import safetensors
from fastio.storage.protocol import FILE_MODE
from fastio.store.layout import SHARDS
from fastio.store.manifest import ShardEntry
from fastio.store.root import Root

_STEP_BYTES = 2**24


def rewrite(
    root: Root,
    entry: ShardEntry,
    replicas: Sequence[_native.Replica],
    roots: Sequence[Root],
    *,
    hung_paths: Collection[str] = (),
    timeout_s: float = math.inf,
) -> None:
    """Write one replica anew; it takes the place of the bad one when it is whole.

    Parameters
    ----------
    root : Root
        The one that has the bad one, or lacks it.
    entry : ShardEntry
        Of the shard.
    replicas : sequence of File
        Those that are there, the bad one perhaps among them; each of the size that `entry` says.
    roots : sequence of Root
        Those that they are on. The new one has the mode of a good one.
    hung_paths : collection of str
        Replicas that are not read, as their disks do not answer.
    timeout_s : float
        How long a read may take.

    Raises
    ------
    WriteError
        Also if the header, or a chunk, is left in no replica.
    ReadError
    """
    target = root.path / SHARDS / entry.file
    # The bad one comes last: it has good chunks, too.
    sources = sorted(
        (file for file in replicas if file.path not in hung_paths),
        key=lambda file: file.path == str(target),
    )
    header = _header(entry, sources, target, timeout_s)
    table = safetensors.locate(sources[0], header).table
    assert table is not None  # the digest of the header is that of a sealed shard
    with contextlib.closing(root.storage.new_file(SHARDS, entry.file)) as replacement:
        nbytes = sources[0].nbytes
        replacement.reserve(nbytes)
        replacement.begin()
        replacement.file.write(0, header)  # and all the rest in order, as some filesystems want it
        for begin in range(table.start, nbytes, _STEP_BYTES):
            end = min(begin + _STEP_BYTES, nbytes)
            data = _sound(sources, table, begin, end, timeout_s)
            replacement.file.write(begin, data)
        replacement.allow(_mode(sources[0], roots, entry.file))
        replacement.commit()


def _mode(file: _native.Replica, roots: Sequence[Root], name: str) -> int:
    for root in roots:
        if file.path == str(root.path / SHARDS / name):
            return root.storage.mode(SHARDS, name)
    return FILE_MODE  # its root has left the store meanwhile


def _header(
    entry: ShardEntry, sources: list[_native.Replica], target: PurePath, timeout_s: float
) -> bytes:
    for file in sources:
        with contextlib.suppress(FastioError):
            header = file.read(0, entry.start, timeout_s=timeout_s)
            if hashlib.sha256(header).hexdigest() == entry.digest:
                return header
    raise WriteError(errno.ENODATA, "read", target, 0, "no replica has its header")


def _sound(
    sources: list[_native.Replica], table: ChecksumTable, begin: int, end: int, timeout_s: float
) -> bytes:
    """Bytes of whole chunks, from the first replica that has them."""
    reasons = []
    for file in sources:
        try:
            data = file.read(begin, end - begin, timeout_s=timeout_s)
        except FastioError as error:
            reasons.append(str(error))
            continue
        if table.holds(data, begin):
            return data
        reasons.append(f"{file.path}: is damaged at byte {begin} or behind it")
    if end - begin > table.chunk_bytes:  # chunk by chunk: each may be in another replica
        return b"".join(
            _sound(sources, table, at, min(at + table.chunk_bytes, end), timeout_s)
            for at in range(begin, end, table.chunk_bytes)
        )
    raise WriteError(errno.ENODATA, "read", sources[0].path, begin, "; ".join(reasons))
