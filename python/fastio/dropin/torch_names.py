"""Names of ``safetensors.torch`` that its documentation lacks and that other projects import.

transformers takes `storage_ptr` and `storage_size`, ``torch.distributed.checkpoint`` takes
`_getdtype`, trainers and converters the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import torch

from fastio.display.values import shown
from fastio.frameworks import tied
from fastio.frameworks.torch_dtypes import HELD

_TYPES = dict(HELD)
_SIZE = {dtype: dtype.itemsize for dtype in HELD.values()}


def storage_ptr(tensor: torch.Tensor) -> int:
    """Return the address of the storage of a tensor; 0 for one that has no memory."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:  # a fake or functional tensor, or one of another transform
        return 0


def storage_size(tensor: torch.Tensor) -> int:
    """Return the bytes of the storage of a tensor."""
    return tensor.untyped_storage().nbytes()


def _getdtype(dtype_str: str) -> torch.dtype:
    """Return what torch calls a dtype of a header.

    Raises
    ------
    KeyError
        If torch has none.
    """
    return HELD[dtype_str]


def _is_complete(tensor: torch.Tensor) -> bool:
    """Return whether a tensor covers its storage."""
    return tied.covers_its_storage(tensor)


def _find_shared_tensors(state_dict: Mapping[str, torch.Tensor]) -> list[set[str]]:
    """Return the names of tensors that share memory, together; of others, each alone."""
    return [set(group) for group in tied.groups(state_dict)]


def _remove_duplicate_names(
    state_dict: Mapping[str, torch.Tensor],
    *,
    preferred_names: Collection[str] | None = None,
    discard_names: Collection[str] | None = None,
) -> dict[str, list[str]]:
    """Return each name to keep of tensors that share memory, with the names to remove.

    Raises
    ------
    RuntimeError
        If none of a group, also of one tensor, covers its storage.
    """
    removed: dict[str, list[str]] = defaultdict(list)
    found = tied.aliases(state_dict, preferred_names or (), discard_names or ())
    for name, standing in found.items():
        removed[standing].append(name)
    return removed


def _to_ndarray(tensor: torch.Tensor) -> tuple[npt.NDArray[np.uint8], torch.Tensor]:
    """Return the bytes of a contiguous tensor as (n,) uint8, and the tensor on the CPU."""
    held = tensor.detach().resolve_conj().resolve_neg().to("cpu")
    return held.reshape(-1).view(torch.uint8).numpy(), held


def _tobytes(tensor: torch.Tensor, name: str) -> bytes:
    """Return the bytes of a tensor as a file has them.

    Raises
    ------
    ValueError
        If it is not dense, or not contiguous. Names it.
    """
    if tensor.layout is not torch.strided:
        raise ValueError(
            f"tensor {shown(name)} is not dense, but {tensor.layout}: save its to_dense()"
        )
    if not tensor.is_contiguous():
        raise ValueError(f"tensor {shown(name)} is not contiguous: save its contiguous()")
    return _to_ndarray(tensor)[0].tobytes()
