"""Tensors that ``safetensors.torch`` saves, and the errors that it raises for others."""

from __future__ import annotations

from typing import Any

import torch

from fastio.display.values import shown
from fastio.frameworks import tied
from fastio.frameworks.handed import check_mapping, problem_of


def check_dense(tensors: Any) -> None:
    """Refuse what is no dict of dense tensors.

    Raises
    ------
    ValueError
        As safetensors does: names the tensor, and says what it is.
    """
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


def checked_tensors(
    tensors: dict[str, torch.Tensor], *, contiguous: bool = True
) -> dict[str, torch.Tensor]:
    """Return tensors that safetensors takes, without pending conjugation or negation.

    Raises
    ------
    RuntimeError
        Tensors that share memory.
    ValueError
        As `check_dense` does; a tensor that is not contiguous, where it must be.
    NotImplementedError
        A tensor on the device meta.
    """
    check_dense(tensors)
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
