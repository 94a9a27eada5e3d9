"""The test whether a source has the same bytes for tensors that share memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

import fastio._native as _native
from fastio.display.values import shown
from fastio.errors import UsageError
from fastio.options import Options
from fastio.reading import fetch
from fastio.reading.located import Cut, LocatedSource
from fastio.reading.targets import Target

_PIECE_BYTES = 2**24  # read of each of the two at once
_UINT8 = np.dtype(np.uint8)


class Agreement:
    """Compares tensors of a source, by parts.

    Parameters
    ----------
    located : LocatedSource
    verify : bool
    options : Options

    Attributes
    ----------
    statistics : list of _native.Statistics
        Of what was read.
    """

    def __init__(self, located: LocatedSource, *, verify: bool, options: Options) -> None:
        self._located = located
        self._verify = verify
        # A piece is read on its own, and small against the least limit that fills anything.
        self._options = replace(options, memory_limit_bytes=None)
        self.statistics: list[_native.Statistics] = []

    def check(self, same: Mapping[str, Target], targets: Mapping[str, Target]) -> None:
        """Refuse two names of the same memory for which the source has different bytes.

        Parameters
        ----------
        same : mapping of str to Target
            Names that are the same memory as another one, or a range of it, each with that one.
        targets : mapping of str to Target
            All of them.

        Raises
        ------
        UsageError
            Names both.
        ChecksumError, MemoryError, ReadError, ReplicaError
            As `fastio.load` does.
        """
        for name, first in same.items():
            if not self._is_equal(targets[name], first):
                raise UsageError(
                    f"tensors {shown(first.name)} and {shown(name)} overlap: they are the same "
                    f"memory, and {self._located.source} has other bytes for one than for the other"
                )

    def _is_equal(self, one: Target, other: Target) -> bool:
        nbytes = self._located.info(one.name).nbytes
        if one.layout == other.layout or one.lies_in(other):
            ahead = one.begin - other.begin
            ranges = [
                (begin, min(begin + _PIECE_BYTES, nbytes))
                for begin in range(0, nbytes, _PIECE_BYTES)
            ]
            return all(
                np.array_equal(
                    self._read(one.name, begin, end),
                    self._read(other.name, ahead + begin, ahead + end),
                )
                for begin, end in ranges
            )
        # Transposed: as the memory would be filled by each of them.
        return np.array_equal(self._laid_out(one, nbytes), self._laid_out(other, nbytes))

    def _laid_out(self, target: Target, nbytes: int) -> npt.NDArray[np.uint8]:
        place = target.place
        memory = np.empty(nbytes, np.uint8)
        shape = (*place.shape, place.item_bytes)
        view: npt.NDArray[np.uint8] = np.ndarray(
            shape, np.uint8, memory, place.address - target.begin, (*place.strides, 1)
        )
        view[...] = self._read(target.name, 0, nbytes).reshape(shape)
        return memory

    def _read(self, name: str, begin: int, end: int) -> npt.NDArray[np.uint8]:
        parts: list[npt.NDArray[Any]] = []
        for shard, at, until in self._extents(name, begin, end):
            loaded = fetch.extents(
                self._located.watch,
                shard,
                [(at, until)],
                verify=self._verify,
                options=self._options,
            )
            self.statistics.append(loaded.statistics)
            parts += loaded.numpy(0, [_UINT8], [(until - at,)])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _extents(self, name: str, begin: int, end: int) -> Iterator[tuple[Any, int, int]]:
        position = self._located.position(name)
        if isinstance(position, Cut):
            yield from position.extents(begin, end)
            return
        index, row = position
        shard = self._located.catalog.shards[index]
        at = int(shard.begins[row])
        yield shard, at + begin, at + end
