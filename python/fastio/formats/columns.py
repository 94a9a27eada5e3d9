"""The tensors of a header, as columns; numbers that do not fit the data are refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt

import fastio._native as _native
from fastio.catalog.dtypes import DTYPES
from fastio.display.values import shown
from fastio.errors import FormatError
from fastio.formats import strict_json

# Limits of _native.tensor_columns.
DIMENSIONS_MAX = 64  # numpy and torch hold no more
COUNT_MAX = 2**56  # values of one tensor: keeps their bits within 64-bit integers
_BITS = {dtype.name: dtype.bits for dtype in DTYPES.values()}

_Size = Annotated[int, msgspec.Meta(ge=0)]
if TYPE_CHECKING:
    _DtypeName = str
else:
    _DtypeName = Literal[tuple(DTYPES)]  # each name decodes to one object, and none is made for it


class Entry(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The entry of one tensor in a header."""

    dtype: _DtypeName
    shape: tuple[_Size, ...]
    data_offsets: tuple[_Size, _Size]


Columns = tuple[
    list[str],
    list[str],
    list[tuple[int, ...]],
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
]
"""Names, dtypes, shapes, begins and ends of tensors, in the order of their bytes."""


class Header(msgspec.Struct, frozen=True):
    """A header that is valid JSON of the right types; its numbers are not yet looked at.

    `raw` is the file up to the first byte of its data.
    """

    path: str
    raw: bytes
    entries: dict[str, Entry]
    metadata: dict[str, str]

    def refuse(self, name: str, problem: str, expected: str) -> FormatError:
        """The error for one tensor."""
        at = strict_json.position(self.raw, name)
        return FormatError(
            self.path, f"tensor {shown(name)} {problem}", offset=at, expected=expected
        )


def columns_of(header: Header, data_bytes: int) -> Columns:
    """Return names, dtypes, shapes, begins and ends (from the start of the data), in its order.

    Raises
    ------
    FormatError
        If they do not cover the data, each with the bytes of its dtype and shape.
    """
    names = list(header.entries)
    columns = _native.tensor_columns(list(header.entries.values()), _BITS, data_bytes)
    dtypes, shapes, begins, ends, counts, sound = columns
    if sound:
        return names, dtypes, shapes, begins, ends
    # Out of order, which is valid; or wrong.
    if np.any((begins < 0) | (ends < begins) | (ends > data_bytes)):
        _refuse_offsets(header, data_bytes)
    if np.any(counts < 0):
        _refuse_shapes(header)
    _check_sizes(header, names, dtypes, counts, ends - begins)
    if not (np.all(begins[1:] >= begins[:-1]) and np.all(ends[1:] >= ends[:-1])):
        # A tensor of no bytes comes before the one that begins there.
        order = np.lexsort((ends, begins))
        rows = order.tolist()
        begins, ends = begins[order], ends[order]
        names, dtypes = [names[row] for row in rows], [dtypes[row] for row in rows]
        shapes = [shapes[row] for row in rows]
    _check_cover(header, names, begins, ends, data_bytes)
    return names, dtypes, shapes, begins, ends


def _refuse_offsets(header: Header, data_bytes: int) -> NoReturn:
    for name, entry in header.entries.items():
        begin, end = entry.data_offsets
        if begin > end:
            raise header.refuse(name, f"ends at {end}, before it begins at {begin}", "begin <= end")
        if end > data_bytes:
            raise header.refuse(
                name,
                f"ends at byte {end} of the data, which has {data_bytes} bytes",
                "a whole file; is this one cut off?",
            )
    raise AssertionError("offsets were refused, and none of them is wrong")


def _refuse_shapes(header: Header) -> NoReturn:
    for name, entry in header.entries.items():
        if len(entry.shape) > DIMENSIONS_MAX:
            raise header.refuse(
                name, f"has {len(entry.shape)} dimensions", f"at most {DIMENSIONS_MAX}"
            )
        if math.prod(filter(None, entry.shape)) > COUNT_MAX:
            raise header.refuse(
                name, f"has the shape {shown(list(entry.shape))}", "at most 2**56 values"
            )
    raise AssertionError("a shape was refused, and none of them is wrong")


def _check_sizes(
    header: Header,
    names: list[str],
    dtypes: list[str],
    counts: npt.NDArray[np.int64],
    nbytes: npt.NDArray[np.int64],
) -> None:
    """Refuse an unknown dtype, and a dtype and shape that do not match the bytes."""
    unknown = set(dtypes) - _BITS.keys()
    if unknown:
        row = next(row for row, dtype in enumerate(dtypes) if dtype in unknown)
        raise header.refuse(
            names[row],
            f"has the unknown dtype {shown(dtypes[row])}",
            f"one of {', '.join(DTYPES)}",
        )
    bits = np.fromiter(map(_BITS.__getitem__, dtypes), np.int64, len(names))
    wrong = np.flatnonzero(counts * bits != nbytes * 8)
    if wrong.size:
        row = int(wrong[0])
        raise header.refuse(
            names[row],
            f"has {nbytes[row]} bytes",
            f"{int(counts[row]) * int(bits[row]) / 8:g}, by its dtype {dtypes[row]} and shape",
        )


def _check_cover(
    header: Header,
    names: list[str],
    begins: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    data_bytes: int,
) -> None:
    """Refuse overlaps, holes and bytes that no tensor has; `begins` and `ends` are sorted."""
    expected = np.concatenate((np.zeros(1, np.int64), ends))
    wrong = np.flatnonzero(np.append(begins, data_bytes) != expected)
    if not wrong.size:
        return
    row = int(wrong[0])
    at = int(expected[row])
    if row == len(names):
        raise FormatError(
            header.path,
            f"has {data_bytes - at} bytes behind its last tensor",
            offset=len(header.raw) + at,
            expected="the end of the file",
        )
    what = "overlaps the one before it" if begins[row] < at else "leaves a hole before it"
    raise header.refuse(names[row], f"begins at byte {begins[row]} of the data and {what}", f"{at}")
