"""A bad replica of a shard, written anew from whatever replicas have its chunks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
from collections.abc import Sequence
from pathlib import PurePath

from fastio import _native
from fastio.catalog import ChecksumTable
from fastio.errors import FastioError, WriteError
from fastio.formats import safetensors
from fastio.formats.safetensors import InMemory
from fastio.reading.replicas import Repair, Replicas
from fastio.storage.protocol import FILE_MODE
from fastio.store.layout import SHARDS
from fastio.store.root import Root

_STEP_BYTES = 2**24


def on(roots: Sequence[Root]) -> Repair:
    """Return what writes a replica anew, whose path is that of a shard on one of these roots."""
    by_folder = {str(root.path / SHARDS): root for root in roots}

    def repair(replicas: Replicas, path: str) -> None:
        folder, _, name = path.rpartition("/")
        rewrite(replicas, roots, by_folder[folder], name)

    return repair


def rewrite(replicas: Replicas, roots: Sequence[Root], root: Root, name: str) -> None:
    """Write one replica anew; it takes the place of the bad one when it is whole.

    Parameters
    ----------
    replicas : Replicas
    roots : sequence of Root
        Those that have them. The new one has the mode of a good one.
    root : Root
        The one that gets it.
    name : str
        Of the shard. A bad replica of it may be there.

    Raises
    ------
    WriteError
        Also if the header, or a chunk, is left in no replica.
    ReadError
    """
    target = root.path / SHARDS / name
    # The bad one comes last: it has good chunks, too.
    sources = sorted(
        (file for file in replicas.files if file.path not in replicas.watch.hung_paths),
        key=lambda file: file.path == str(target),
    )
    header = _header(replicas, sources, target)
    table = safetensors.locate(InMemory(str(target), sources[0].nbytes, header)).table
    assert table is not None  # the digest of the header is that of a sealed shard
    with contextlib.closing(root.storage.new_file(SHARDS, name)) as replacement:
        nbytes = sources[0].nbytes
        replacement.reserve(nbytes)
        replacement.begin()
        replacement.file.write(0, header)  # and all the rest in order, as some filesystems want it
        for begin in range(table.start, nbytes, _STEP_BYTES):
            end = min(begin + _STEP_BYTES, nbytes)
            data = _sound(sources, table, begin, end, replicas.watch.timeout_s)
            replacement.file.write(begin, data)
        replacement.allow(_mode(sources[0], roots, name))
        replacement.commit()


def _mode(file: _native.File, roots: Sequence[Root], name: str) -> int:
    for root in roots:
        if file.path == str(root.path / SHARDS / name):
            return root.storage.mode(SHARDS, name)
    return FILE_MODE  # its root has left the store meanwhile


def _header(replicas: Replicas, sources: list[_native.File], target: PurePath) -> bytes:
    for file in sources:
        with contextlib.suppress(FastioError):
            header = file.read(0, replicas.start, timeout_s=replicas.watch.timeout_s)
            if hashlib.sha256(header).hexdigest() == replicas.digest:
                return header
    raise WriteError(errno.ENODATA, "read", target, 0, "no replica has its header")


def _sound(
    sources: list[_native.File], table: ChecksumTable, begin: int, end: int, timeout_s: float
) -> bytes:
    """Bytes of whole chunks, from the first replica that has them."""
    first = (begin - table.start) // table.chunk_bytes * 8
    last = -(-(end - table.start) // table.chunk_bytes) * 8
    reasons = []
    for file in sources:
        try:
            data = file.read(begin, end - begin, timeout_s=timeout_s)
        except FastioError as error:
            reasons.append(str(error))
            continue
        if _native.xxh3_64_chunks(data, table.chunk_bytes) == table.digests[first:last]:
            return data
        reasons.append(f"{file.path}: is damaged at byte {begin} or behind it")
    if end - begin > table.chunk_bytes:  # chunk by chunk: each may be in another replica
        return b"".join(
            _sound(sources, table, at, min(at + table.chunk_bytes, end), timeout_s)
            for at in range(begin, end, table.chunk_bytes)
        )
    raise WriteError(errno.ENODATA, "read", sources[0].path, begin, "; ".join(reasons))
