"""From a catalog to the core's requests, and from its errors to ones that name tensors."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fastio import _native
from fastio.catalog import Catalog, Shard
from fastio.errors import ChecksumError, FormatError, MemoryLimitError
from fastio.options import Options

# How long a limit waits for reads that were given up a moment ago, by a stream that ended say, and
# still hold memory; on a disk that answers they take some milliseconds.
_PARKED_WAIT_S = 0.25

_Result = TypeVar("_Result")


def request(shard: Shard, *, verify: bool) -> _native.ShardRequest:
    """Return what the core is asked for: all tensors of a shard.

    Raises
    ------
    Nothing.
    """
    assert isinstance(shard.file, _native.File)  # what is in memory is not asked for
    table = shard.table if verify else None
    native_table = None if table is None else (table.start, table.chunk_bytes, table.digests)
    return shard.file, shard.begins, shard.ends, native_table


def require_tables(catalog: Catalog) -> None:
    """Refuse a source with a file that cannot be verified.

    Raises
    ------
    FormatError
        Names the file.
    """
    for shard in catalog.shards:
        if shard.table is None:
            raise FormatError(
                shard.path,
                "carries no checksums, and verify='require' was asked for",
                expected="a sealed file (fastio.seal makes one)",
            )


def read(
    catalog: Catalog,
    *,
    verify: bool,
    options: Options,
    progress: Callable[[int, int], None] | None = None,
) -> _native.Loaded:
    """Read all tensors of a catalog into memory of their own.

    Raises
    ------
    ChecksumError, MemoryLimitError, MemoryError, ReadError
        As `fastio.load` has them.
    """
    requests = [request(shard, verify=verify) for shard in catalog.shards]
    keep = keep_cold(catalog.shards)
    with errors_named(catalog.source, catalog.shards):
        return within_limit(
            lambda: _native.load(requests, options, keep_cold=keep, progress=progress)
        )


def extents(
    shard: Shard, ranges: Sequence[tuple[int, int]], *, verify: bool, options: Options
) -> _native.Loaded:
    """Read [begin, end) ranges of a file, ascending, into memory of their own.

    Raises
    ------
    ChecksumError, MemoryLimitError, MemoryError, ReadError
        As `fastio.load` has them.
    """
    asked: npt.NDArray[np.int64] = np.array(ranges, np.int64)
    file, _, _, table = request(shard, verify=verify)
    wanted = (file, asked[:, 0].copy(), asked[:, 1].copy(), table)
    return within_limit(lambda: _native.load([wanted], options))


def stream(
    catalog: Catalog, *, verify: bool, options: Options, window_bytes: int
) -> _native.Stream:
    """Start to read all tensors of a catalog, in a window of memory.

    Raises
    ------
    MemoryLimitError
        A window smaller than a chunk.
    ReadError
        If asking for the state of a file fails.
    """
    requests = [request(shard, verify=verify) for shard in catalog.shards]
    keep = keep_cold(catalog.shards)
    with errors_named(catalog.source, catalog.shards):
        return within_limit(
            lambda: _native.Stream(requests, options, window_bytes=window_bytes, keep_cold=keep)
        )


def within_limit(start: Callable[[], _Result]) -> _Result:
    """Start what a memory limit may refuse, once more where that is for what is parked only.

    Raises
    ------
    Whatever `start` does; MemoryLimitError where what is parked stays.
    """
    deadline = time.monotonic() + _PARKED_WAIT_S
    while True:
        try:
            return start()
        except MemoryLimitError as error:
            if error.asked_bytes > error.limit_bytes or time.monotonic() > deadline:
                raise
        time.sleep(0.002)


@contextlib.contextmanager
def errors_named(source: str, shards: Sequence[Shard]) -> Iterator[None]:
    """Say which tensors a damaged chunk belongs to, and for what there was no memory.

    Raises
    ------
    ChecksumError, MemoryError
        With what is known of them here.
    """
    try:
        yield
    except ChecksumError as error:
        raise ChecksumError(
            error.path,
            chunk=error.chunk,
            offset=error.offset,
            nbytes=error.nbytes,
            expected=error.expected,
            found=error.found,
            tensors=[
                name
                for shard in shards
                if shard.path == error.path
                for name in shard.names_within(error.offset, error.nbytes)
            ],
        ) from None
    except MemoryLimitError:
        raise
    except MemoryError as error:
        nbytes = sum(int((shard.ends - shard.begins).sum()) for shard in shards)
        raise MemoryError(f"{source}: there is no memory for tensors of {nbytes} bytes") from error


def keep_cold(shards: Sequence[Shard]) -> bool:
    """Whether other ranks of this host are about to read these files, and memory can keep them.

    Raises
    ------
    Nothing.
    """
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if not ranks.isdecimal() or int(ranks) <= 1:
        return False
    nbytes = sum(shard.file.nbytes for shard in shards)
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        available = next(
            (int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:")), 0
        )
    # The cache keeps one copy, each rank has one of its own.
    return nbytes * (1 + int(ranks)) < available
