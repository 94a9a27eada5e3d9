"""PyTorch's files, as torch.save writes them: a zip, or the older row of pickles.

https://pytorch.org/docs/stable/notes/serialization.html. A restricted unpickler reads what lies
where, and runs nothing. A contiguous tensor lies in the file as it does in memory. A tensor with
other strides is copied, and so is one that shares its bytes with an earlier tensor.

Containers are flattened: the tensor at ``checkpoint["model"]["bias"]`` is ``model.bias``, and the
items of lists have numbers. A single tensor is named by its file. Values that are no tensors are
metadata, as JSON.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastio.catalog import Readable, Shard
from fastio.catalog.dtypes import DTYPES
from fastio.catalog.encodings import StoredPart
from fastio.display.values import shown
from fastio.errors import FormatError
from fastio.formats import zipped
from fastio.formats.pickled import Unpickler
from fastio.formats.rows import Row, check_shape, shard_of
from fastio.formats.torch_pickles import Storage, Tensor, allowed, flattened, persistent

_PICKLE = "data.pkl"
_OLD_PROTOCOL = 1001
_PICKLE_BYTES_MAX = 2**28


class _Extent(NamedTuple):
    """The place of a storage in the file, in bytes."""

    begin: int
    end: int


def locate_zip(file: Readable, first: bytes) -> Shard:
    """Say where the tensors of torch's zip lie.

    Parameters
    ----------
    file : Readable
        Stays open.
    first : bytes
        Its first bytes.

    Raises
    ------
    FormatError
        If the file is not valid or cut off, is TorchScript, or asks for more than tensors and plain
        containers: the name of what it asks for.
    ReadError
        If reading fails.
    """
    entries = {entry.name: entry for entry in zipped.entries(file)}
    pickles = [name for name in entries if name.endswith("/" + _PICKLE) and name.count("/") == 1]
    if len(pickles) != 1:
        raise FormatError(file.path, f"has {len(pickles)} entries */{_PICKLE}", expected="one")
    folder = pickles[0].removesuffix(_PICKLE)
    if any(name.startswith(f"{folder}code/") for name in entries):
        expected = "tensors; torch.jit.load runs it, and state_dict() has its tensors"
        raise FormatError(file.path, "is TorchScript, a program", expected=expected)
    pickle = entries[pickles[0]]
    if pickle.is_deflated:
        expected = "it stored, as torch.save has it"
        raise FormatError(file.path, f"has its {_PICKLE} deflated", expected=expected)
    data = zipped.content(file, pickle, _PICKLE_BYTES_MAX)
    unpickler = Unpickler(data, file.path, pickle.begin, allowed(), persistent)
    checkpoint = unpickler.load()

    def extent_of(storage: Storage) -> _Extent:
        entry = entries.get(f"{folder}data/{storage.key}")
        if entry is None or entry.is_deflated:
            problem = "has no storage" if entry is None else "has a deflated storage"
            raise FormatError(file.path, f"{problem} {shown(storage.key)}", expected="it, as it is")
        return _Extent(entry.begin, entry.end)

    order = entries.get(f"{folder}byteorder")
    is_big = order is not None and zipped.content(file, order, 16) == b"big"
    return _shard(file, checkpoint, len(data), extent_of, is_big=is_big, first=first)


def locate_old(file: Readable, first: bytes) -> Shard:
    """Say where the tensors of torch's row of pickles lie.

    Parameters and errors are those of `locate_zip`.
    """
    size = len(first)
    while True:
        data = first if size <= len(first) else file.read(0, size)
        unpickler = Unpickler(data, file.path, 0, allowed(), persistent)
        try:
            unpickler.load()  # the magic
            protocol, system, checkpoint, keys = (unpickler.load() for _ in range(4))
            break
        except FormatError:
            if size >= min(file.nbytes, _PICKLE_BYTES_MAX):
                raise
            size = min(4 * size, file.nbytes, _PICKLE_BYTES_MAX)
    if protocol != _OLD_PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
        expected = f"protocol {_OLD_PROTOCOL}, as torch.save writes it"
        raise FormatError(file.path, f"has protocol {shown(protocol)}", offset=0, expected=expected)
    tensors, _ = flattened(checkpoint, file.path, len(data))
    kinds = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    extents, at = {}, unpickler.at
    for key in keys:
        storage = kinds.get(key)
        if storage is None:
            problem = f"has a storage {shown(key)} of no tensor, and so of no known length"
            raise FormatError(file.path, problem, offset=at)
        # Before each storage, the file has how many values it has.
        count = int.from_bytes(file.read(at, 8), "little") if at + 8 <= file.nbytes else None
        if count != storage.values:
            problem = f"has {shown(count)} values in storage {shown(key)}"
            raise FormatError(file.path, problem, offset=at, expected=f"{storage.values}")
        begin = at + 8
        at = begin + count * _bytes_a_value(storage.dtype)
        extents[key] = _Extent(begin, at)

    def extent_of(storage: Storage) -> _Extent:
        if storage.key not in extents:
            raise FormatError(file.path, f"has no storage {shown(storage.key)}")
        return extents[storage.key]

    is_big = system.get("little_endian") is False
    return _shard(file, checkpoint, len(data), extent_of, is_big=is_big, first=first)


# ---- bytes


def _shard(
    file: Readable,
    checkpoint: Any,
    steps_max: int,
    extent_of: Any,
    *,
    is_big: bool,
    first: bytes,
) -> Shard:
    tensors, metadata = flattened(checkpoint, file.path, steps_max)
    placed = []
    for name, tensor in tensors.items():
        check_shape(file.path, name, tensor.shape)
        placed.append((*_extent(file, name, tensor, extent_of(tensor.storage)), name, tensor))
    # Of tensors that begin together the largest comes first: the others share its bytes.
    placed.sort(key=lambda one: (one[0], -one[1]))
    rows, reached = [], 0
    for begin, end, name, tensor in placed:
        shares = begin < reached and begin < end
        is_raw = not shares and not (is_big and _bytes_a_value(tensor.dtype) > 1)
        row = _row(name, tensor, begin, end, is_raw=is_raw, is_big=is_big)
        if not row.parts:
            reached = max(reached, end)
        rows.append(row)
    _check_growth(file, rows)
    return shard_of(file, rows, metadata, first)


def _bytes_a_value(dtype: str | None) -> int:
    return 1 if dtype is None else DTYPES[dtype].align_bytes


def _extent(file: Readable, name: str, tensor: Tensor, storage: _Extent) -> tuple[int, int]:
    """From the tensor's first byte to its last one; refused outside of its storage."""
    size = _bytes_a_value(tensor.dtype)
    count = 0
    if math.prod(tensor.shape):
        pairs = zip(tensor.shape, tensor.strides, strict=True)
        count = 1 + sum((length - 1) * stride for length, stride in pairs)
    begin = storage.begin + tensor.offset * size
    end = begin + count * size
    if end > storage.end:
        raise FormatError(
            file.path,
            f"tensor {shown(name)} ends at byte {end - storage.begin} of its storage",
            offset=storage.begin,
            expected=f"at most {storage.end - storage.begin}, which it has",
        )
    return begin, end


def _row(name: str, tensor: Tensor, begin: int, end: int, *, is_raw: bool, is_big: bool) -> Row:
    shape = tensor.shape
    is_contiguous = _is_contiguous(tensor)
    if tensor.dtype == "F4":  # torch counts pairs
        if not is_contiguous or not shape:
            raise FormatError(name, "is packed F4 with strides", expected="a contiguous tensor")
        shape = (*shape[:-1], 2 * shape[-1])
    if (is_contiguous and is_raw) or begin == end:
        return Row(name, tensor.dtype, shape, begin, end)
    kind = np.dtype(np.complex64 if tensor.dtype == "C64" else f"u{_bytes_a_value(tensor.dtype)}")
    order = "strided view" if not is_contiguous else "big-endian" if is_big else "shared storage"
    encoding = View(order, kind.newbyteorder(">") if is_big else kind, tensor.shape, tensor.strides)
    return Row(name, tensor.dtype, shape, begin, end, (StoredPart(begin, end, encoding),))


def _is_contiguous(tensor: Tensor) -> bool:
    expected = 1
    for length, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


# Tensors that share storages, and expanded ones, take more memory than the file has bytes.
_GROWTH_MAX = 64
_GROWTH_FREE_BYTES = 2**23


def _check_growth(file: Readable, rows: list[Row]) -> None:
    nbytes = sum(math.prod(row.shape) * DTYPES[row.dtype].bits // 8 for row in rows if row.parts)
    most = max(_GROWTH_MAX * file.nbytes, _GROWTH_FREE_BYTES)
    if nbytes > most:
        problem = f"has tensors of {nbytes} bytes that share storages"
        raise FormatError(
            file.path, problem, expected=f"at most {most}, {_GROWTH_MAX} times the file"
        )


class View:
    """Values at strides, or that another tensor has, too: they are copied.

    Parameters
    ----------
    name : str
        As reports have it.
    dtype : numpy.dtype
        Of the values, in the file's byte order.
    shape, strides : tuple of int
        Strides count values.
    """

    def __init__(
        self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        self.name = name
        self._dtype = dtype
        self._shape = shape
        self._strides = strides

    def decode(self, stored: memoryview, out: memoryview) -> int:
        """Copy the values to their places in memory."""
        values = np.frombuffer(stored, self._dtype)
        size = self._dtype.itemsize
        strides = tuple(size * stride for stride in self._strides)
        view = np.lib.stride_tricks.as_strided(values, self._shape, strides, writeable=False)
        place = np.frombuffer(out, self._dtype.newbyteorder("=")).reshape(self._shape)
        place[...] = view
        return place.nbytes
