"""Arrays whose values lie in another order than in memory: by columns, or big-endian."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastio.catalog.encodings import Encoding, StoredPart

# A slice reads whole parts, and each is decoded by one thread.
_PART_BYTES = 2**22


class ArrayOrder:
    """The order of a box of values in a file.

    Parameters
    ----------
    dtype : numpy.dtype
        In the file's byte order.
    shape : tuple of int
        Of the box.
    turned : int
        How many axes are in Fortran order: of these first ones, the first index runs fastest.
    """

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...], turned: int) -> None:
        self._dtype = dtype
        self._shape = shape
        self._turned = turned

    @property
    def name(self) -> str:
        """As reports have it."""
        orders = ["Fortran order"] if self._turned else []
        orders += [] if self._dtype.isnative else ["big-endian"]
        return ", ".join(orders)

    def decode(self, stored: memoryview, out: memoryview) -> int:
        """Copy the values to their places in memory.

        Raises
        ------
        ValueError
            Bytes for another number of values.
        """
        turned, shape = self._turned, self._shape
        values = np.frombuffer(stored, self._dtype).reshape(
            (*shape[:turned][::-1], *shape[turned:])
        )
        axes = (*reversed(range(turned)), *range(turned, len(shape)))
        place = np.frombuffer(out, self._dtype.newbyteorder("=")).reshape(shape)
        place[...] = values.transpose(axes)
        return place.nbytes


class Reordered:
    """An encoding of values that lie in another order once they are decoded.

    Parameters
    ----------
    encoding : Encoding
    order : ArrayOrder
        Of the decoded values.
    """

    def __init__(self, encoding: Encoding, order: ArrayOrder) -> None:
        self._encoding = encoding
        self._order = order

    @property
    def name(self) -> str:
        """As reports have it."""
        return f"{self._encoding.name}, {self._order.name}"

    def decode(self, stored: memoryview, out: memoryview) -> int:
        """Decode, then copy the values to their places in memory.

        Raises
        ------
        Exception
            As the encoding does.
        """
        values = np.zeros(len(out), np.uint8)
        count = self._encoding.decode(stored, values.data)
        return self._order.decode(values.data, out) if count == len(out) else count


def parts(
    begin: int, dtype: np.dtype[Any], shape: tuple[int, ...], turned: int
) -> Iterator[StoredPart]:
    """Yield the parts of an array in a file, along the index that runs slowest there.

    Parameters
    ----------
    begin : int
        Of the array, in bytes from the start of the file.
    dtype : numpy.dtype
        In the file's byte order.
    shape : tuple of int
        Without a zero.
    turned : int
        How many axes are in Fortran order, as `ArrayOrder` has it.
    """
    if not shape:
        yield StoredPart(begin, begin + dtype.itemsize, ArrayOrder(dtype, shape, turned))
        return
    axis = max(turned - 1, 0)
    slab_bytes = math.prod(shape) // shape[axis] * dtype.itemsize
    count = max(_PART_BYTES // slab_bytes, 1)
    for at in range(0, shape[axis], count):
        box = list(shape)
        box[axis] = min(count, shape[axis] - at)
        start = [0] * len(shape)
        start[axis] = at
        yield StoredPart(
            begin + at * slab_bytes,
            begin + (at + box[axis]) * slab_bytes,
            ArrayOrder(dtype, tuple(box), turned),
            tuple(start),
            tuple(box),
        )
