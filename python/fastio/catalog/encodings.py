"""Encodings: the bytes of a tensor in its file, where they differ from those in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

from fastio.display import values


class Encoding(Protocol):
    """How bytes of a tensor are stored in a file. Several threads may decode with one at once."""

    @property
    def name(self) -> str:
        """The name in reports and messages, such as ``deflate``."""

    def decode(self, stored: memoryview, out: memoryview) -> int:
        """Decode stored bytes into `out`, and return how many bytes were written.

        It raises any exception for bytes that it cannot decode, for bytes behind the end of the
        encoded ones, and as soon as more than ``len(out)`` bytes would come. The caller refuses a
        count other than ``len(out)``, and names the file and the tensor.

        Parameters
        ----------
        stored : memoryview
            (n,) uint8, read-only. It is not valid after the call.
        out : memoryview
            (m,) uint8, zeros. It is not valid after the call.
        """


class StoredPart(msgspec.Struct, frozen=True):
    """A part of a tensor, and the extent of the file that is decoded to it.

    Attributes
    ----------
    begin, end : int
        The extent, in bytes from the start of the file, and within it. An empty one is decoded,
        too: to a fill value, perhaps.
    encoding : Encoding
    start, shape : tuple of int, or None
        The box that the part is decoded to, in the tensor as it lies in memory: the index of its
        first value, and its shape. Values outside the tensor are dropped. None: all of the tensor.
    """

    begin: int
    end: int
    encoding: Encoding
    start: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None


Encodings: TypeAlias = Mapping[int, tuple[StoredPart, ...]]
"""The encoded tensors of a shard, by row; values that no part has are zeros."""


def taken(encodings: Encodings | None, rows: Sequence[int]) -> Encodings | None:
    """Return those of some rows, which are counted from 0 then; None if all of these are raw."""
    if encodings is None:
        return None
    found = {at: encodings[row] for at, row in enumerate(rows) if row in encodings}
    return found or None


def has_bytes_in(parts: Sequence[StoredPart] | None, offset: int, nbytes: int) -> bool:
    """Return whether a tensor that reaches over an extent has bytes there: a raw one has."""
    return parts is None or any(
        part.begin < offset + nbytes and offset < part.end for part in parts
    )


class Decoding(msgspec.Struct, frozen=True):
    """The tensors that one encoding has decoded.

    Attributes
    ----------
    encoding : str
        Its name, such as ``deflate``.
    tensors : tuple of str
        Their names, each once.
    stored_bytes : int
        Bytes of the file that were decoded.
    nbytes : int
        Bytes that they came to.
    """

    encoding: str
    tensors: tuple[str, ...]
    stored_bytes: int
    nbytes: int

    def plus(self, other: Decoding) -> Decoding:
        """Return the sum of both, of one encoding."""
        return Decoding(
            self.encoding,
            tuple(dict.fromkeys((*self.tensors, *other.tensors))),
            self.stored_bytes + other.stored_bytes,
            self.nbytes + other.nbytes,
        )

    def __str__(self) -> str:
        stored, nbytes = values.size(self.stored_bytes), values.size(self.nbytes)
        tensors = values.counted(len(self.tensors), "tensor")
        return f"{tensors} decoded from {self.encoding}: {stored} to {nbytes}"

    @values.one_line
    def __repr__(self) -> str:
        return f"<fastio.Decoding: {self}>"
