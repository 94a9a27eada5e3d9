"""Small files, which are read whole with their headers: their tensors are copied from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fastio._native as _native
from fastio.catalog import Shard
from fastio.frameworks import Framework
from fastio.options import Options
from fastio.report import Report


def tensors(
    shards: Sequence[Shard], framework: Framework, *, verify: bool, options: Options, report: Report
) -> dict[str, Any] | None:
    """Return the tensors of files that were read whole, and count in the report what was done.

    Returns None if a file was not read whole, if a checksum differs, or if the options choose an
    engine, a cache mode or a limit. The core then reads the file and reports any damage.

    Raises
    ------
    ValueError
        A dtype and shape that do not come to a tensor's bytes.
    """
    if options.engine != "auto" or options.cache != "auto":
        return None
    if options.memory_limit_bytes is not None or not shards:
        return None
    found: dict[str, Any] = {}
    nbytes = chunks = 0
    for shard in shards:
        content, table = shard.content, shard.table
        if content is None:
            return None
        if verify and table is not None:
            data = memoryview(content)[table.start :]
            if _native.xxh3_64_chunks(data, table.chunk_bytes) != table.digests:
                return None
            chunks += len(table.digests) // 8
        made = framework.copies(content, shard.dtypes, shard.shapes, shard.begins, shard.ends)
        found.update(zip(shard.names, made, strict=True))
        nbytes += len(content)
    report.engine, report.engine_reason = "inline", "small: read whole with its header"
    report.cache, report.cache_reason = "warm", "it is in the page cache since its header was read"
    report.nbytes = sum(int((shard.ends - shard.begins).sum()) for shard in shards)
    report.bytes_buffered = nbytes
    report.chunks_verified = chunks
    return found
