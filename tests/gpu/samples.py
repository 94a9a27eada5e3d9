"""The tensors that loads to a GPU are compared with: byte by byte, on the device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import fastio
from samples import MODEL as OF_LOADS
from samples import Spec

MIB = 2**20
# A single tensor may be in a segment of torch's allocator whose rest is too small to split.
ROUNDING_BYTES = 2 * MIB

# Besides the dtypes of other loads: sizes that break the alignment of the next tensor, and packed
# and short dtypes.
MODEL: Spec = {
    **OF_LOADS,
    "odd.bytes": ("U8", (3_000_001,)),
    "odd.scale": ("F64", (77,)),
    "odd.wide": ("C64", (333,)),
    "odd.short": ("F8_E4M3", (5, 3)),
    "odd.packed": ("F4", (6, 34)),
}


def data_of(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a contiguous tensor as (n,) uint8, on the same device."""
    return tensor.detach().reshape(-1).view(torch.uint8)


def assert_same(
    found: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    device: str | Mapping[str, str] = "cuda:0",
) -> None:
    """Dtype, shape and every byte are those of tensors on the CPU, each on its device."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        on = device if isinstance(device, str) else device[name]
        assert str(found[name].device) == on, name
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert found[name].is_contiguous(), name
        # Moved as bytes: torch copies no values of some dtypes.
        assert torch.equal(data_of(found[name]), data_of(tensor).to(on)), name


def on_cpu(path: Path, **given: Any) -> dict[str, torch.Tensor]:
    """The same tensors by a load to host memory that does not map the file."""
    given.setdefault("options", fastio.Options(mapping="never"))
    tensors: dict[str, torch.Tensor] = fastio.load(path, framework="torch", **given)
    return tensors


def on_gpu(path: Path, **given: Any) -> dict[str, torch.Tensor]:
    """The tensors of a file, on the GPU."""
    given.setdefault("device", "cuda:0")
    tensors: dict[str, torch.Tensor] = fastio.load(path, framework="torch", **given)
    return tensors


def nbytes_of(tensors: Mapping[str, torch.Tensor]) -> int:
    """The bytes of all of them."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
