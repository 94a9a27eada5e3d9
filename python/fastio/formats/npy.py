"""NumPy's ``.npy`` files: one array, named by its file.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. numpy parses the header. An
array in C order and of this machine's byte order lies there as it does in memory.

Some dtypes have no equal among tensors. Byte strings (``S5``) become U8, with one more axis of the
length of a string. Text (``U5``) becomes U32, the code points, likewise. Dates and durations become
I64. ``V2`` becomes BF16, since numpy.save writes that for the bfloat16 of ml_dtypes.

The metadata has the dtypes that numpy calls otherwise, at ``numpy.dtypes``: a JSON object by name.
"""

from __future__ import annotations

import io
import json
import math
import os
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastio.catalog import Readable, Shard
from fastio.catalog.encodings import StoredPart
from fastio.display.values import shown
from fastio.errors import FormatError
from fastio.formats import array_order
from fastio.formats.rows import Row, check_shape, shard_of
from fastio.frameworks.numpy import NAMES

DTYPES_KEY = "numpy.dtypes"
# numpy takes no longer ones without a word (max_header_size), and 12 bytes come before it.
HEADER_BYTES_MAX = 10_000 + 12
_OBJECTS = "has Python objects, which only pickle reads: it may run code"
_BF16 = "BF16"


class Header(NamedTuple):
    """The header of an array.

    Attributes
    ----------
    nbytes : int
        Of the header itself, from the magic on.
    stored : numpy.dtype
        Of the values in the file, with its byte order.
    dtype : str
        As fastio calls it.
    shape : tuple of int
    turned : int
        How many axes are in Fortran order: of these first ones, the first index runs fastest.
    called : str or None
        numpy's name of a dtype that fastio hands out as another one.
    """

    nbytes: int
    stored: np.dtype[Any]
    dtype: str
    shape: tuple[int, ...]
    turned: int
    called: str | None

    @property
    def is_raw(self) -> bool:
        """Whether the bytes in the file are those in memory."""
        return not self.turned and self.stored.isnative

    @property
    def data_bytes(self) -> int:
        """Of all values."""
        return math.prod(self.shape) * self.stored.itemsize


def locate(file: Readable, first: bytes) -> Shard:
    """Say where the array of a file lies.

    Parameters
    ----------
    file : Readable
        Stays open.
    first : bytes
        Its first bytes.

    Raises
    ------
    FormatError
        If the file is not valid, has another size than its array, or an array of a dtype that no
        tensor has.
    """
    name = os.path.basename(file.path).removesuffix(".npy")
    header = parse(first[:HEADER_BYTES_MAX], file.path, name, 0)
    end = header.nbytes + header.data_bytes
    if end < file.nbytes:
        raise FormatError(
            file.path,
            f"has {file.nbytes - end} bytes behind its array",
            offset=end,
            expected="one array; numpy.load reads several from an open file, one a call",
        )
    row = row_of(header, name, header.nbytes)
    return shard_of(file, [row], metadata({name: header}), first)


def parse(raw: bytes, path: str, name: str, at: int) -> Header:
    """Parse the header of an array.

    Parameters
    ----------
    raw : bytes
        From its magic on, `HEADER_BYTES_MAX` or all that there is.
    path, name : str
        For messages.
    at : int
        Where in the file it begins, or what holds it.

    Raises
    ------
    FormatError
    """
    text = io.BytesIO(raw)
    try:
        with warnings.catch_warnings():
            # Of Python 2, whose long integers are understood.
            warnings.simplefilter("ignore", UserWarning)
            version = np.lib.format.read_magic(text)
            outer, is_fortran, stored = _READERS[version](text)
    except Exception as error:  # of its tokens, its literals, its dtype, its length
        problem = f"array {shown(name)} has a header that numpy refuses: {shown(str(error))}"
        raise FormatError(path, problem, offset=at, expected="a header of numpy") from error
    check_shape(path, name, outer, at)
    header = header_of(path, name, at, stored, outer)
    flat = math.prod(outer) == 0 or sum(size > 1 for size in outer) < 2
    turned = len(outer) if is_fortran and not flat else 0
    return header._replace(nbytes=text.tell(), turned=turned)


def header_of(
    path: str, name: str, at: int | None, stored: np.dtype[Any], shape: tuple[int, ...]
) -> Header:
    """Return what a header says of an array in C order, whose dtype and shape are known.

    Parameters
    ----------
    path, name : str
        For messages.
    at : int or None
        Where in the file it is said, for messages.

    Raises
    ------
    FormatError
        No tensor has such a dtype.
    """
    dtype, shape, unit, called = _named(path, name, at, stored, shape)
    return Header(0, unit, dtype, shape, 0, called)


_READERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _named(
    path: str, name: str, at: int | None, stored: np.dtype[Any], shape: tuple[int, ...]
) -> tuple[str, tuple[int, ...], np.dtype[Any], str | None]:
    """The dtype, as fastio calls it, and what it makes of shape and values in the file."""
    problem = None
    if stored.hasobject:
        problem = _OBJECTS
    elif stored.subdtype is not None:
        problem = f"has arrays as its values: {shown(str(stored))}"
    elif stored.kind in "SU" and stored.itemsize:
        unit = np.dtype(np.uint8) if stored.kind == "S" else np.dtype(np.uint32)
        unit = unit.newbyteorder(stored.byteorder)
        length = stored.itemsize // unit.itemsize
        return f"U{8 * unit.itemsize}", (*shape, length), unit, stored.str
    elif stored.kind in "mM":
        return "I64", shape, np.dtype(np.int64).newbyteorder(stored.byteorder), stored.str
    elif stored.kind == "V" and stored.names is None and stored.itemsize == 2:
        return _BF16, shape, np.dtype(np.uint16), None
    elif stored.newbyteorder("=") not in NAMES:
        problem = f"has the dtype {shown(str(stored))}, which no tensor has"
    if problem is None:
        return NAMES[stored.newbyteorder("=")], shape, stored, None
    expected = f"one of {', '.join(sorted(str(dtype) for dtype in NAMES if dtype.isbuiltin == 1))}"
    raise FormatError(path, f"array {shown(name)} {problem}", offset=at, expected=expected)


def metadata(headers: Mapping[str, Header]) -> dict[str, str]:
    """Return what no user sees from dtypes and shapes."""
    dtypes = {name: header.called for name, header in headers.items() if header.called is not None}
    return {DTYPES_KEY: json.dumps(dtypes)} if dtypes else {}


def row_of(header: Header, name: str, begin: int) -> Row:
    """Return the row of an array whose values begin at a byte of the file."""
    parts: tuple[StoredPart, ...] = ()
    if not header.is_raw and header.data_bytes:
        parts = tuple(array_order.parts(begin, header.stored, header.shape, header.turned))
    return Row(name, header.dtype, header.shape, begin, begin + header.data_bytes, parts)
