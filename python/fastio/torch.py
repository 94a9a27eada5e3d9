"""safetensors.torch, as far as it loads, by fastio: change the import, and nothing else."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch

from fastio.frameworks import framework
from fastio.in_memory import deserialize, tensors_in
from fastio.safe_open import safe_open

__all__ = ["deserialize", "load", "load_file", "load_model", "safe_open"]


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
    """
    with safe_open(filename, framework="pt", device=device, backend=backend) as file:
        return file.get_tensors()


def load(data: bytes) -> dict[str, torch.Tensor]:
    """Load all tensors of a file that is in memory, as copies.

    Raises
    ------
    As `fastio.deserialize` does; TypeError for a dtype that torch cannot hold.
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
    """Load a file into a model whose parameters may be tied: the file has one name of each group.

    Parameters
    ----------
    model : torch.nn.Module
    filename : str or os.PathLike
    strict : bool
        Whether a name that the model lacks, or the file, is an error.
    device, backend
        As `load_file` takes them.

    Returns
    -------
    (missing, unexpected) : (set of str, list of str)
        Names of the model that were not filled; names of the file that were not used.

    Raises
    ------
    RuntimeError
        With `strict`: names that are missing or unexpected. A tensor of another shape. Parameters,
        tied or alone, of which none covers their storage.
    As `load_file` does.
    """
    tensors = load_file(filename, device, backend=backend)
    aliases = _aliases(model.state_dict(), preferred=tensors)
    not_filled, not_used = model.load_state_dict(tensors, strict=False)
    missing, unexpected = set(not_filled), list(not_used)
    for name in aliases:
        if name in missing:
            missing.remove(name)
        else:  # the file has it beside the name that stands for it
            unexpected.append(name)
    if strict and (missing or unexpected):
        problem = f"Error(s) in loading state_dict for {type(model).__name__}:"
        for what, names in (("Missing", missing), ("Unexpected", unexpected)):
            if names:
                listed = ", ".join(f'"{name}"' for name in sorted(names))
                problem += f"\n    {what} key(s) in state_dict: {listed}"
        raise RuntimeError(problem)
    return missing, unexpected


# What shares memory, https://huggingface.co/docs/safetensors/torch_shared_tensors: tensors of one
# storage whose bytes touch are one group, of which one name stands in a file.


def _aliases(state: Mapping[str, torch.Tensor], preferred: Iterable[str]) -> list[str]:
    """The names that another name stands for."""
    preferred = set(preferred)
    aliases = []
    for group in _groups(state):
        covering = sorted(name for name in group if _covers_its_storage(state[name]))
        if not covering:
            raise RuntimeError(
                f"none of {', '.join(sorted(group))} covers the storage that it is a view of: it "
                "cannot be told what of it a file has"
            )
        standing = next((name for name in covering if name in preferred), covering[0])
        aliases += [name for name in sorted(group) if name != standing]
    return aliases


def _groups(state: Mapping[str, torch.Tensor]) -> list[list[str]]:
    of_storages: dict[tuple[torch.device, int, int], list[tuple[int, int, str]]] = defaultdict(list)
    for name, tensor in state.items():
        storage = tensor.untyped_storage()
        if tensor.device.type == "meta" or not storage.data_ptr() or not storage.nbytes():
            continue
        key = tensor.device, storage.data_ptr(), storage.nbytes()
        of_storages[key].append((tensor.data_ptr(), _end(tensor), name))
    groups: list[list[str]] = []
    for areas in of_storages.values():
        reached = 0
        for begin, end, name in sorted(areas):
            if begin < reached:
                groups[-1].append(name)
            else:
                groups.append([name])
            reached = end
    return groups


def _end(tensor: torch.Tensor) -> int:
    """The address behind the last value."""
    if not tensor.numel():
        return tensor.data_ptr()
    reach = sum(
        stride * (length - 1) for stride, length in zip(tensor.stride(), tensor.shape, strict=True)
    )
    return tensor.data_ptr() + (reach + 1) * tensor.element_size()


def _covers_its_storage(tensor: torch.Tensor) -> bool:
    storage = tensor.untyped_storage()
    return (
        tensor.data_ptr() == storage.data_ptr()
        and tensor.numel() * tensor.element_size() == storage.nbytes()
    )
