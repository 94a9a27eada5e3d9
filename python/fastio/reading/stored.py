"""The stored bytes of encoded tensors: their extents in the order of a job, the memory needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fastio.catalog import Catalog, Shard, TensorInfo
from fastio.catalog.encodings import StoredPart
from fastio.display.values import shown
from fastio.errors import UsageError
from fastio.host.cores import usable_cores
from fastio.reading.decoding import Box
from fastio.reading.located import LocatedSource

_PAGE_BYTES = 4096


def is_any(shards: Iterable[Shard]) -> bool:
    """Return whether a tensor of these shards is encoded.

    Raises
    ------
    Nothing.
    """
    return any(shard.encodings for shard in shards)


def apart(located: LocatedSource) -> tuple[LocatedSource, Catalog | None]:
    """Return the raw tensors of a source, and the encoded ones; None where there are none.

    Raises
    ------
    Nothing.
    """
    if not is_any(located.shards):
        return located, None
    shards = located.catalog.shards
    encoded = {shard.names[row] for shard in shards for row in shard.encodings or ()}
    raw = [name for name in located if name not in encoded]
    return located.select(raw), located.catalog.select(encoded)


def not_on_device(info: TensorInfo) -> UsageError:
    """Return the error for an encoded tensor that is to go to an accelerator.

    Raises
    ------
    Nothing.
    """
    return UsageError(
        f"{info.path}: tensor {shown(info.name)} is encoded, and is decoded into memory of the "
        "host: load it to the CPU, then move it"
    )


class Need(NamedTuple):
    """The memory that a catalog's encoded tensors take while they are read.

    Attributes
    ----------
    tensor_bytes : int
        Of the largest one.
    scratch_bytes : int
        For parts that are not decoded straight to their place.
    stored_bytes : int
        For the largest extent of the file that is read at once.
    least_bytes : int
        The least window that reads anything: one chunk.
    """

    tensor_bytes: int
    scratch_bytes: int
    stored_bytes: int
    least_bytes: int

    @property
    def all_bytes(self) -> int:
        """For the largest tensor alone."""
        return self.tensor_bytes + self.scratch_bytes + self.stored_bytes

    @classmethod
    def of(cls, catalog: Catalog, *, verify: bool) -> Need:
        """Return what the encoded tensors of a catalog need."""
        tensor = scratch = stored = chunk = 0
        for shard in catalog.shards:
            unit = shard.table.chunk_bytes if verify and shard.table is not None else _PAGE_BYTES
            chunk = max(chunk, unit)
            for row, parts in (shard.encodings or {}).items():
                tensor = max(tensor, shard.nbytes_of(row))
                boxes = [Box(shard, row, part) for part in parts]
                indirect = [box.nbytes for box in boxes if not box.is_contiguous]
                if indirect:
                    scratch = max(scratch, max(indirect) * min(len(indirect), usable_cores()))
                for part in parts:
                    stored = max(stored, part.end - part.begin + 2 * unit)
        return cls(tensor, scratch, max(stored, chunk), chunk)


class Row(NamedTuple):
    """One extent of a job: a raw tensor, or a part of an encoded one.

    `is_first` and `is_last` say whether it is the first or last one of its tensor.
    """

    shard: int
    row: int
    part: StoredPart | None
    is_first: bool = True
    is_last: bool = True


def ascending(
    catalog: Catalog,
) -> Iterator[tuple[Shard, list[Row], list[tuple[int, int]]]]:
    """Yield what a job reads: tensor by tensor, cut where the extents of a file do not ascend."""
    for index, shard in enumerate(catalog.shards):
        rows: list[Row] = []
        extents: list[tuple[int, int]] = []
        reached = int(shard.begins[0]) if shard.names else 0
        for row, begin, end in _extents(index, shard):
            extent = begin, end
            if begin == end:  # an empty one may be anywhere
                extent = reached, reached
            elif begin < reached:
                yield shard, rows, extents
                rows, extents = [], []
            rows.append(row)
            extents.append(extent)
            reached = extent[1]
        yield shard, rows, extents


def _extents(index: int, shard: Shard) -> Iterator[tuple[Row, int, int]]:
    begins, ends = shard.begins.tolist(), shard.ends.tolist()
    for row, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        parts = shard.parts_of(row)
        if not parts:
            yield Row(index, row, None), begin, end if parts is None else begin
            continue
        ordered = sorted(parts, key=lambda part: part.begin)
        for part in ordered:
            is_first, is_last = part is ordered[0], part is ordered[-1]
            yield Row(index, row, part, is_first, is_last), part.begin, part.end
