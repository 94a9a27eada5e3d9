"""The calls of ``safetensors.torch`` for whole models, whose parameters may be tied."""

from __future__ import annotations

import os
from typing import Any

import torch

from fastio.dropin.serialize import to_file
from fastio.dropin.torch_checks import check_dense, checked_tensors
from fastio.dropin.torch_files import load_file
from fastio.formats.checksums import FORMAT_OF_NONE, without_own_keys
from fastio.frameworks import tied
from fastio.saving.origins import checked_metadata, origins_of


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
    check_dense(state)
    stored = checked_metadata(metadata)
    aliases = tied.aliases(state)
    if aliases:
        stored = aliases | (without_own_keys(stored or {}) or FORMAT_OF_NONE)
    state = {name: tensor for name, tensor in state.items() if name not in aliases}
    try:
        checked = checked_tensors(state, contiguous=not force_contiguous)
    except ValueError as error:
        raise ValueError(f"{error}, or save_model with force_contiguous=True") from None
    to_file(origins_of(checked), filename, stored)


def _check_module(model: Any, call: str) -> None:
    if not callable(getattr(model, "state_dict", None)):
        raise AttributeError(
            f"{call} takes a torch.nn.Module first, not {type(model).__name__}; save_file and "
            "load_file are for tensors by name"
        )
