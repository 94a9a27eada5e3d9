"""A bad replica of a shard, written anew from whatever replicas have its chunks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import stat
from collections.abc import Collection, Sequence
from pathlib import Path

import fastio._native as _native
from fastio.catalog.table import ChecksumTable
from fastio.errors import FastioError, WriteError
from fastio.formats import safetensors
from fastio.host.replacement import Replacement
from fastio.store.manifest import ShardEntry

_STEP_BYTES = 2**24


def rewrite(
    path: str,
    entry: ShardEntry,
    replicas: Sequence[_native.File],
    *,
    hung_paths: Collection[str] = (),
    timeout_s: float = math.inf,
) -> None:
    """Write one replica anew; it takes the place of the bad one when it is whole.

    Parameters
    ----------
    path : str
        The bad one; need not be there. The new one has the mode of a good one.
    entry : ShardEntry
        Of the shard.
    replicas : sequence of File
        Those that are there, the bad one perhaps among them; each of the size that `entry` says.
    hung_paths : collection of str
        Replicas that are not read, as their disks do not answer.
    timeout_s : float
        How long a read may take.

    Raises
    ------
    WriteError
        Also if the header, or a chunk, is left in no replica.
    """
    target = Path(path)
    # The bad one comes last: it has good chunks, too.
    sources = sorted(
        (file for file in replicas if file.path not in hung_paths),
        key=lambda file: file.path == path,
    )
    if not stat.S_ISDIR(os.lstat(target.parent).st_mode):
        detail = "it would lie where a symlink leads, out of the root"
        raise WriteError(errno.ENOTDIR, "open", target, detail=detail)
    header = _header(entry, sources, target, timeout_s)
    table = safetensors.locate(sources[0], header).table
    assert table is not None  # the digest of the header is that of a sealed shard
    replacement = Replacement(target, 0o600, written_as=target.parent / "new")
    try:
        nbytes = sources[0].nbytes
        replacement.reserve(nbytes)
        replacement.begin()
        replacement.file.write(0, header)  # and all the rest in order, as some filesystems want it
        for begin in range(table.start, nbytes, _STEP_BYTES):
            end = min(begin + _STEP_BYTES, nbytes)
            data = _sound(sources, table, begin, end, timeout_s)
            replacement.file.write(begin, data)
        replacement.allow(stat.S_IMODE(os.stat(sources[0].path).st_mode))
        replacement.commit()
    finally:
        replacement.close()


def _header(
    entry: ShardEntry, sources: list[_native.File], target: Path, timeout_s: float
) -> bytes:
    for file in sources:
        with contextlib.suppress(FastioError):
            header = file.read(0, entry.start, timeout_s=timeout_s)
            if hashlib.sha256(header).hexdigest() == entry.digest:
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
