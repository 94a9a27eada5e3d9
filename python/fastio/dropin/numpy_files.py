"""The calls of ``safetensors.numpy``: files, and files in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fastio.dropin.in_memory import tensors_in
from fastio.dropin.safe_open import all_tensors
from fastio.dropin.serialize import as_bytes, to_file
from fastio.frameworks import framework
from fastio.frameworks.numpy import DTYPES
from fastio.saving.origins import origins_of

_TYPES = dict(DTYPES)


def _getdtype(dtype_str: str) -> np.dtype[Any]:
    """Return what numpy calls a dtype of a header; other projects import it.

    Raises
    ------
    KeyError
        If numpy has none.
    """
    return DTYPES[dtype_str]


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

    Examples
    --------
    >>> fastio.numpy.load_file("model.safetensors")["bias"]
    array([0., 0., 0.], dtype=float32)
    """
    return all_tensors(filename, "np", "cpu", backend)


def load(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Load all tensors of a file that is in memory, as copies.

    Raises
    ------
    As `fastio.deserialize` does; TypeError for a dtype that numpy cannot hold.

    Examples
    --------
    >>> fastio.numpy.load(Path("model.safetensors").read_bytes())["bias"]
    array([0., 0., 0.], dtype=float32)
    """
    return tensors_in(data, framework("numpy"))


def save(
    tensor_dict: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return arrays as the bytes of a safetensors file, without checksums.

    Parameters
    ----------
    tensor_dict : mapping of str to numpy.ndarray
        Of any memory layout; safetensors itself needs contiguous arrays, and does not check.
    metadata : mapping of str to str, optional
        Stored as it is, without keys that begin with ``fastio.``.

    Raises
    ------
    TypeError, UsageError, DtypeError
        As `fastio.save` does.
    FormatError, MemoryError
        As `fastio.serialize` does.

    Examples
    --------
    >>> data = fastio.numpy.save({"weight": np.ones(3)})
    >>> fastio.numpy.load(data)
    {'weight': array([1., 1., 1.])}
    """
    return as_bytes(origins_of(tensor_dict), metadata)


def save_file(
    tensor_dict: Mapping[str, npt.NDArray[Any]],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Save arrays to one file with checksums, as `fastio.save` does.

    Parameters
    ----------
    tensor_dict
        As `save` takes them.
    filename : str or os.PathLike
    metadata : mapping of str to str, optional
        Stored as given, without keys that begin with ``fastio.``. Default: ``format: pt``.

    Raises
    ------
    TypeError, UsageError, DtypeError, FormatError, WriteError, MemoryLimitError
        As `fastio.save` does.

    Examples
    --------
    >>> fastio.numpy.save_file({"weight": np.ones(3)}, "ones.safetensors")
    >>> fastio.load("ones.safetensors")
    {'weight': array([1., 1., 1.])}
    """
    to_file(origins_of(tensor_dict), filename, metadata)
