"""Encodings of HDF5 datasets: filters of chunks, fill values, and reads by the library."""

from __future__ import annotations

import threading
import zlib
from types import ModuleType
from typing import Any

import numpy as np

_FLETCHER_BYTES = 4


def library() -> ModuleType:
    """Return h5py.

    Raises
    ------
    ImportError
        With the extra that brings it.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            'HDF5 files need h5py: pip install "fastio-tensor[hdf5]"', name="h5py"
        ) from error
    found: ModuleType = h5py
    return found


class Plain:
    """Bytes as they are: of chunks without filters, and of datasets with two names."""

    name = "chunks"

    def decode(self, stored: memoryview, out: memoryview) -> int:
        """Copy them."""
        out[:] = stored
        return len(stored)


PLAIN = Plain()


class Repeated:
    """The fill value, where no chunk is stored."""

    name = "fill value"

    def __init__(self, value: bytes) -> None:
        self._value = value

    def decode(self, stored: memoryview, out: memoryview) -> int:
        """Copy them."""
        out[:] = self._value * (len(out) // len(self._value))
        return len(out)


class Filters:
    """The filters of a dataset, which this module decodes.

    Parameters
    ----------
    steps : tuple of (int, str)
        The bit of each filter in the mask of a chunk, and its name, as they were applied.
    item_bytes : int
        Of a value, as shuffle counts.
    """

    def __init__(self, steps: tuple[tuple[int, str], ...], item_bytes: int) -> None:
        self._steps = steps
        self._item_bytes = item_bytes

    @classmethod
    def of(cls, dataset: Any, item_bytes: int) -> Filters | None:
        """Return the filters of a dataset; None if there is one that only the library decodes."""
        properties = dataset.id.get_create_plist()
        steps = []
        for at in range(properties.get_nfilters()):
            code, _, _, _ = properties.get_filter(at)
            if code not in _DECODED:
                return None
            steps.append((at, _DECODED[code]))
        return cls(tuple(steps), item_bytes)

    @property
    def name(self) -> str:
        """As reports have it."""
        return ", ".join(name for _, name in self._steps) or PLAIN.name

    def without(self, mask: int) -> Filters:
        """Return the filters of a chunk: a bit in its mask says that one was left out."""
        if not mask:
            return self
        kept = tuple((at, name) for at, name in self._steps if not mask >> at & 1)
        return Filters(kept, self._item_bytes)

    def decode(self, stored: memoryview, out: memoryview) -> int:
        """Undo the filters, the last one first.

        Raises
        ------
        ValueError, zlib.error
            A wrong checksum, or bytes that are no deflated ones.
        """
        data: Any = stored
        for _, name in reversed(self._steps):
            if name == "fletcher32":
                data = _checked(data)
            elif name == "deflate":
                data = _inflated(data, len(out) + _FLETCHER_BYTES)
            else:
                data = _unshuffled(data, self._item_bytes)
        if len(data) > len(out):
            raise ValueError("more bytes come")
        out[: len(data)] = data
        return len(data)


# https://github.com/HDFGroup/hdf5/blob/develop/src/H5Zpublic.h
_DECODED = {1: "deflate", 2: "shuffle", 3: "fletcher32"}


def _inflated(data: Any, most: int) -> bytes:
    inflater = zlib.decompressobj()
    found = inflater.decompress(data, most)
    if not inflater.eof:
        raise ValueError("it is cut off, or more bytes come")
    if inflater.unused_data:
        raise ValueError("bytes follow it")
    return found


def _unshuffled(data: Any, item_bytes: int) -> memoryview:
    """The bytes of each value together again; a rest that is no whole value is as it was."""
    values = np.frombuffer(data, np.uint8)
    whole = len(values) // item_bytes * item_bytes
    turned = values[:whole].reshape(item_bytes, -1).T.reshape(-1)
    return np.concatenate((turned, values[whole:])).data if whole < len(values) else turned.data


def _checked(data: Any) -> memoryview:
    """Bytes without the checksum behind them, which they have."""
    values = memoryview(data)
    if len(values) < _FLETCHER_BYTES:
        raise ValueError("it is too short for its checksum")
    values, expected = values[:-_FLETCHER_BYTES], bytes(values[-_FLETCHER_BYTES:])
    found = fletcher32(values)
    # Until release 1.6.3, big-endian machines wrote the halves of words the other way.
    swapped = bytes((found[1], found[0], found[3], found[2]))
    if expected not in (found, swapped):
        raise ValueError(f"its fletcher32 is {found.hex()}, and should be {expected.hex()}")
    return values


def fletcher32(data: memoryview) -> bytes:
    """The checksum of H5_checksum_fletcher32 in H5checksum.c: sums modulo 65535 of 16-bit words."""
    nbytes = len(data)
    words = np.frombuffer(data[: nbytes // 2 * 2], ">u2").astype(np.uint64)
    if nbytes % 2:
        words = np.append(words, np.uint64(data[-1] << 8))
    first = second = 0
    # Weights below 2**32 and words below 2**16: sums of as many stay below 2**64.
    for at in range(0, len(words), 2**16):
        some = words[at : at + 2**16]
        weights = np.arange(len(some), 0, -1, dtype=np.uint64)
        second = (second + len(some) * first + int((some * weights).sum())) % 65535
        first = (first + int(some.sum())) % 65535
    # The library folds, and so has 65535 where the sum is a multiple of it that is not zero.
    is_zero = not words.any()
    first, second = (0, 0) if is_zero else (first or 65535, second or 65535)
    return (second << 16 | first).to_bytes(4, "little")


class Library:
    """A part of a dataset that h5py reads, one at a time.

    Parameters
    ----------
    path, dataset : str
    start, shape : tuple of int
        The place of the part; it may reach beyond the dataset.
    """

    name = "h5py"
    _lock = threading.Lock()

    def __init__(
        self, path: str, dataset: str, start: tuple[int, ...], shape: tuple[int, ...]
    ) -> None:
        self._path = path
        self._dataset = dataset
        self._start = start
        self._shape = shape

    def decode(self, stored: memoryview, out: memoryview) -> int:
        """Read the part.

        Raises
        ------
        OSError
            The library lacks a filter, or cannot decode the chunk.
        """
        h5py: Any = library()
        box = tuple(slice(s, s + n) for s, n in zip(self._start, self._shape, strict=True))
        with self._lock, h5py.File(self._path, "r") as opened:
            values = np.asarray(opened[self._dataset][box])
        padded = np.zeros((*self._shape, *values.shape[len(self._shape) :]), values.dtype)
        padded[tuple(slice(0, n) for n in values.shape)] = values
        native = padded.astype(padded.dtype.newbyteorder("="), copy=False)
        out[:] = native.reshape(-1).view(np.uint8).data
        return len(out)
