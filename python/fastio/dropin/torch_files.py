"""The calls of ``safetensors.torch`` for tensors by name: files, and files in memory."""

from __future__ import annotations

import os

import torch

from fastio.dropin.in_memory import tensors_in
from fastio.dropin.safe_open import all_tensors
from fastio.dropin.serialize import as_bytes, to_file
from fastio.dropin.torch_checks import checked_tensors
from fastio.frameworks import framework
from fastio.frameworks import torch as _tensors  # noqa: F401 (a later call may find no module)
from fastio.saving.origins import origins_of


def load_file(
    filename: str | os.PathLike[str], device: str | int = "cpu", *, backend: str = "mmap"
) -> dict[str, torch.Tensor]:
    """Load all tensors of one file, verified if it carries checksums.

    Parameters
    ----------
    filename : str or os.PathLike
    device : str or int
        Where the tensors go.
    backend : {"mmap", "pread"}
        Accepted, and of no effect.

    Raises
    ------
    As `fastio.safe_open` and its `get_tensors` do.

    Examples
    --------
    >>> fastio.torch.load_file("model.safetensors")["bias"]
    tensor([0., 0., 0.])
    """
    return all_tensors(filename, "pt", device, backend)


def load(data: bytes) -> dict[str, torch.Tensor]:
    """Load all tensors of a file that is in memory, as copies.

    Raises
    ------
    As `fastio.deserialize` does; TypeError for a dtype that torch cannot hold.

    Examples
    --------
    >>> fastio.torch.load(Path("model.safetensors").read_bytes())["bias"]
    tensor([0., 0., 0.])
    """
    return tensors_in(data, framework("torch"))


def save(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Return tensors as the bytes of a safetensors file, without checksums.

    Parameters
    ----------
    tensors : dict of str to torch.Tensor
        Contiguous, dense, and each with memory of its own.
    metadata : dict of str to str, optional
        Stored as it is, without keys that begin with ``fastio.``.

    Raises
    ------
    RuntimeError
        Tensors that share memory.
    ValueError
        `tensors` is no dict; a value is no tensor, or not dense, or not contiguous.
    NotImplementedError
        A tensor on the device meta.
    TypeError, UsageError, DtypeError
        As `fastio.save` does.
    FormatError, MemoryError
        As `fastio.serialize` does.

    Examples
    --------
    >>> data = fastio.torch.save({"weight": torch.ones(3)})
    >>> fastio.torch.load(data)
    {'weight': tensor([1., 1., 1.])}
    """
    return as_bytes(origins_of(checked_tensors(tensors)), metadata)


def save_file(
    tensors: dict[str, torch.Tensor],
    filename: str | os.PathLike[str],
    metadata: dict[str, str] | None = None,
) -> None:
    """Save tensors to one file with checksums, as `fastio.save` does.

    Parameters
    ----------
    tensors
        As `save` takes them.
    filename : str or os.PathLike
    metadata : dict of str to str, optional
        Stored as given, without keys that begin with ``fastio.``. Default: ``format: pt``.

    Raises
    ------
    RuntimeError, ValueError, NotImplementedError, TypeError, UsageError, DtypeError, FormatError
        As `save` does.
    WriteError, MemoryLimitError
        As `fastio.save` does.

    Examples
    --------
    >>> fastio.torch.save_file({"weight": torch.ones(3)}, "ones.safetensors")
    >>> fastio.torch.load_file("ones.safetensors")
    {'weight': tensor([1., 1., 1.])}
    """
    to_file(origins_of(checked_tensors(tensors)), filename, metadata)
