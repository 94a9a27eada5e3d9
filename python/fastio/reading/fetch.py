"""From a catalog to the core's requests, and from its errors to ones that name tensors."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fastio import _native
from fastio.catalog import Catalog, Shard
from fastio.errors import ChecksumError, MemoryLimitError, ReadError, ReplicaError
from fastio.frameworks import Framework, check_dtype, check_dtypes
from fastio.host.memory import available_bytes
from fastio.host.shortage import memory_named
from fastio.options import Options
from fastio.reading.located import LocatedSource
from fastio.reading.replicas import watch_of

# How long a limit waits for reads that were abandoned a moment ago, by a stream that ended say, and
# still hold memory; on a disk that answers they take some milliseconds.
_PARKED_WAIT_S = 0.25

Met = ChecksumError | ReadError | ReplicaError
MET = (ChecksumError, ReadError, ReplicaError)
"""What reading ahead may meet that concerns some tensors, and not those before them."""

_Result = TypeVar("_Result")
Count = Callable[["_native.Statistics"], None]
"""Is told what a native job counted."""
_UINT8 = np.dtype(np.uint8)


def request(shard: Shard, *, verify: bool) -> _native.ShardRequest:
    """Return what the core is asked for: all raw tensors of a shard. Encoded ones have no bytes.

    Raises
    ------
    Nothing.
    """
    table = shard.table if verify else None
    native_table = None if table is None else (table.start, table.chunk_bytes, table.digests)
    begins, ends = shard.raw_extents()
    if shard.has_replicas:
        assert shard.replicas is not None
        return shard.replicas.files, begins, ends, native_table
    assert isinstance(shard.file, _native.File)  # tensors in memory are not asked for
    return shard.file, begins, ends, native_table


def check_held(located: LocatedSource, framework: Framework) -> None:
    """Refuse what a framework cannot hold, before anything is read.

    Raises
    ------
    DtypeError
        Names the file, the tensor and its dtype.
    """
    for cut in located.cuts.values():
        check_dtype(cut.info, framework)
    check_dtypes(located.catalog, framework)


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
    options = _unmapped(catalog.shards, options)
    keep = keep_cold(catalog.shards)
    met: list[_native.Incident] = []
    with errors_named(catalog.source, catalog.shards, lambda: met):
        return within_limit(
            lambda: _native.load(
                requests,
                options,
                keep_cold=keep,
                progress=progress,
                persistent=is_persistent(catalog.shards),
                incidents=met,
            )
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
    wanted = _part_request(shard, ranges, verify=verify)
    options = _unmapped([shard], options)
    met: list[_native.Incident] = []
    with errors_named(shard.path, [shard], lambda: met):
        return within_limit(
            lambda: _native.load(
                [wanted], options, persistent=is_persistent([shard]), incidents=met
            )
        )


def windowed(
    shard: Shard,
    ranges: Sequence[tuple[int, int]],
    *,
    verify: bool,
    options: Options,
    window_bytes: int,
    count: Count,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield [begin, end) ranges of a file, ascending, read ahead in a window of memory.

    Each is there until the next one is asked for.

    Raises
    ------
    ChecksumError, MemoryLimitError, MemoryError, ReadError
        As `fastio.load` has them.
    """
    wanted = _part_request(shard, ranges, verify=verify)
    options = _unmapped([shard], options)
    with errors_named(shard.path, [shard]):
        native = within_limit(
            lambda: _native.Stream(
                [wanted],
                options,
                window_bytes=window_bytes,
                persistent=is_persistent([shard]),
            )
        )
    try:
        for region, (_, first, last) in enumerate(native.regions()):
            with errors_named(shard.path, [shard], native.incidents):
                loaded = native.take(region)
            yield from arrays(loaded, ranges[first:last], first)
            del loaded
            native.release(region)
    finally:
        with errors_named(shard.path, [shard], native.incidents):
            count(native.statistics)
        native.close()


def _part_request(
    shard: Shard, ranges: Sequence[tuple[int, int]], *, verify: bool
) -> _native.ShardRequest:
    asked: npt.NDArray[np.int64] = np.array(ranges, np.int64)
    file, _, _, table = request(shard, verify=verify)
    return file, asked[:, 0].copy(), asked[:, 1].copy(), table


def arrays(
    loaded: _native.Loaded, ranges: Sequence[tuple[int, int]], first: int = 0
) -> list[npt.NDArray[np.uint8]]:
    """Return ranges of a file that were loaded, from the first one on, each as (n,) uint8.

    Raises
    ------
    ValueError
        For other ranges than were loaded.
    """
    sizes: list[tuple[int, ...]] = [(end - begin,) for begin, end in ranges]
    return loaded.numpy(0, [_UINT8] * len(sizes), sizes, first)


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
    options = _unmapped(catalog.shards, options)
    keep = keep_cold(catalog.shards)
    with errors_named(catalog.source, catalog.shards):
        return within_limit(
            lambda: _native.Stream(
                requests,
                options,
                window_bytes=window_bytes,
                keep_cold=keep,
                persistent=is_persistent(catalog.shards),
            )
        )


def _unmapped(shards: Iterable[Shard], options: Options) -> Options:
    """A file with replicas is never mapped: pages that are read again are not verified again."""
    if options.mapping == "auto" and any(shard.has_replicas for shard in shards):
        return replace(options, mapping="never")
    return options


def within_limit(start: Callable[[], _Result]) -> _Result:
    """Start what a memory limit may refuse, once more where that is for abandoned memory only.

    Raises
    ------
    Whatever `start` does; MemoryLimitError where abandoned memory stays.
    """
    deadline = time.monotonic() + _PARKED_WAIT_S
    while True:
        try:
            return start()
        except MemoryLimitError as error:
            if error.asked_bytes > error.limit_bytes or time.monotonic() > deadline:
                raise
        time.sleep(0.002)


def is_persistent(shards: Iterable[Shard]) -> bool:
    """Whether a failure is followed by another try, of the same replica or another one.

    Raises
    ------
    Nothing.
    """
    watch = watch_of(shards)
    return watch is not None and watch.persistent


@contextlib.contextmanager
def errors_named(
    source: str,
    shards: Sequence[Shard],
    incidents: Callable[[], list[_native.Incident]] = list,
) -> Iterator[None]:
    """Name the tensors of a damaged chunk, what memory was for, and the replicas that were tried.

    Parameters
    ----------
    source : str
    shards : sequence of Shard
    incidents : callable
        Returns what was met meanwhile.

    Raises
    ------
    ChecksumError, MemoryError, ReplicaError
        With what is known of them here.
    """
    watch = watch_of(shards)
    try:
        try:
            with memory_named(source, lambda: f"tensors of {_tensor_bytes(shards)} bytes"):
                yield
        finally:
            if watch is not None:
                watch.note(shards, incidents())
    except (ChecksumError, ReadError) as error:
        blamed = [shard for shard in shards if error.path in paths_of(shard)]
        if watch is not None and watch.persistent and blamed:
            nbytes = error.nbytes if isinstance(error, ChecksumError) else 1
            error.__traceback__ = None  # its frames hold it, and the files with it
            raise watch.exhausted(blamed[0], error.offset, nbytes, source) from None
        if isinstance(error, ReadError):
            raise
        error.__traceback__ = None
        raise _with_tensors(error, blamed) from None


def _with_tensors(error: ChecksumError, blamed: Sequence[Shard]) -> ChecksumError:
    return ChecksumError(
        error.path,
        chunk=error.chunk,
        offset=error.offset,
        nbytes=error.nbytes,
        expected=error.expected,
        found=error.found,
        tensors=[
            name for shard in blamed for name in shard.names_within(error.offset, error.nbytes)
        ],
    )


def _tensor_bytes(shards: Sequence[Shard]) -> int:
    return sum(shard.nbytes() for shard in shards)


def paths_of(shard: Shard) -> tuple[str, ...]:
    """Return the files that have the bytes of a shard.

    Raises
    ------
    Nothing.
    """
    if not shard.has_replicas or shard.replicas is None:
        return (shard.path,)
    return tuple(file.path for file in shard.replicas.files)


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
    # The cache keeps one copy, each rank has one of its own.
    return nbytes * (1 + int(ranks)) < (available_bytes() or 0)
