"""A digest of tensors that a GPU computes in place, and a CPU computes from the file.

A tensor is padded with zeros to 64-bit words. Two sums modulo 2^64 give each word an odd weight by
its index; in the second sum the upper half of each word is mixed into its lower half. So no change
of a single word goes unseen, and several changes only by chance. BLAKE2b then digests names,
dtypes, shapes and sums.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.contenders.contender import Answer
from bench.measure import answers
from bench.measure.answers import DTYPES, AnswerError, Entry

PIECE_BYTES = 16 * 2**20
_WORD_BYTES = 8
# Odd 64-bit constants: of the golden ratio, and of a prime.
_FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
_HALF_BITS = 32
_WRAP = 2**64

Sums = tuple[int, int]


class OnDevice(Answer):
    """Tensors on a GPU, which the host cannot touch."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        super().__init__()
        self._tensors = tensors

    def digest(self) -> str:
        return digest(self._tensors)


def digest(tensors: Mapping[str, Any]) -> str:
    """Return the digest of torch tensors, computed on their device.

    Raises
    ------
    AnswerError
        They are nothing that a safetensors file could hold.
    """
    entries = []
    sums = {}
    for name, tensor in tensors.items():
        dtype = DTYPES.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is None or not tensor.is_contiguous():
            raise AnswerError(f"{name}: {tensor.dtype}, contiguous: {tensor.is_contiguous()}")
        nbytes = tensor.numel() * tensor.element_size()
        entries.append(Entry(name, dtype, tuple(tensor.shape), 0, nbytes))
        sums[name] = _of_tensor(tensor, nbytes)
    return _combine(entries, sums)


def file_digest(path: Path, entries: Iterable[Entry] | None = None) -> str:
    """Return the expected digest of a load of this file.

    Raises
    ------
    OSError
        The file could not be read.
    """
    entries = answers.file_entries(path) if entries is None else list(entries)
    descriptor = os.open(path, os.O_RDONLY)

    def of_piece(entry: Entry, at: int) -> Sums:
        nbytes = min(PIECE_BYTES, entry.nbytes - at)
        data = os.pread(descriptor, nbytes, entry.begin + at)
        words = np.frombuffer(data + bytes(-len(data) % _WORD_BYTES), np.uint64)
        return _of_words(words, at // _WORD_BYTES)

    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = {
                entry.name: [pool.submit(of_piece, entry, at) for at in _pieces(entry.nbytes)]
                for entry in entries
            }
            sums = {
                name: _added(each.result() for each in pieces) for name, pieces in found.items()
            }
    finally:
        os.close(descriptor)
    return _combine(entries, sums)


def _pieces(nbytes: int) -> range:
    return range(0, nbytes, PIECE_BYTES)


def _added(sums: Iterable[Sums]) -> Sums:
    first = second = 0
    for one, other in sums:
        first, second = first + one, second + other
    return first % _WRAP, second % _WRAP


def _of_words(words: npt.NDArray[np.uint64], begin: int) -> Sums:
    places = np.arange(2 * begin, 2 * (begin + len(words)), 2, dtype=np.uint64)
    first = (words * (places * np.uint64(_FIRST) + np.uint64(_FIRST))).sum()
    mixed = words ^ (words >> np.uint64(_HALF_BITS))
    second = (mixed * (places * np.uint64(_FIRST) + np.uint64(_SECOND))).sum()
    return int(first), int(second)


def _of_tensor(tensor: Any, nbytes: int) -> Sums:
    """Sum with torch. Its integers are signed, and wrap alike."""
    import torch

    data = tensor.detach().reshape(-1).view(torch.uint8)

    def sums() -> Iterator[Sums]:
        for at in _pieces(nbytes):
            taken = min(PIECE_BYTES, nbytes - at)
            # A copy, since the tensor may begin between words.
            padded = torch.zeros(
                taken + -taken % _WORD_BYTES, dtype=torch.uint8, device=data.device
            )
            padded[:taken] = data[at : at + taken]
            words = padded.view(torch.int64)
            begin = at // _WORD_BYTES
            places = torch.arange(
                2 * begin, 2 * (begin + len(words)), 2, dtype=torch.int64, device=data.device
            )
            weights = places * _signed(_FIRST)
            first = (words * (weights + _signed(_FIRST))).sum()
            # Without the sign bits of a signed shift.
            mixed = words ^ ((words >> _HALF_BITS) & (2**_HALF_BITS - 1))
            second = (mixed * (weights + _signed(_SECOND))).sum()
            yield int(first) % _WRAP, int(second) % _WRAP

    return _added(sums())


def _signed(value: int) -> int:
    return value - _WRAP if value >= _WRAP // 2 else value


def _combine(entries: Iterable[Entry], sums: Mapping[str, Sums]) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for entry in sorted(entries, key=lambda entry: entry.name):
        whole.update(answers.label(entry))
        for each in sums[entry.name]:
            whole.update(each.to_bytes(_WORD_BYTES, "little"))
    return whole.hexdigest()
