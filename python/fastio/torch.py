"""safetensors.torch by fastio: change the import, and nothing else."""

from __future__ import annotations

import os
from typing import Any

import torch

from fastio.display.values import shown
from fastio.dropin.in_memory import deserialize, tensors_in
from fastio.dropin.safe_open import all_tensors, safe_open
from fastio.dropin.serialize import as_bytes, serialize, serialize_file, to_file
from fastio.dropin.specs import TensorSpec
from fastio.dropin.torch_names import (  # noqa: F401 (for those who import them from here)
    _SIZE,
    _TYPES,
    _find_shared_tensors,
    _getdtype,
    _is_complete,
    _remove_duplicate_names,
    _to_ndarray,
    _tobytes,
)
from fastio.dropin.torch_names import storage_ptr as storage_ptr  # noqa: PLC0414 (exported to mypy)
from fastio.dropin.torch_names import storage_size as storage_size  # noqa: PLC0414
from fastio.formats.checksums import FORMAT_OF_NONE, without_own_keys
from fastio.frameworks import framework, tied
from fastio.frameworks import torch as _tensors  # noqa: F401 (a later call may find no module)
from fastio.frameworks.handed import check_mapping, problem_of
from fastio.saving.sources import checked_metadata, sources

__all__ = [
    "TensorSpec",
    "deserialize",
    "load",
    "load_file",
    "load_model",
    "safe_open",
    "save",
    "save_file",
    "save_model",
    "serialize",
    "serialize_file",
]


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


def load_model(
    model: torch.nn.Module,
    filename: str | os.PathLike[str],
    strict: bool = True,
    device: str | int = "cpu",
    *,
    backend: str = "mmap",
) -> tuple[set[str], list[str]]:
    """Load a file into a model, whose parameters may be tied.

    The file may have one name of each group, as from `save_model`, or several with the same
    values, as from ``fastio.save(model.state_dict(), path)``.

    Parameters
    ----------
    model : torch.nn.Module
    filename : str or os.PathLike
    strict : bool
        Whether a name that the model or the file lacks is an error.
    device, backend
        As `load_file` takes them.

    Returns
    -------
    (missing, unexpected) : (set of str, list of str)
        Names of the model that were not filled. Names of the file that were not used, or whose
        values differ from those of a tied name.

    Raises
    ------
    RuntimeError
        With `strict`: names that are missing or unexpected. A tensor of another shape. A group of
        parameters, or one alone, of which none covers its storage.
    AttributeError
        `model` is no module.
    As `load_file` does.

    Examples
    --------
    >>> model = torch.nn.Linear(3, 2)
    >>> fastio.torch.save_model(model, "linear.safetensors")
    >>> fastio.torch.load_model(model, "linear.safetensors")
    (set(), [])
    """
    _check_module(model, "load_model")
    tensors = load_file(filename, device, backend=backend)
    state = model.state_dict()
    aliases = tied.aliases(state, preferred=tensors)
    not_filled, not_used = model.load_state_dict(tensors, strict=False)
    missing, unexpected = set(not_filled), list(not_used)
    for name, standing in aliases.items():
        if name in missing:
            missing.remove(name)
        elif name in tensors and not (  # else a hook has renamed what the file has
            standing in tensors
            and tied.covers_its_storage(state[name])
            and tied.agree(state, tensors, [name, standing])
        ):
            unexpected.append(name)
    if strict and (missing or unexpected):
        problem = f"Error(s) in loading state_dict for {type(model).__name__}:"
        for what, names in (("Missing", missing), ("Unexpected", unexpected)):
            if names:
                listed = ", ".join(f'"{name}"' for name in sorted(names))
                problem += f"\n    {what} key(s) in state_dict: {listed}"
        raise RuntimeError(problem)
    return missing, unexpected


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
    return as_bytes(sources(_checked(tensors)), metadata)


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
    to_file(sources(_checked(tensors)), filename, metadata)


def save_model(
    model: torch.nn.Module,
    filename: str | os.PathLike[str],
    metadata: dict[str, str] | None = None,
    force_contiguous: bool = True,
) -> None:
    """Save a model, whose parameters may be tied: the file has one name of each group.

    Parameters
    ----------
    model : torch.nn.Module
    filename : str or os.PathLike
    metadata : dict of str to str, optional
        Each omitted name is added with the name that stands for it. Default: ``format: pt``.
    force_contiguous : bool
        Whether parameters may have any memory layout. The file has them contiguous.

    Raises
    ------
    RuntimeError
        A group of parameters, or one alone, of which none covers its storage.
    ValueError
        The model has a value that is no tensor, or not dense; without `force_contiguous` not
        contiguous.
    AttributeError
        `model` is no module.
    As `save_file` does.

    Examples
    --------
    >>> fastio.torch.save_model(torch.nn.Linear(3, 2), "linear.safetensors")
    >>> sorted(fastio.load("linear.safetensors"))
    ['bias', 'weight']
    """
    _check_module(model, "save_model")
    state = model.state_dict()
    _check_dense(state)
    stored = checked_metadata(metadata)
    aliases = tied.aliases(state)
    if aliases:
        stored = aliases | (without_own_keys(stored or {}) or FORMAT_OF_NONE)
    state = {name: tensor for name, tensor in state.items() if name not in aliases}
    try:
        checked = _checked(state, contiguous=not force_contiguous)
    except ValueError as error:
        raise ValueError(f"{error}, or save_model with force_contiguous=True") from None
    to_file(sources(checked), filename, stored)


def _check_module(model: Any, call: str) -> None:
    if not callable(getattr(model, "state_dict", None)):
        raise AttributeError(
            f"{call} takes a torch.nn.Module first, not {type(model).__name__}; save_file and "
            "load_file are for tensors by name"
        )


def _check_dense(tensors: Any) -> None:
    if not isinstance(tensors, dict):
        try:
            check_mapping(tensors)
        except TypeError as error:  # safetensors raises ValueError
            raise ValueError(str(error)) from None
        raise ValueError(f"tensors must be a dict, not {type(tensors).__name__}")
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"tensor {shown(name)} {problem_of(tensor)}")
        if torch.nn.parameter.is_lazy(tensor):
            raise ValueError(f"tensor {shown(name)} is not initialized: run its LazyModule once")
        if tensor.layout is not torch.strided:
            raise ValueError(
                f"tensor {shown(name)} is not dense, but {tensor.layout}: save its to_dense()"
            )


def _checked(
    tensors: dict[str, torch.Tensor], *, contiguous: bool = True
) -> dict[str, torch.Tensor]:
    """Tensors that safetensors takes, without pending conjugation or negation."""
    _check_dense(tensors)
    shared = [sorted(map(str, group)) for group in tied.groups(tensors) if len(group) > 1]
    if shared:
        raise RuntimeError(
            f"tensors share memory, and would no longer do so when they are loaded: {shared}. "
            "fastio.torch.save_model saves a model that has such ones; a clone() shares none"
        )
    for name, tensor in tensors.items():
        if contiguous and not tensor.is_contiguous():
            raise ValueError(f"tensor {shown(name)} is not contiguous: save its contiguous()")
        if tensor.device.type == "meta":
            raise NotImplementedError(
                f"tensor {shown(name)} is on the device meta, and has no values"
            )
    # A view that is conjugated or negated has its bytes as they were before.
    return {name: tensor.resolve_conj().resolve_neg() for name, tensor in tensors.items()}


def __dir__() -> list[str]:
    return sorted(__all__)
