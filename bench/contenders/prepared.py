"""Tensors and arrays that exist before the clock starts, as torch and numpy allocate them.

They have the shapes of a model's file, and `pread` alone fills them. No contender is involved.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.measure import answers
from bench.measure.answers import Entry

if TYPE_CHECKING:
    import torch


def empty_torch(
    entries: Iterable[Entry], alignment_bytes: int | None = None, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """Return a tensor of each shape, as torch allocates it or at a multiple of an alignment."""
    import torch

    dtypes = {
        label: getattr(torch, name)
        for name, label in answers.DTYPES.items()
        if hasattr(torch, name)
    }

    def empty(entry: Entry) -> torch.Tensor:
        dtype = dtypes[entry.dtype]
        if alignment_bytes is None:
            return torch.empty(entry.shape, dtype=dtype, device=device)
        room = torch.empty(entry.nbytes + alignment_bytes, dtype=torch.uint8, device=device)
        skipped = -room.data_ptr() % alignment_bytes
        return room[skipped : skipped + entry.nbytes].view(dtype).view(entry.shape)

    return {entry.name: empty(entry) for entry in entries}


def empty_numpy(entries: Iterable[Entry]) -> dict[str, npt.NDArray[Any]]:
    """Return an array of each shape, as numpy allocates it."""
    # Registers bfloat16 with numpy.
    import ml_dtypes  # noqa: F401

    dtypes = {label: np.dtype(name) for name, label in answers.DTYPES.items()}
    return {entry.name: np.empty(entry.shape, dtypes[entry.dtype]) for entry in entries}


def torch_tensors(path: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a file, in memory that torch allocated.

    Raises
    ------
    OSError
        The file could not be read, or ends too early.
    """
    tensors = empty_torch(answers.file_entries(Path(path)))
    _fill(path, tensors)
    return tensors


def numpy_tensors(path: str) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a file, in memory that numpy allocated.

    Raises
    ------
    OSError
        The file could not be read, or ends too early.
    """
    tensors = empty_numpy(answers.file_entries(Path(path)))
    _fill(path, tensors)
    return tensors


def _fill(path: str, tensors: dict[str, Any]) -> None:
    places = {place.name: place for place in answers.describe(tensors)}
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for entry in answers.file_entries(Path(path)):
            rest = answers.memory(places[entry.name].begin, entry.nbytes)
            offset = entry.begin
            while rest:
                count = os.preadv(descriptor, [rest], offset)
                if count == 0:
                    raise OSError(f"{path} ends within {entry.name}")
                rest, offset = rest[count:], offset + count
    finally:
        os.close(descriptor)
