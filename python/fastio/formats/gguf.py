"""GGUF files, versions 2 and 3: the tensors and the metadata of llama.cpp.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Tensors of plain types lie in the file
as they do in memory. Those of quantised types are handed out as their blocks: dtype U8, and a last
axis of bytes. Metadata are texts: what is no string there is JSON. ``gguf.types`` has the types of
the quantised tensors, a JSON object by name.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any, NamedTuple

from fastio.catalog import Readable, Shard
from fastio.display.values import shown
from fastio.errors import FormatError
from fastio.formats.hierarchy import text_of
from fastio.formats.rows import Row, check_shape, shard_of
from fastio.formats.safetensors import FIRST_READ_BYTES

MAGIC = b"GGUF"
TYPES_KEY = "gguf.types"
_VERSIONS = (2, 3)
_ALIGNMENT_KEY = "general.alignment"
_ALIGNMENT = 32
_DEPTH_MAX = 8  # of arrays in arrays; writers make one level


class _Type(NamedTuple):
    """A type of tensors: values and bytes of a block; `dtype` of a plain one."""

    name: str
    values: int
    nbytes: int
    dtype: str | None = None


# enum ggml_type and the sizes of blocks, of ggml.h and ggml-common.h in
# https://github.com/ggml-org/ggml. tests/formats/test_gguf.py compares them with the gguf package.
TYPES: dict[int, _Type] = {
    0: _Type("F32", 1, 4, "F32"),
    1: _Type("F16", 1, 2, "F16"),
    2: _Type("Q4_0", 32, 18),
    3: _Type("Q4_1", 32, 20),
    6: _Type("Q5_0", 32, 22),
    7: _Type("Q5_1", 32, 24),
    8: _Type("Q8_0", 32, 34),
    9: _Type("Q8_1", 32, 40),
    10: _Type("Q2_K", 256, 84),
    11: _Type("Q3_K", 256, 110),
    12: _Type("Q4_K", 256, 144),
    13: _Type("Q5_K", 256, 176),
    14: _Type("Q6_K", 256, 210),
    15: _Type("Q8_K", 256, 292),
    16: _Type("IQ2_XXS", 256, 66),
    17: _Type("IQ2_XS", 256, 74),
    18: _Type("IQ3_XXS", 256, 98),
    19: _Type("IQ1_S", 256, 50),
    20: _Type("IQ4_NL", 32, 18),
    21: _Type("IQ3_S", 256, 110),
    22: _Type("IQ2_S", 256, 82),
    23: _Type("IQ4_XS", 256, 136),
    24: _Type("I8", 1, 1, "I8"),
    25: _Type("I16", 1, 2, "I16"),
    26: _Type("I32", 1, 4, "I32"),
    27: _Type("I64", 1, 8, "I64"),
    28: _Type("F64", 1, 8, "F64"),
    29: _Type("IQ1_M", 256, 56),
    30: _Type("BF16", 1, 2, "BF16"),
    34: _Type("TQ1_0", 256, 54),
    35: _Type("TQ2_0", 256, 66),
    39: _Type("MXFP4", 32, 17),
    40: _Type("NVFP4", 64, 36),
    41: _Type("Q1_0", 128, 18),
}

# enum gguf_metadata_value_type, as struct has them.
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    _BOOL: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32, _U64 = _SCALARS[4], _SCALARS[10]
# The least that a tensor or a pair takes: counts above what fits are refused at once.
_TENSOR_BYTES_MIN = 24
_PAIR_BYTES_MIN = 13


def locate(file: Readable, first: bytes) -> Shard:
    """Say where the tensors of a file lie.

    Parameters
    ----------
    file : Readable
        Stays open.
    first : bytes
        Its first bytes.

    Raises
    ------
    FormatError
        If the file is not valid, cut off, of another version or byte order, or has a type that this
        release does not know.
    ReadError
        If reading fails.
    """
    text = _Text(file, first)
    version = text.number(_U32)
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS
        problem = "is big-endian GGUF" if swapped else f"is GGUF of version {version}"
        raise text.refuse(
            problem, "version 2 or 3, little-endian; gguf-convert-endian swaps one", 4
        )
    tensors = text.count("tensors", _TENSOR_BYTES_MIN)
    pairs = text.count("metadata", _PAIR_BYTES_MIN)
    values = _pairs(text, pairs)
    entries = [_entry(text) for _ in range(tensors)]
    alignment = values.get(_ALIGNMENT_KEY, _ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise text.refuse(f"has {_ALIGNMENT_KEY} {shown(alignment)}", "a power of two", None)
    data = -(-text.at // alignment) * alignment
    metadata = {key: text_of(value) for key, value in values.items()}
    blocks = {name: kind.name for name, kind, _, _ in entries if kind.dtype is None}
    if blocks:
        metadata[TYPES_KEY] = json.dumps(blocks)
    return shard_of(file, [_row(*entry, data) for entry in entries], metadata, first)


def _pairs(text: _Text, count: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _ in range(count):
        at = text.at
        key = text.string()
        if key in values:
            raise text.refuse(f"has the key {shown(key)} twice", "each key once", at)
        values[key] = text.value(text.number(_U32))
    return values


def _entry(text: _Text) -> tuple[str, _Type, tuple[int, ...], int]:
    """Name, type, shape as numpy has it, and offset in the data."""
    at = text.at
    name = text.string()
    dimensions = text.number(_U32)
    sizes = text.array(_U64, text.checked(dimensions, _U64.size, "dimensions"))
    shape = tuple(reversed(sizes))
    check_shape(text.path, name, shape, at)
    number = text.number(_U32)
    kind = TYPES.get(number)
    if kind is None:
        raise text.refuse(f"tensor {shown(name)} has the type {number}", "one of GGML's", at)
    last = shape[-1] if shape else 1
    if last % kind.values:
        problem = f"tensor {shown(name)} has rows of {last} values"
        raise text.refuse(problem, f"a multiple of {kind.values}, as {kind.name} has", at)
    return name, kind, shape, text.number(_U64)


def _row(name: str, kind: _Type, shape: tuple[int, ...], offset: int, data: int) -> Row:
    nbytes = math.prod(shape) // kind.values * kind.nbytes
    dtype = kind.dtype
    if dtype is None:
        dtype, shape = "U8", (*shape[:-1], shape[-1] // kind.values * kind.nbytes)
    return Row(name, dtype, shape, data + offset, data + offset + nbytes)


class _Text:
    """The part of a file before its data, read as far as it is asked for.

    Parameters
    ----------
    file : Readable
    first : bytes
        Its first bytes.
    """

    def __init__(self, file: Readable, first: bytes) -> None:
        self._file = file
        self._read = first
        self.path = file.path
        self.at = len(MAGIC)

    def refuse(self, problem: str, expected: str, at: int | None) -> FormatError:
        """The error for what is wrong at a byte."""
        return FormatError(self.path, problem, offset=at, expected=expected)

    def number(self, kind: struct.Struct) -> Any:
        """Return the next number."""
        begin = self._take(kind.size)
        return kind.unpack_from(self._read, begin)[0]

    def array(self, kind: struct.Struct, count: int) -> tuple[Any, ...]:
        """Return the next numbers."""
        begin = self._take(kind.size * count)
        return struct.unpack_from(f"<{count}{kind.format[1:]}", self._read, begin)

    def count(self, what: str, nbytes_min: int) -> int:
        """Return the next count, of things of so many bytes at least."""
        return self.checked(self.number(_U64), nbytes_min, what)

    def checked(self, count: int, nbytes_min: int, what: str) -> int:
        """Return a count, of which the file has room for all."""
        most = (self._file.nbytes - self.at) // nbytes_min
        if count > most:
            problem, expected = f"has {count} {what}", f"at most {most}, for which it has room"
            raise self.refuse(problem, expected, self.at)
        return count

    def string(self) -> str:
        """Return the next string."""
        nbytes = self.count("bytes in a string", 1)
        begin = self._take(nbytes)
        # llama.cpp takes any bytes, and vocabularies have some that are no UTF-8.
        return self._read[begin : begin + nbytes].decode(errors="surrogateescape")

    def value(self, kind: int, depth: int = 0) -> Any:
        """Return the next value of metadata."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(self._scalar(kind))
        if depth == _DEPTH_MAX:
            raise self.refuse("has arrays in arrays", f"at most {_DEPTH_MAX} levels", self.at)
        inner = self.number(_U32)
        if inner == _STRING:
            return [self.string() for _ in range(self.count("strings", _U64.size))]
        if inner == _ARRAY:
            count = self.count("arrays", _U32.size + _U64.size)
            return [self.value(inner, depth + 1) for _ in range(count)]
        scalar = self._scalar(inner)
        return list(self.array(scalar, self.count("values", scalar.size)))

    def _scalar(self, kind: int) -> struct.Struct:
        scalar = _SCALARS.get(kind)
        if scalar is None:
            problem = f"has a value of type {kind} in its metadata"
            raise self.refuse(problem, "one of GGUF's types, 0 to 12", self.at)
        return scalar

    def _take(self, nbytes: int) -> int:
        """Return where the next bytes begin in what is read, which has all of them then."""
        begin, end = self.at, self.at + nbytes
        if end > self._file.nbytes:
            problem = f"ends at byte {self._file.nbytes}, within its header"
            raise self.refuse(problem, "a whole file; is this one cut off?", begin)
        if end > len(self._read):
            # Twice as much each time, so that all is read a bounded number of times.
            size = min(max(2 * len(self._read), end, FIRST_READ_BYTES), self._file.nbytes)
            self._read += self._file.read(len(self._read), size - len(self._read))
        self.at = end
        return begin
