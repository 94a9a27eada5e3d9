"""From a catalog to the core's requests, and from its errors to ones that name tensors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

import fastio._native as _native
from fastio.catalog import Catalog, Shard, ShardFiles
from fastio.errors import ChecksumError, MemoryLimitError, ReadError, ReplicaError
from fastio.frameworks import Framework, check_dtype, check_dtypes
from fastio.host.shortage import memory_named
from fastio.options import Options
from fastio.reading.located import LocatedSource
from fastio.reading.watch import Watch, is_persistent

# How long a limit waits for reads that were abandoned a moment ago, by a stream that ended say, and
# still hold memory; on a disk that answers they take some milliseconds.
_PARKED_WAIT_S = 0.25

DataError = ChecksumError | ReadError | ReplicaError
DATA_ERRORS = (ChecksumError, ReadError, ReplicaError)
"""Errors of some bytes: the tensors before them can still be read."""

_Result = TypeVar("_Result")
Count = Callable[["_native.Statistics"], None]
"""Is told what a native job counted."""
_UINT8 = np.dtype(np.uint8)


def request(shard: Shard, *, verify: bool) -> _native.ShardRequest:
    """Return what the core is asked for: all tensors of a shard. A job has raw ones only.

    Raises
    ------
    Nothing.
    """
    table = shard.table if verify else None
    native_table = None if table is None else table.native
    files = shard.files
    return native_files(files), shard.begins, shard.ends, native_table, files.on_roots


def native_files(files: ShardFiles) -> tuple[_native.Replica, ...]:
    """Return the open files of a shard that the core can read; tensors in memory have none.

    Raises
    ------
    Whatever opening them does.
    """
    readable = (_native.File, _native.Feed)
    return tuple(file for file in files.replicas if isinstance(file, readable))


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
    located: LocatedSource,
    catalog: Catalog,
    *,
    verify: bool,
    options: Options,
    progress: Callable[[int, int], None] | None = None,
    mapping_room_bytes: int | None = None,
) -> _native.Loaded:
    """Read the tensors of a source that a catalog has into memory of their own.

    Parameters
    ----------
    mapping_room_bytes : int, optional
        Cold files that the page cache is to keep are mapped if they take no more; None: none is.

    Raises
    ------
    ChecksumError, MemoryLimitError, MemoryError, ReadError
        As `fastio.load` has them.
    """
    requests = [request(shard, verify=verify) for shard in catalog.shards]
    incidents: list[_native.Incident] = []
    with errors_named(located.watch, catalog.source, catalog.shards, lambda: incidents):
        return within_limit(
            lambda: _native.load(
                requests,
                options,
                keep_cold=located.keep_cold,
                mapping_room_bytes=mapping_room_bytes,
                progress=progress,
                persistent=located.is_persistent,
                incidents=incidents,
            )
        )


def extents(
    watch: Watch | None,
    shard: Shard,
    ranges: Sequence[tuple[int, int]],
    *,
    verify: bool,
    options: Options,
) -> _native.Loaded:
    """Read [begin, end) ranges of a file, ascending, into memory of their own.

    Raises
    ------
    ChecksumError, MemoryLimitError, MemoryError, ReadError
        As `fastio.load` has them.
    """
    wanted = _part_request(shard, ranges, verify=verify)
    incidents: list[_native.Incident] = []
    with errors_named(watch, shard.path, [shard], lambda: incidents):
        return within_limit(
            lambda: _native.load(
                [wanted], options, persistent=is_persistent(watch), incidents=incidents
            )
        )


def windowed(
    watch: Watch | None,
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
    with errors_named(watch, shard.path, [shard]):
        native = within_limit(
            lambda: _native.Stream(
                [wanted],
                options,
                window_bytes=window_bytes,
                persistent=is_persistent(watch),
            )
        )
    try:
        for region, (_, first, last) in enumerate(native.regions()):
            with errors_named(watch, shard.path, [shard], native.incidents):
                loaded = native.take(region)
            yield from arrays(loaded, ranges[first:last], first)
            del loaded
            native.release(region)
    finally:
        with errors_named(watch, shard.path, [shard], native.incidents):
            count(native.statistics)
        native.close()


def _part_request(
    shard: Shard, ranges: Sequence[tuple[int, int]], *, verify: bool
) -> _native.ShardRequest:
    asked: npt.NDArray[np.int64] = np.array(ranges, np.int64)
    files, _, _, table, on_roots = request(shard, verify=verify)
    return files, asked[:, 0].copy(), asked[:, 1].copy(), table, on_roots


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
    located: LocatedSource,
    catalog: Catalog,
    *,
    verify: bool,
    options: Options,
    window_bytes: int,
) -> _native.Stream:
    """Start to read the tensors of a source that a catalog has, in a window of memory.

    Raises
    ------
    MemoryLimitError
        A window smaller than a chunk.
    ReadError
        If asking for the state of a file fails.
    """
    requests = [request(shard, verify=verify) for shard in catalog.shards]
    with errors_named(located.watch, catalog.source, catalog.shards):
        return within_limit(
            lambda: _native.Stream(
                requests,
                options,
                window_bytes=window_bytes,
                keep_cold=located.keep_cold,
                persistent=located.is_persistent,
            )
        )


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


@contextlib.contextmanager
def errors_named(
    watch: Watch | None,
    source: str,
    shards: Sequence[Shard],
    incidents: Callable[[], list[_native.Incident]] = list,
) -> Iterator[None]:
    """Name the tensors of a damaged chunk, what memory was for, and the replicas that were tried.

    Parameters
    ----------
    watch : Watch or None
        That of the source.
    source : str
        What is read, as messages call it.
    shards : sequence of Shard
    incidents : callable
        Returns the incidents of the job until now.

    Raises
    ------
    ChecksumError, MemoryError, ReplicaError
        With what is known of them here.
    """
    try:
        try:
            with memory_named(source, lambda: f"tensors of {_tensor_bytes(shards)} bytes"):
                yield
        finally:
            if watch is not None:
                watch.note(shards, incidents())
    except (ChecksumError, ReadError) as error:
        blamed = [shard for shard in shards if error.path in paths_of(shard)]
        if watch is not None and is_persistent(watch) and blamed:
            nbytes = error.nbytes if isinstance(error, ChecksumError) else 1
            error.__traceback__ = None  # its frames hold it, and the files with it
            raise watch.exhausted(blamed[0], error.offset, nbytes, source) from None
        if isinstance(error, ReadError):
            raise
        error.__traceback__ = None
        raise _with_tensors(error, blamed) from None


def errors_of(
    located: LocatedSource, incidents: Callable[[], list[_native.Incident]] = list
) -> contextlib.AbstractContextManager[None]:
    """Return `errors_named` for the tensors of a source that lie in one piece.

    Raises
    ------
    Nothing.
    """
    return errors_named(located.watch, located.source, located.catalog.shards, incidents)


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
    return tuple(file.path for file in shard.files.replicas)
