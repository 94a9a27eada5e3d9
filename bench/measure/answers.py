"""The tensors that a load returned: their memory, one byte of each page, and their digest.

The same code serves numpy and torch, and every contender.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PAGE_BYTES = 4096
PIECE_BYTES = 16 * 2**20

# Names of dtypes in numpy (with ml_dtypes) and torch, and in safetensors.
DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}


class AnswerError(RuntimeError):
    """A contender returned something that is not the tensors of the file."""


@dataclass(frozen=True)
class Entry:
    """A tensor's description; `begin` is an address in memory or an offset in a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    nbytes: int


def addresses(tensors: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Return address and size of each tensor. This runs within the clock, for every contender."""
    values = tensors.values()
    first = next(iter(values), None)
    if hasattr(first, "data_ptr"):
        return [value.data_ptr() for value in values], [value.nbytes for value in values]
    begins = [value.__array_interface__["data"][0] for value in values]
    return begins, [value.nbytes for value in values]


class _Strided:
    """One byte of each page from `address` on, as an array that numpy can read."""

    def __init__(self, address: int, pages: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, True),
            "shape": (pages,),
            "strides": (PAGE_BYTES,),
            "typestr": "|u1",
        }


def touch(tensors: Mapping[str, Any]) -> int:
    """Read one byte of every page of the tensors, and return the number of pages.

    Pages are gathered first and read in runs, so 100,000 adjacent tensors cost as much as one. The
    byte is the first of its page, since pages are mapped as a whole.
    """
    begins, sizes = addresses(tensors)
    begin = np.array(begins, dtype=np.int64)
    nbytes = np.array(sizes, dtype=np.int64)
    begin, nbytes = begin[nbytes > 0], nbytes[nbytes > 0]
    if len(begin) == 0:
        return 0
    order = np.argsort(begin, kind="stable")
    first = begin[order] // PAGE_BYTES
    last = np.maximum.accumulate((begin[order] + nbytes[order] - 1) // PAGE_BYTES)
    cuts = np.flatnonzero(first[1:] > last[:-1] + 1)
    starts = first[np.concatenate(([0], cuts + 1))]
    ends = last[np.concatenate((cuts, [len(last) - 1]))] + 1
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        # max needs no wider accumulator, and so no copy.
        np.asarray(_Strided(start * PAGE_BYTES, end - start)).max()
    return int((ends - starts).sum())


def describe(tensors: Mapping[str, Any]) -> list[Entry]:
    """Return an entry for each tensor.

    Raises
    ------
    AnswerError
        A tensor is not contiguous or has a dtype that no safetensors file holds.
    """
    begins, sizes = addresses(tensors)
    entries = []
    for (name, value), begin, nbytes in zip(tensors.items(), begins, sizes, strict=True):
        dtype = DTYPES.get(str(value.dtype).removeprefix("torch."))
        flags = getattr(value, "flags", None)
        contiguous = flags.c_contiguous if flags is not None else value.is_contiguous()
        if dtype is None or not contiguous:
            raise AnswerError(f"{name}: {value.dtype}, contiguous: {contiguous}")
        entries.append(Entry(name, dtype, tuple(value.shape), begin, nbytes))
    return entries


class RunningDigest:
    """Digest of names, dtypes, shapes and bytes of tensors that come one after the other.

    Pieces of 16 MiB are digested by BLAKE2b on every core, without the interpreter lock. Then their
    digests are digested in the order of names, so the order of tensors does not matter.

    Attributes
    ----------
    count, nbytes : int
        The tensors so far, and their bytes.
    """

    def __init__(self) -> None:
        self.count = 0
        self.nbytes = 0
        self._parts: dict[str, bytes] = {}

    def add(self, name: str, tensor: Any) -> None:
        """Digest a tensor, which may be dropped afterwards.

        Raises
        ------
        AnswerError
            No safetensors file can hold it, or a tensor of its name was digested before.
        """
        if name in self._parts:
            raise AnswerError(f"{name} came twice")
        (entry,) = describe({name: tensor})
        # An unused pool starts no thread.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            each = map if entry.nbytes <= PIECE_BYTES else pool.map
            pieces = each(lambda at: _piece(entry, at, memory), _piece_offsets(entry))
            self._parts[name] = label(entry) + b"".join(pieces)
        self.count += 1
        self.nbytes += entry.nbytes

    def result(self) -> str:
        """Return the digest, which `digest` and `file_digest` give for the same tensors."""
        whole = hashlib.blake2b(digest_size=16)
        for _, part in sorted(self._parts.items()):
            whole.update(part)
        return whole.hexdigest()


Read = Callable[[int, int], "memoryview | bytes"]


def label(entry: Entry) -> bytes:
    """Return the digested description of a tensor: its name, dtype and shape."""
    return json.dumps([entry.name, entry.dtype, *entry.shape]).encode() + b"\n"


def _piece_offsets(entry: Entry) -> range:
    return range(0, entry.nbytes, PIECE_BYTES)


def _piece(entry: Entry, offset: int, read: Read) -> bytes:
    nbytes = min(PIECE_BYTES, entry.nbytes - offset)
    return hashlib.blake2b(read(entry.begin + offset, nbytes), digest_size=16).digest()


def _combine(entries: Iterable[Entry], read: Read) -> str:
    """Digest entries as `RunningDigest` does, with the pieces of all large tensors in parallel."""
    ordered = sorted(entries, key=lambda entry: entry.name)
    whole = hashlib.blake2b(digest_size=16)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        large = {
            entry.name: [pool.submit(_piece, entry, at, read) for at in _piece_offsets(entry)]
            for entry in ordered
            if entry.nbytes > PIECE_BYTES // 16
        }
        for entry in ordered:
            whole.update(label(entry))
            pieces = large.get(entry.name)
            if pieces is None:
                whole.update(b"".join(_piece(entry, at, read) for at in _piece_offsets(entry)))
            else:
                whole.update(b"".join(done.result() for done in pieces))
    return whole.hexdigest()


def memory(address: int, nbytes: int) -> memoryview:
    """Return the bytes at an address. Their owner must stay alive."""
    return memoryview((ctypes.c_uint8 * nbytes).from_address(address)).cast("B")


def digest(tensors: Mapping[str, Any]) -> str:
    """Return the digest of loaded tensors.

    Raises
    ------
    AnswerError
        No safetensors file can hold them.
    """
    return _combine(describe(tensors), memory)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Compare two loads byte by byte and return the names of tensors that differ.

    Raises
    ------
    AnswerError
        No safetensors file can hold one of them.
    """
    mine, theirs = ({each.name: each for each in describe(load)} for load in (one, other))
    libc = ctypes.CDLL(None)
    libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

    def same(name: str) -> bool:
        a, b = mine.get(name), theirs.get(name)
        if a is None or b is None:
            return False
        return (a.dtype, a.shape, a.nbytes) == (b.dtype, b.shape, b.nbytes) and libc.memcmp(
            a.begin, b.begin, a.nbytes
        ) == 0

    return sorted(name for name in mine.keys() | theirs.keys() if not same(name))


def file_entries(path: Path) -> list[Entry]:
    """Read the header with `json` alone. Every contender is compared with this."""
    with path.open("rb") as file:
        (nbytes,) = struct.unpack("<Q", file.read(8))
        entries = json.loads(file.read(nbytes))
    start = 8 + nbytes
    return [
        Entry(
            name,
            entry["dtype"],
            tuple(entry["shape"]),
            start + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in entries.items()
        if name != "__metadata__"
    ]


def middle_rows(rows: int) -> tuple[int, int]:
    """Return begin and end of 1 % of a tensor's rows, at least one, from the middle row on.

    A tensor without rows has none.
    """
    begin = rows // 2
    return begin, min(rows, begin + max(1, rows // 100))


def middle(entry: Entry) -> Entry:
    """Return the entry of a tensor's `middle_rows`.

    Raises
    ------
    ValueError
        The tensor has no rows: it is a single value.
    """
    if not entry.shape:
        raise ValueError(f"{entry.name} has no rows")
    rows, *others = entry.shape
    begin, end = middle_rows(rows)
    row_bytes = entry.nbytes // rows if rows else 0
    return Entry(
        entry.name,
        entry.dtype,
        (end - begin, *others),
        entry.begin + begin * row_bytes,
        (end - begin) * row_bytes,
    )


def file_digest(path: Path, entries: Iterable[Entry] | None = None) -> str:
    """Return the expected digest of a load of this file, or of these parts of it.

    Raises
    ------
    OSError
        The file could not be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _combine(
            file_entries(path) if entries is None else entries,
            lambda offset, nbytes: os.pread(descriptor, nbytes, offset),
        )
    finally:
        os.close(descriptor)


def tensor_bytes(path: Path) -> int:
    """Return the bytes of all tensors of the file."""
    return sum(entry.nbytes for entry in file_entries(path))


def names_digest(names: Iterable[str]) -> str:
    """Return a digest of names alone, for contenders that only parse a header."""
    text = "\n".join(sorted(names))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
