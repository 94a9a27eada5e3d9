"""The tensors that a format finds in a file, checked and put in the order of their bytes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from fastio.catalog import OneFile, Readable, Shard
from fastio.catalog.dtypes import DTYPES
from fastio.catalog.encodings import StoredPart
from fastio.display.values import shown
from fastio.errors import FormatError
from fastio.formats.columns import COUNT_MAX, DIMENSIONS_MAX


class Row(msgspec.Struct, frozen=True, gc=False):
    """One tensor of a file.

    Attributes
    ----------
    name, dtype : str
    shape : tuple of int
    begin, end : int
        Its extent, in bytes from the start of the file.
    parts : tuple of StoredPart
        Of an encoded tensor, within its extent; empty for a raw one.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    parts: tuple[StoredPart, ...] = ()


def check_shape(path: str, name: str, shape: Sequence[int], offset: int | None = None) -> None:
    """Refuse a shape that no array has.

    Parameters
    ----------
    offset : int, optional
        Where the file has it, for the message.

    Raises
    ------
    FormatError
    """
    problem = None
    if len(shape) > DIMENSIONS_MAX:
        problem, expected = f"has {len(shape)} dimensions", f"at most {DIMENSIONS_MAX}"
    elif any(size < 0 for size in shape):
        problem, expected = f"has the shape {shown(list(shape))}", "whole numbers from 0 on"
    elif math.prod(filter(None, shape)) > COUNT_MAX:
        problem, expected = f"has the shape {shown(list(shape))}", "at most 2**56 values"
    if problem is not None:
        raise FormatError(path, f"tensor {shown(name)} {problem}", offset=offset, expected=expected)


def shard_of(
    file: Readable, rows: Sequence[Row], metadata: Mapping[str, str], first: bytes = b""
) -> Shard:
    """Return the shard of a file that has these tensors and no checksums.

    Parameters
    ----------
    file : Readable
    rows : sequence of Row
        In any order.
    metadata : mapping of str to str
    first : bytes
        Its first bytes; all of a small file.

    Raises
    ------
    FormatError
        If two tensors have one name, or two raw ones share bytes. If a tensor ends behind the end
        of the file, has a shape that no array has, or other bytes than dtype and shape come to.
    """
    for row in rows:
        _check(file, row)
    ordered = sorted(rows, key=lambda row: (row.begin, row.end))
    names = [row.name for row in ordered]
    if len(set(names)) < len(names):
        name = next(a for a, b in itertools.pairwise(sorted(names)) if a == b)
        raise FormatError(file.path, f"has two tensors {shown(name)}", expected="each name once")
    for one, other in itertools.pairwise(row for row in ordered if not row.parts):
        if one.end > other.begin:
            raise FormatError(
                file.path,
                f"tensor {shown(other.name)} shares bytes with {shown(one.name)}",
                offset=other.begin,
                expected=f"byte {one.end} or a later one",
            )
    encodings = {at: row.parts for at, row in enumerate(ordered) if row.parts}
    return Shard(
        files=OneFile(file),
        names=names,
        dtypes=[row.dtype for row in ordered],
        shapes=[row.shape for row in ordered],
        begins=np.array([row.begin for row in ordered], np.int64),
        ends=np.array([row.end for row in ordered], np.int64),
        metadata=dict(metadata),
        content=first if len(first) == file.nbytes and not encodings else None,
        encodings=encodings or None,
    )


def _check(file: Readable, row: Row) -> None:
    check_shape(file.path, row.name, row.shape)
    if row.end > file.nbytes:
        raise FormatError(
            file.path,
            f"tensor {shown(row.name)} ends at byte {row.end} of the file, which has {file.nbytes}",
            offset=row.begin,
            expected="a whole file; is this one cut off?",
        )
    nbytes = math.prod(row.shape) * DTYPES[row.dtype].bits // 8
    if not row.parts and row.end - row.begin != nbytes:
        raise FormatError(
            file.path,
            f"tensor {shown(row.name)} has {row.end - row.begin} bytes",
            offset=row.begin,
            expected=f"{nbytes}, by its dtype {row.dtype} and shape",
        )
