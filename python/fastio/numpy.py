"""safetensors.numpy, as far as it loads, by fastio: change the import, and nothing else."""

from __future__ import annotations

import os
from typing import Any

import numpy.typing as npt

from fastio.frameworks import framework
from fastio.in_memory import deserialize, tensors_in
from fastio.safe_open import safe_open

__all__ = ["deserialize", "load", "load_file", "safe_open"]


def load_file(
    filename: str | os.PathLike[str], *, backend: str = "mmap"
) -> dict[str, npt.NDArray[Any]]:
    """Load all tensors of one file, verified if it carries checksums.

    Parameters
    ----------
    filename : str or os.PathLike
    backend : {"mmap", "pread"}
        Accepted, and of no effect.

    Raises
    ------
    As `fastio.safe_open` and its `get_tensors` do.
    """
    with safe_open(filename, framework="np", backend=backend) as file:
        return file.get_tensors()


def load(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Load all tensors of a file that is in memory, as copies.

    Raises
    ------
    As `fastio.deserialize` does; TypeError for a dtype that numpy cannot hold.
    """
    return tensors_in(data, framework("numpy"))
