"""Verified chunks that are kept for a while: for the neighbours of a small tensor, and of a row."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from fastio.catalog import Shard
from fastio.catalog.table import ChecksumTable

CACHED_BYTES_MAX = 2**23

_Bytes = npt.NDArray[np.uint8]
_Range = tuple[int, int]
Read = Callable[[list[_Range]], list[_Bytes]]
"""Reads and verifies [begin, end) ranges of a file, ascending."""


class Chunks:
    """The verified chunks that were used last. Several threads may use them at once.

    The arrays that it returns are views of what is kept: they are copied, and never handed out.

    Parameters
    ----------
    memory_limit_bytes : int or None
        Of the options: no more than a quarter of it is kept.
    """

    def __init__(self, memory_limit_bytes: int | None) -> None:
        limit = CACHED_BYTES_MAX if memory_limit_bytes is None else memory_limit_bytes // 4
        self._nbytes_max = min(CACHED_BYTES_MAX, limit)
        self._kept: OrderedDict[tuple[str, int], _Bytes] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()
        _alive.add(self)

    def ranges(
        self, shard: Shard, table: ChecksumTable, ranges: Sequence[_Range], read: Read
    ) -> list[_Bytes] | None:
        """Return the bytes of [begin, end) ranges of a file, of chunks that are kept, or are read
        and kept now. None for ranges whose chunks are more than are kept.

        Raises
        ------
        Whatever `read` does.
        """
        start, unit = table.start, table.chunk_bytes
        touched = [range((at - start) // unit, (end - 1 - start) // unit + 1) for at, end in ranges]
        numbers = {number for some in touched for number in some}
        if len(numbers) * unit > self._nbytes_max:
            return None
        chunks = self._take(shard.path, numbers)
        missing = sorted(numbers.difference(chunks))
        if missing:
            bounds = [
                (start + number * unit, min(start + (number + 1) * unit, shard.files.nbytes))
                for number in missing
            ]
            fresh = dict(zip(missing, read(bounds), strict=True))
            self._put(shard.path, fresh)
            chunks.update(fresh)
        return [
            _joined(
                chunks[number][max(at - first, 0) : end - first]
                for number in some
                for first in (start + number * unit,)
            )
            for some, (at, end) in zip(touched, ranges, strict=True)
        ]

    def _take(self, path: str, numbers: Iterable[int]) -> dict[int, _Bytes]:
        found: dict[int, _Bytes] = {}
        with self._lock:
            for number in numbers:
                chunk = self._kept.get((path, number))
                if chunk is not None:
                    self._kept.move_to_end((path, number))
                    found[number] = chunk
        return found

    def _put(self, path: str, chunks: dict[int, _Bytes]) -> None:
        with self._lock:
            for number, chunk in chunks.items():
                other = self._kept.pop((path, number), None)  # of a thread that read it as well
                self._kept[path, number] = chunk
                self._nbytes += chunk.nbytes - (0 if other is None else other.nbytes)
            while self._nbytes > self._nbytes_max:
                _, oldest = self._kept.popitem(last=False)
                self._nbytes -= oldest.nbytes

    def clear(self) -> None:
        """Keep nothing of what is kept now."""
        with self._lock:
            self._kept.clear()
            self._nbytes = 0

    def after_fork(self) -> None:
        """In a child: the thread that holds the lock, perhaps half-way, is not there."""
        self._lock = threading.Lock()
        self.clear()


def _joined(parts: Iterable[_Bytes]) -> _Bytes:
    first, *others = parts
    return np.concatenate((first, *others)) if others else first


_alive: weakref.WeakSet[Chunks] = weakref.WeakSet()


def _after_fork() -> None:
    for chunks in list(_alive):
        chunks.after_fork()


os.register_at_fork(after_in_child=_after_fork)
