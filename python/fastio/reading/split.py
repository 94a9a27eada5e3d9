"""A tensor whose pieces lie in several shards, read into one piece of memory."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import fastio._native as _native
from fastio.catalog.dtypes import shape_in_memory
from fastio.errors import MemoryLimitError
from fastio.frameworks import Framework, Place
from fastio.options import Options
from fastio.reading import fetch
from fastio.reading.located import Cut, LocatedSource

_LARGE_BYTES = 2**16
_HUGE_BYTES = 2**21


def read(
    located: LocatedSource,
    cut: Cut,
    framework: Framework,
    *,
    verify: bool,
    options: Options,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Any, _native.Statistics]:
    """Return a whole tensor of a source, of its own memory, and what was counted.

    Raises
    ------
    ChecksumError, MemoryError, MemoryLimitError, ReadError, ReplicaError
        As `fastio.load` does.
    """
    limit = options.memory_limit_bytes
    if limit is not None and cut.nbytes > limit:
        raise MemoryLimitError(cut.nbytes, limit)
    held = memory(cut.nbytes, huge_pages=options.huge_pages != "off")
    fill = _native.Fill(
        [fetch.request(piece, verify=verify) for piece in cut.pieces],
        [[place] for place in places(cut, _flat(held))],
        options,
        keep_cold=located.keep_cold,
        persistent=located.is_persistent,
    )
    with fetch.errors_named(located.watch, cut.name, cut.pieces, fill.incidents):
        fetch.within_limit(lambda: fill.run(progress))
    return framework.adopt(held, cut.dtype, shape_in_memory(cut.dtype, cut.shape)), fill.statistics


def places(cut: Cut, whole: Place) -> list[Place]:
    """Return where each piece goes: rows of the place of the whole tensor.

    Parameters
    ----------
    cut : Cut
    whole : Place
        Of the tensor as frameworks count it; or of all its bytes, one behind the other.

    Raises
    ------
    Nothing.
    """
    of_pieces = []
    reached = 0
    is_flat = whole.item_bytes == 1 and whole.shape == (cut.nbytes,)
    for piece in cut.pieces:
        count = int(piece.ends[0] - piece.begins[0]) if is_flat else piece.shapes[0][0]
        of_pieces.append(
            whole._replace(
                address=whole.address + reached * whole.strides[0],
                shape=(count, *whole.shape[1:]),
            )
        )
        reached += count
    return of_pieces


def _flat(memory: npt.NDArray[np.uint8]) -> Place:
    return Place(_native.address_of(memory), 1, memory.shape, (1,))


def memory(nbytes: int, *, huge_pages: bool) -> npt.NDArray[np.uint8]:
    """Return memory that direct reads can go to: it begins with a page, a huge one if it may.

    Raises
    ------
    OSError
        If there is none.
    """
    if nbytes < _LARGE_BYTES:
        return np.empty(nbytes, np.uint8)
    unit = _HUGE_BYTES if huge_pages and nbytes >= _HUGE_BYTES else mmap.PAGESIZE
    pages = mmap.mmap(-1, nbytes + unit, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if unit == _HUGE_BYTES:
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    whole: npt.NDArray[np.uint8] = np.frombuffer(pages, np.uint8)
    begin = -_native.address_of(whole) % unit
    return whole[begin : begin + nbytes]
