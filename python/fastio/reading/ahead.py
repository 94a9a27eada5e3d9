"""Reading ahead of whoever takes tensor after tensor, in a window of memory."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import fastio._native as _native
from fastio.catalog import Catalog, Shard
from fastio.catalog.dtypes import shape_in_memory
from fastio.catalog.encodings import has_bytes_in
from fastio.errors import ChecksumError, ReplicaError
from fastio.frameworks import Framework
from fastio.options import Options
from fastio.reading import fetch
from fastio.reading.fetch import DATA_ERRORS, DataError
from fastio.reading.located import LocatedSource
from fastio.reading.tally import RunningJob, Tally

_BATCH_BYTES = 2**26
# Fewer bytes than these are not worth threads that read ahead.
_LOOP_BYTES_MIN = 2**22
# The share of other bytes that a read in the order of names may have.
_BETWEEN_MAX = 0.25
_FAR_BYTES = 2**20  # larger gaps are not read, except the chunks at their ends


def in_file_order(
    located: LocatedSource,
    framework: Framework,
    *,
    verify: bool,
    options: Options,
    window_bytes: int,
    tally: Tally,
) -> Iterator[tuple[str, Any]]:
    """Yield each tensor of a source that is in one piece, by name, read ahead within a window.

    A tensor that was yielded is the caller's and counts no more; what was read and not yielded is
    freed when the iteration ends, however it does.

    Raises
    ------
    ChecksumError, MemoryError, MemoryLimitError, ReadError
        As `fastio.load` does, when the iteration comes to what is damaged.
    """
    catalog = located.catalog
    with tally.job():
        native = fetch.stream(
            located, catalog, verify=verify, options=options, window_bytes=window_bytes
        )
    underway = RunningJob(tally, native)
    process = os.getpid()
    try:
        done = (0, 0)
        failed: DataError | None = None
        for region, (index, first, last) in enumerate(native.regions()):
            yield from _without_bytes(catalog, framework, done, (index, first))
            shard = catalog.shards[index]
            if failed is None:
                try:
                    with (
                        underway.waited_for(),
                        fetch.errors_of(located, native.incidents),
                    ):
                        loaded = native.take(region)
                except DATA_ERRORS as error:
                    # Whatever was read ahead stops with it; what lies before is not damaged.
                    failed = error
                    native.close()
            if failed is None:
                for row in range(first, last):
                    tally.took(int(shard.ends[row] - shard.begins[row]))
                    yield shard.names[row], wrapped(loaded, index, shard, row, row, framework)
                del loaded
                native.release(region)
            else:
                unbound = replace(options, memory_limit_bytes=None)  # it is one tensor at a time
                for row in range(first, last):
                    if _is_reached(failed, shard, row):
                        raise failed
                    tensor = alone(
                        located, shard, row, framework, verify=verify, options=unbound, tally=tally
                    )
                    yield shard.names[row], tensor
            done = (index, last)
        yield from _without_bytes(catalog, framework, done, (len(catalog.shards), 0))
    finally:
        failed = None  # its trace holds this frame, and so the files
        if process == os.getpid():  # in a child, locks of the job may be held for good
            with fetch.errors_of(located, native.incidents):
                underway.end()
        native.close()


def _is_reached(error: DataError, shard: Shard, row: int) -> bool:
    """Whether an error of reading ahead lies in a tensor, or before it in its file."""
    if error.offset is None:
        return True
    return _is_of(error, shard) and int(shard.ends[row]) > error.offset


def _is_of(error: DataError, shard: Shard) -> bool:
    path = error.shard if isinstance(error, ReplicaError) else error.path
    return path in fetch.paths_of(shard)


def concerns(error: DataError, shard: Shard, row: int) -> bool:
    """Whether an error of reading ahead concerns a tensor.

    Raises
    ------
    Nothing.
    """
    if error.offset is None:
        return True
    nbytes = error.nbytes if isinstance(error, ChecksumError) else 1
    return (
        _is_of(error, shard)
        and int(shard.begins[row]) < error.offset + nbytes
        and error.offset < int(shard.ends[row])
        and has_bytes_in(shard.parts_of(row), error.offset, nbytes)
    )


def alone(
    located: LocatedSource,
    shard: Shard,
    row: int,
    framework: Framework,
    *,
    verify: bool,
    options: Options,
    tally: Tally,
) -> Any:
    """Return one tensor of a source, read now.

    Raises
    ------
    ChecksumError, MemoryError, MemoryLimitError, ReadError
        As `fastio.load` does.
    """
    part = shard.take([row])
    with tally.job():
        loaded = fetch.read(located, Catalog([part], shard.path), verify=verify, options=options)
    tally.count(loaded.statistics)
    return framework.wrap(loaded, 0, part.dtypes, part.shapes)[0]


def _without_bytes(
    catalog: Catalog, framework: Framework, begin: tuple[int, int], end: tuple[int, int]
) -> Iterator[tuple[str, Any]]:
    """The tensors between two places, which no region holds: they have no bytes."""
    for index in range(begin[0], min(end[0] + 1, len(catalog.shards))):
        shard = catalog.shards[index]
        first = begin[1] if index == begin[0] else 0
        last = end[1] if index == end[0] else len(shard.names)
        for row in range(first, last):
            yield shard.names[row], empty(shard, row, framework)


def empty(shard: Shard, row: int, framework: Framework) -> Any:
    """Return a tensor of no bytes.

    Raises
    ------
    Nothing.
    """
    dtype = shard.dtypes[row]
    shape = shape_in_memory(dtype, shard.shapes[row])
    return framework.adopt(np.empty(0, np.uint8), dtype, shape)


def wrapped(
    loaded: _native.Loaded, index: int, shard: Shard, row: int, at: int, framework: Framework
) -> Any:
    """Return one tensor; `index` and `at` are its place in the request, `row` in its shard.

    Raises
    ------
    Nothing.
    """
    return framework.wrap(loaded, index, [shard.dtypes[row]], [shard.shapes[row]], at)[0]


class ReadAhead:
    """Tensors from one position on, in the order that somebody was seen to take them.

    Not for several threads at once: whoever uses it holds a lock.

    Parameters
    ----------
    located : LocatedSource
    positions : sequence of (int, int)
        Shard and row of each tensor, in the order they are expected to be taken.
    """

    def __init__(
        self,
        located: LocatedSource,
        positions: Sequence[tuple[int, int]],
        framework: Framework,
        *,
        verify: bool,
        options: Options,
        window_bytes: int,
        tally: Tally,
    ) -> None:
        self._located = located
        self._catalog = catalog = located.catalog
        self._framework = framework
        batches = list(_batches(catalog, positions))
        with tally.job():
            self._native = fetch.stream(
                located,
                Catalog([part for _, _, part in batches], catalog.source),
                verify=verify,
                options=options,
                window_bytes=window_bytes,
            )
        self._tally = tally
        self._underway = RunningJob(tally, self._native)
        regions = self._native.regions()
        self._places: dict[tuple[int, int], tuple[int, int, int]] = {}
        for region, (batch, first, last) in enumerate(regions):
            index, rows, part = batches[batch]
            for at in range(first, last):
                if part.begins[at] < part.ends[at]:
                    self._places[index, rows[at]] = region, batch, at
        self._waiting = [last - first for _, first, last in regions]
        self._loaded: dict[int, _native.Loaded] = {}
        self._first = 0  # regions before this one were released

    def take(self, position: tuple[int, int]) -> Any:
        """Return a tensor, once; None for one that is not to be had here any more.

        Raises
        ------
        ChecksumError, MemoryError, ReadError
            As `fastio.load` does.
        """
        place = self._places.pop(position, None)
        if place is None:
            return None
        region, batch, at = place
        if region not in self._loaded:
            # A caller here is done with earlier regions, and they may hold the memory that this one
            # waits for.
            for earlier in range(self._first, region):
                self._release(earlier)
            self._first = max(self._first, region)
            with (
                self._underway.waited_for(),
                fetch.errors_of(self._located, self._native.incidents),
            ):
                self._loaded[region] = self._native.take(region)
        index, row = position
        shard = self._catalog.shards[index]
        tensor = wrapped(self._loaded[region], batch, shard, row, at, self._framework)
        self._tally.took(int(shard.ends[row] - shard.begins[row]))
        self._waiting[region] -= 1
        if self._waiting[region] == 0:
            self._release(region)
        return tensor

    def _release(self, region: int) -> None:
        loaded = self._loaded.pop(region, None)
        if self._waiting[region]:
            for position, (of_region, batch, at) in list(self._places.items()):
                if of_region != region:
                    continue
                del self._places[position]
                if loaded is not None:  # those that were taken keep the region: give these back
                    index, row = position
                    wrapped(loaded, batch, self._catalog.shards[index], row, at, self._framework)
            self._waiting[region] = 0
        self._native.release(region)

    def close(self) -> None:
        """Stop, and free what was not taken."""
        self._underway.end()
        self._loaded.clear()
        self._places.clear()
        with fetch.errors_of(self._located, self._native.incidents):
            self._native.close()


class Loop:
    """Recognises whoever takes one tensor after another, in the order of the file or of the names.

    Not for several threads at once.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._before: tuple[int, int] | None = None
        self._by_name: list[str] | None = None
        # The rows and names after which reading ahead was found to be too little gain. They are
        # not examined again: examining all others at each tensor takes quadratic time.
        self._refused_rows: tuple[int, int] | None = None
        self._refused_names = range(0)

    def comes(self, position: tuple[int, int]) -> list[tuple[int, int]] | None:
        """Note what is taken now. If it follows on what was taken before, return it and what will
        be taken next if this goes on; None if that is not worth reading ahead.
        """
        before, self._before = self._before, position
        if before is None:
            return None
        shards = self._catalog.shards
        if position == self._after(before):
            if self._refused_rows is not None and position >= self._refused_rows:
                return None  # there are fewer bytes still
            first = range(position[1], len(shards[position[0]].names))
            rest = [(position[0], row) for row in first]
            for index in range(position[0] + 1, len(shards)):
                rest += [(index, row) for row in range(len(shards[index].names))]
            if self._is_worth_it(rest):
                return rest
            self._refused_rows = position
            return None
        if self._by_name is None:
            self._by_name = sorted(self._catalog)
        at = bisect.bisect_left(self._by_name, shards[before[0]].names[before[1]]) + 1
        if at == len(self._by_name) or self._by_name[at] != shards[position[0]].names[position[1]]:
            return None
        if at in self._refused_names:
            return None
        rest = [self._catalog.position(name) for name in self._by_name[at:]]
        if self._is_worth_it(rest):
            return rest
        self._refused_names = range(at, at + len(rest) // 2 + 1)
        return None

    def _after(self, position: tuple[int, int]) -> tuple[int, int]:
        index, row = position
        if row + 1 < len(self._catalog.shards[index].names):
            return index, row + 1
        return index + 1, 0

    def _is_worth_it(self, rest: Sequence[tuple[int, int]]) -> bool:
        """Whether there are enough bytes, and near enough together in their files."""
        asked = between = 0
        for _, _, part in _batches(self._catalog, rest):
            asked += int((part.ends - part.begins).sum())
            between += int(np.minimum(part.begins[1:] - part.ends[:-1], _FAR_BYTES).sum())
        return asked >= _LOOP_BYTES_MIN and between <= _BETWEEN_MAX * asked


def _batches(
    catalog: Catalog, positions: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, list[int], Shard]]:
    """Cut an order into parts that each ascend in one file: a long one where the order does, else
    parts of some bytes, sorted.
    """
    begin = 0
    while begin < len(positions):
        index = positions[begin][0]
        shard = catalog.shards[index]
        end, nbytes, ascending = begin, 0, True
        while end < len(positions) and positions[end][0] == index:
            row = positions[end][1]
            if end > begin and row < positions[end - 1][1]:
                ascending = False
            if not ascending and nbytes > _BATCH_BYTES:
                break
            nbytes += int(shard.ends[row] - shard.begins[row])
            end += 1
        rows = sorted(row for _, row in positions[begin:end])
        yield index, rows, shard.take(rows)
        begin = end
