"""The bytes of a part of a tensor, gathered in bounded memory.

They come from a mapping, from kept chunks, or from reads within a window.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

import fastio._native as _native
from fastio.catalog import Shard
from fastio.errors import MemoryLimitError
from fastio.options import Options
from fastio.reading import fetch
from fastio.reading.chunks import Chunks
from fastio.reading.fetch import Count
from fastio.reading.selection import SEGMENT_BYTES_MAX, Selection
from fastio.reading.watch import Watch

# The memory of a part beside its result and kept chunks: segments that are read ahead.
_WINDOW_BYTES = 2**26
# Fewer bytes than these are read at once: a window costs more.
_AT_ONCE_BYTES = 2**24
# Of one job: each takes some hundred bytes while it waits.
_SEGMENTS_MAX = 2**14
# Pages of a mapping that were passed are given back after so many bytes.
_PASSED_BYTES = 2**24
_PAGE_BYTES = 4096

_Bytes = npt.NDArray[np.uint8]
_Range = tuple[int, int]
Run = tuple[Shard, int, int]
"""The bytes [begin, end) of a file."""


class Place(Protocol):
    """The place of the bytes of one tensor. Ranges are [begin, end) of the tensor's bytes."""

    def own(self, begin: int, end: int, item_bytes: int) -> _Bytes | None:
        """Return a range as memory of its own, aligned for items; None where that takes a copy."""

    def each(
        self, ranges: list[_Range], room_bytes: int, selection: Selection
    ) -> Generator[_Bytes, None, None]:
        """Yield ranges, ascending, each to be looked at until the next one is asked for.

        Only bytes of the selection are looked at.
        """


def gather(selection: Selection, place: Place, memory_limit_bytes: int | None) -> _Bytes:
    """Return the bytes of a selection that is not empty.

    It takes 64 MiB at most beside them, or what the limit leaves.

    Raises
    ------
    MemoryLimitError
        The result, and what reading it takes, are above the limit.
    ChecksumError, MemoryError, ReadError, ReplicaError
        As `fastio.load` does.
    """
    room = _WINDOW_BYTES
    if memory_limit_bytes is not None:
        room = min(room, memory_limit_bytes - selection.nbytes)
        if room < 0:
            raise MemoryLimitError(selection.nbytes, memory_limit_bytes)
    together = selection.contiguous()
    if together is not None:
        own = place.own(*together, selection.item_bytes)
        if own is not None:
            return own
    try:
        return _gathered(selection, place, room)
    except MemoryLimitError as error:
        if memory_limit_bytes is None:
            raise
        asked = error.asked_bytes + selection.nbytes
        raise MemoryLimitError(asked, memory_limit_bytes, error.held_bytes) from None


def _gathered(selection: Selection, place: Place, room: int) -> _Bytes:
    out = selection.blank()
    turned = selection.turned(out)
    segments = selection.segments(min(SEGMENT_BYTES_MAX, max(room // 4, 1)))
    while some := list(itertools.islice(segments, _SEGMENTS_MAX)):
        ranges = [(segment.begin, segment.end) for segment in some]
        with contextlib.closing(place.each(ranges, room, selection)) as memories:
            for segment, memory in zip(some, memories, strict=True):
                segment.copy_to(turned, memory)
                del memory
    return out.reshape(-1).view(np.uint8)


class MappedBytes(msgspec.Struct, frozen=True):
    """A tensor of a file that is in the page cache.

    Attributes
    ----------
    mapped : _native.MappedFile
    begin : int
        Of the tensor, from the start of the file.
    shard : Shard
        The file.
    """

    mapped: _native.MappedFile
    begin: int
    shard: Shard

    def own(self, begin: int, end: int, item_bytes: int) -> _Bytes | None:
        """Return a range as pages of its own, which the page cache has already."""
        if (self.begin + begin) % item_bytes:
            return None
        with fetch.errors_named(None, self.shard.path, [self.shard]):
            return self.mapped.read(self.begin + begin, self.begin + end)

    def each(
        self, ranges: list[_Range], room_bytes: int, selection: Selection
    ) -> Generator[_Bytes, None, None]:
        """Yield views of the mapping, and release the pages behind them."""
        passed = ranges[0][0]
        for begin, end in ranges:
            with fetch.errors_named(None, self.shard.path, [self.shard]):
                view = self.mapped.view(self.begin + begin, self.begin + end)
            yield view
            if end - passed > _PASSED_BYTES:
                self.mapped.release(self.begin + passed, self.begin + end)
                passed = end


class PartReader:
    """Reads parts of files that a reader does not map. Several threads may, at once.

    Parameters
    ----------
    watch : Watch or None
        That of the source which the files are of.
    verify, options
        See `fastio.open`.
    count : callable
        Is told what each job counted.
    """

    def __init__(
        self, watch: Watch | None, *, verify: bool, options: Options, count: Count
    ) -> None:
        self._watch = watch
        self._verify = verify
        self._options = options
        self._count = count
        self.chunks = Chunks(options.memory_limit_bytes)

    def kept(self, shard: Shard, ranges: list[_Range]) -> list[_Bytes] | None:
        """Return ranges of a file out of kept chunks, as views of them; None where no chunk is
        verified, or more of them are needed than are kept.

        Raises
        ------
        ChecksumError, MemoryError, MemoryLimitError, ReadError, ReplicaError
            As `fastio.load` does.
        """
        if shard.table is None or not self._verify:
            return None
        return self.chunks.ranges(
            shard, shard.table, ranges, lambda missing: self.at_once(shard, missing)
        )

    def at_once(self, shard: Shard, ranges: list[_Range]) -> list[_Bytes]:
        """Return ranges of a file, ascending, each as memory of its own.

        Raises
        ------
        As `kept` does.
        """
        return self._read(shard, ranges, self._options)

    def _read(self, shard: Shard, ranges: list[_Range], options: Options) -> list[_Bytes]:
        loaded = fetch.extents(self._watch, shard, ranges, verify=self._verify, options=options)
        self._count(loaded.statistics)
        return fetch.arrays(loaded, ranges)

    def each(self, runs: Iterable[Run], room_bytes: int) -> Iterator[_Bytes]:
        """Yield the bytes of runs, those of one file together and ascending, read ahead.

        Raises
        ------
        As `kept` does.
        """
        for _, group in itertools.groupby(runs, key=lambda run: id(run[0])):
            of_file = list(group)
            shard, ranges = of_file[0][0], [(begin, end) for _, begin, end in of_file]
            yield from self._of_file(shard, ranges, room_bytes)

    def _of_file(self, shard: Shard, ranges: list[_Range], room: int) -> Iterator[_Bytes]:
        kept = self.kept(shard, ranges)
        if kept is not None:
            yield from kept
            return
        unit, covered = self._covered(shard, ranges)
        options = self._options
        if ranges[-1][1] - ranges[0][0] > 2 * covered:
            options = replace(options, huge_pages="off")  # each would bring in 2 MiB for one page
        if covered <= min(_AT_ONCE_BYTES, room):
            yield from self._read(shard, ranges, options)
            return
        if 2 * unit > room:  # a segment lies in two units, where it is small
            raise MemoryLimitError(2 * unit, room)
        yield from fetch.windowed(
            self._watch,
            shard,
            ranges,
            verify=self._verify,
            options=options,
            window_bytes=room,
            count=self._count,
        )

    def _covered(self, shard: Shard, ranges: list[_Range]) -> tuple[int, int]:
        """The unit of reading, and how many bytes come in with the ranges."""
        start, unit = 0, _PAGE_BYTES
        if self._verify and shard.table is not None:
            start, unit = shard.table.start, shard.table.chunk_bytes
        reached = units = 0
        for begin, end in ranges:
            first, last = max((begin - start) // unit, reached), -((start - end) // unit)
            units += last - first
            reached = last
        return unit, units * unit


class FileBytes(msgspec.Struct, frozen=True):
    """A tensor that is read: from one file, or piece by piece from several.

    Attributes
    ----------
    reads : PartReader
    runs : callable
        From begin and end of bytes of the tensor to the runs that they are.
    """

    reads: PartReader
    runs: Callable[[int, int], Iterable[Run]]

    def own(self, begin: int, end: int, item_bytes: int) -> _Bytes | None:
        """Return a range that lies in one file, as read there."""
        (shard, first, last), *others = self.runs(begin, end)
        if others or first % item_bytes:
            return None
        # A longer range is most of its own chunks: it is read straight to its place.
        if shard.table is not None and last - first <= shard.table.chunk_bytes:
            kept = self.reads.kept(shard, [(first, last)])
            if kept is not None:
                own: _Bytes = kept[0].copy()
                return own
        return self.reads.at_once(shard, [(first, last)])[0]

    def each(
        self, ranges: list[_Range], room_bytes: int, selection: Selection
    ) -> Generator[_Bytes, None, None]:
        """Yield ranges; one that lies in several files is put together."""
        runs = [list(self.runs(begin, end)) for begin, end in ranges]
        memories = self.reads.each(itertools.chain.from_iterable(runs), room_bytes)
        for parts in runs:
            if len(parts) == 1:
                yield next(memories)
            else:
                yield np.concatenate(list(itertools.islice(memories, len(parts))))
