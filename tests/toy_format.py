"""A toy format with raw and encoded tensors: these deflated whole, in rows, or in boxes.

A JSON index follows the magic. It has the extents of each tensor's parts, and for each part of an
encoded tensor the encoding, and the box that it is decoded to.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

from fastio.catalog import OneFile, Readable, Shard
from fastio.catalog.encodings import Encoding, StoredPart
from fastio.catalog.table import DEFAULT_ALGORITHM, ChecksumTable
from fastio.formats.known import Format

MAGIC = b"TOYZ"
CHUNK_BYTES = 2**16


class Deflate:
    """zlib, stopped at the end of what is asked for."""

    name = "deflate"

    def decode(self, stored: memoryview, out: memoryview) -> int:
        decompressor = zlib.decompressobj()
        data = decompressor.decompress(stored, len(out) + 1)
        if len(data) > len(out):
            raise ValueError("more bytes come")
        out[: len(data)] = data
        if not decompressor.eof:
            raise ValueError("it is cut off")
        if decompressor.unused_data:
            raise ValueError("bytes follow it")
        return len(data)


class Plain:
    """Bytes as they are: of a part that was not worth to be deflated."""

    name = "plain"

    def decode(self, stored: memoryview, out: memoryview) -> int:
        out[:] = stored
        return len(stored)


class Sevens:
    """No bytes in the file: all bytes of the part are 7."""

    name = "sevens"

    def decode(self, stored: memoryview, out: memoryview) -> int:
        assert len(stored) == 0
        out[:] = b"\7" * len(out)
        return len(out)


class Raising:
    """A decoder that raises what it is told to."""

    name = "raising"

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def decode(self, stored: memoryview, out: memoryview) -> int:
        out[:1] = b"x"
        raise self._error


class Lying:
    """A decoder that writes less than the whole, and says how much."""

    name = "lying"

    def __init__(self, count: Any) -> None:
        self._count = count

    def decode(self, stored: memoryview, out: memoryview) -> int:
        return self._count  # type: ignore[no-any-return]


ENCODINGS: dict[str, Encoding] = {each.name: each for each in (Deflate(), Plain(), Sevens())}


class Part(NamedTuple):
    """A part that a file is made of: its encoding, stored bytes, and box."""

    encoding: str
    stored: bytes
    start: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None


@dataclass
class Tensor:
    """A tensor that a file is made of: its parts, or the bytes of a raw one."""

    dtype: str
    shape: tuple[int, ...]
    parts: list[Part] | bytes

    @property
    def stored_parts(self) -> list[Part]:
        """Its parts; a raw one has one."""
        return [Part("", self.parts)] if isinstance(self.parts, bytes) else self.parts


def _locate(file: Readable, first: bytes) -> Shard:
    """Say where the tensors of such a file lie."""
    length = int.from_bytes(first[4:8], "little")
    index = json.loads(file.read(8, length))
    data = 8 + length
    entries = sorted(index["tensors"], key=lambda entry: min(part[0] for part in entry["parts"]))
    encodings = {
        row: tuple(
            StoredPart(
                data + begin,
                data + end,
                ENCODINGS[encoding],
                None if start is None else tuple(start),
                None if shape is None else tuple(shape),
            )
            for begin, end, encoding, start, shape in entry["parts"]
        )
        for row, entry in enumerate(entries)
        if entry["encoded"]
    }
    table = None
    if index["digests"] is not None:
        table = ChecksumTable(data, CHUNK_BYTES, bytes.fromhex(index["digests"]))
    return Shard(
        files=OneFile(file, table),
        names=[entry["name"] for entry in entries],
        dtypes=[entry["dtype"] for entry in entries],
        shapes=[tuple(entry["shape"]) for entry in entries],
        begins=np.array([data + min(p[0] for p in e["parts"]) for e in entries], np.int64),
        ends=np.array([data + max(p[1] for p in e["parts"]) for e in entries], np.int64),
        metadata={},
        encodings=encodings or None,
    )


def write_toy(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    order: Sequence[tuple[str, int]] = (),
    is_sealed: bool = False,
    shares: bool = False,
) -> Path:
    """Write a file of tensors.

    Parameters
    ----------
    order : sequence of (str, int)
        Of the parts in the file, by tensor and number: these first, then the others.
    shares : bool
        Whether parts of equal bytes lie at one place.
    """
    pieces = {
        (name, at): part.stored
        for name, tensor in tensors.items()
        for at, part in enumerate(tensor.stored_parts)
    }
    extents: dict[tuple[str, int], tuple[int, int]] = {}
    written: dict[bytes, tuple[int, int]] = {}
    data = bytearray()
    for key in dict.fromkeys((*order, *pieces)):
        stored = pieces[key]
        extent = len(data), len(data) + len(stored)
        if shares:
            extent = written.setdefault(stored, extent)
        if extent[0] == len(data):
            data += stored
        extents[key] = extent
    entries = [
        {
            "name": name,
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "encoded": not isinstance(tensor.parts, bytes),
            "parts": [
                (*extents[name, at], part.encoding, part.start, part.shape)
                for at, part in enumerate(tensor.stored_parts)
            ],
        }
        for name, tensor in tensors.items()
    ]
    digests = DEFAULT_ALGORITHM.digests(data, CHUNK_BYTES).hex() if is_sealed else None
    header = json.dumps({"tensors": entries, "digests": digests}).encode()
    path.write_bytes(MAGIC + len(header).to_bytes(4, "little") + header + data)
    return path


FORMAT = Format("a toy file", "", (".toy",), lambda first: first.startswith(MAGIC), locate=_locate)
"""The row of the format, for `fastio.formats.known.FORMATS`."""


def deflated(data: npt.NDArray[Any] | bytes) -> bytes:
    """Bytes as `Deflate` has them in a file."""
    return zlib.compress(data if isinstance(data, bytes) else data.tobytes(), 1)


def in_rows(values: npt.NDArray[Any], count: int) -> list[Part]:
    """An array, deflated by so many rows."""
    return [
        Part(
            "deflate",
            deflated(values[at : at + count]),
            (at, *(0,) * (values.ndim - 1)),
            values[at : at + count].shape,
        )
        for at in range(0, len(values), count)
    ]


def in_boxes(values: npt.NDArray[Any], box: tuple[int, int]) -> list[Part]:
    """A matrix in boxes, which reach beyond its end: deflated and plain by turns."""
    parts: list[Part] = []
    for row in range(0, values.shape[0], box[0]):
        for column in range(0, values.shape[1], box[1]):
            padded = np.full(box, 99, values.dtype)
            some = values[row : row + box[0], column : column + box[1]]
            padded[: some.shape[0], : some.shape[1]] = some
            plain = len(parts) % 2 == 1
            stored = padded.tobytes() if plain else deflated(padded)
            parts.append(Part("plain" if plain else "deflate", stored, (row, column), box))
    return parts


def write_model(path: Path, *, is_sealed: bool = False) -> tuple[Path, dict[str, npt.NDArray[Any]]]:
    """Write a file with tensors of all kinds, and return them as numpy has them, in file order.

    Parts of ``boxes`` and ``rows`` lie between each other, and the large raw tensor in their midst.
    """
    random = np.random.default_rng(5)

    def values(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        return random.integers(0, 50, shape).astype(dtype)

    expected: dict[str, npt.NDArray[Any]] = {
        "raw.small": values((100,), np.float32),
        "deflated": values((300, 1000), np.float32),
        "boxes": values((700, 500), np.float32),
        "raw.large": values((1500, 2001), np.uint8),
        "rows": values((1001, 333), np.int16),
        "scalar": values((), np.float64),
        "empty": values((0, 7), np.float32),
        "sevens": np.full((5, 3), 7, np.uint8),
        "pairs": values((4, 3), np.uint8),
        "bf16": values((300, 7), ml_dtypes.bfloat16),
        "raw.last": values((30, 40), np.int64),
    }
    dtypes = {"pairs": ("F4", (4, 6)), "bf16": ("BF16", (300, 7))}
    tensors = {}
    for name, array in expected.items():
        dtype, shape = dtypes.get(
            name, (f"{array.dtype.kind.upper()}{8 * array.dtype.itemsize}", array.shape)
        )
        parts: list[Part] | bytes = [Part("deflate", deflated(array))]
        if name.startswith("raw."):
            parts = array.tobytes()
        elif name == "boxes":
            parts = in_boxes(array, (256, 200))
        elif name == "rows":
            parts = in_rows(array, 90)
        elif name == "sevens":
            parts = [Part("sevens", b"")]
        tensors[name] = Tensor(dtype, shape, parts)
    boxes = [("boxes", at) for at in range(len(tensors["boxes"].parts))]
    rows = [("rows", at) for at in range(len(tensors["rows"].parts))]
    mixed = [key for pair in zip(boxes, rows, strict=False) for key in pair]
    order = [("raw.small", 0), ("deflated", 0), *mixed[:7], ("raw.large", 0), *mixed[7:]]
    write_toy(path, tensors, order=[*order, *boxes, *rows], is_sealed=is_sealed)
    located = ["raw.small", "deflated", "boxes", "rows", "raw.large", *list(expected)[5:]]
    return path, {name: expected[name] for name in located}
