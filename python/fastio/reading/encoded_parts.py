"""Parts of an encoded tensor: only the stored parts around them are read and decoded."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence

import numpy as np

from fastio.catalog import Shard
from fastio.catalog.dtypes import DTYPES, shape_in_memory
from fastio.catalog.encodings import StoredPart
from fastio.errors import MemoryLimitError
from fastio.reading.decoding import Account, Box, Bytes, Decoded
from fastio.reading.parts import PartReader
from fastio.reading.selection import Selection
from fastio.reading.tally import Tally


class EncodedBytes:
    """A tensor that is decoded, as far as its bytes are asked for: a `fastio.reading.parts.Place`.

    Parameters
    ----------
    reads : PartReader
    shard : Shard
    row : int
        Of the tensor in the shard.
    memory_limit_bytes : int or None
        Whether decoded parts count against the room that there is.
    tally : Tally
    """

    def __init__(
        self,
        reads: PartReader,
        shard: Shard,
        row: int,
        memory_limit_bytes: int | None,
        tally: Tally,
    ) -> None:
        self._reads = reads
        self._shard = shard
        self._row = row
        self._is_limited = memory_limit_bytes is not None
        self._tally = tally
        dtype = shard.dtypes[row]
        inner = shape_in_memory(dtype, shard.shapes[row])[1:]
        self._row_bytes = math.prod(inner) * DTYPES[dtype].align_bytes
        self._decoded = Decoded(shard, row)  # pages that no part comes to take no memory
        parts = shard.parts_of(row) or ()
        self._missing = sorted(parts, key=lambda part: part.begin)
        self._held_bytes = 0

    def own(self, begin: int, end: int, item_bytes: int) -> Bytes | None:
        """Return None: what is decoded is copied from."""
        return None

    def each(
        self, ranges: list[tuple[int, int]], room_bytes: int, selection: Selection
    ) -> Generator[Bytes, None, None]:
        """Yield ranges, ascending, as views of the tensor, whose parts are decoded for them.

        Raises
        ------
        FormatError
            A part cannot be decoded.
        ChecksumError, MemoryError, MemoryLimitError, ReadError
            As `fastio.load` does.
        """
        needed = self._needed(ranges, selection)
        taken = set(map(id, needed))
        self._missing = [part for part in self._missing if id(part) not in taken]
        self._decode(needed, room_bytes)
        memory = self._decoded.memory()
        for begin, end in ranges:
            yield memory[begin:end]

    def _needed(self, ranges: Sequence[tuple[int, int]], selection: Selection) -> list[StoredPart]:
        """The missing parts that the selection meets, with bytes of these ranges or of the same
        rows of axis 0.
        """
        firsts = [begin // self._row_bytes for begin, _ in ranges]
        lasts = [-(-end // self._row_bytes) for _, end in ranges]
        found = []
        for part in self._missing:
            box = Box(self._shard, self._row, part)
            first, last = box.rows
            at = int(np.searchsorted(lasts, first, side="right"))
            if at < len(firsts) and firsts[at] < last and selection.meets(box.start, box.shape):
                found.append(part)
        return found

    def _decode(self, needed: Sequence[StoredPart], room_bytes: int) -> None:
        if not needed:
            return
        self._held_bytes += sum(Box(self._shard, self._row, part).nbytes for part in needed)
        if self._is_limited:
            largest = max(part.end - part.begin for part in needed)
            if self._held_bytes + largest > room_bytes:
                raise MemoryLimitError(self._held_bytes + largest, room_bytes)
            room_bytes -= self._held_bytes
        with self._tally.job():
            for parts in _apart(needed):
                runs = [(self._shard, part.begin, part.end) for part in parts]
                memories = self._reads.each([run for run in runs if run[1] < run[2]], room_bytes)
                for part in parts:
                    stored = next(memories) if part.begin < part.end else np.empty(0, np.uint8)
                    self._decoded.decode(part, stored)
        account = Account()
        account.note(self._shard, self._row, needed)
        self._tally.decoded(account.decodings())


def _apart(parts: Sequence[StoredPart]) -> Iterator[list[StoredPart]]:
    """Cut parts, by begin, into groups that do not overlap in the file."""
    group: list[StoredPart] = []
    for part in parts:
        if group and part.begin < group[-1].end:
            yield group
            group = []
        group.append(part)
    if group:
        yield group
