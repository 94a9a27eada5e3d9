"""torch tensors over loaded memory, through DLPack. Wraps only; reads nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.dlpack import from_dlpack

from fastio import _native
from fastio.catalog import shapes_in_memory

# DLPack's type codes, https://dmlc.github.io/dlpack/latest/c_api.html: the dtypes that every torch
# release takes over as they are.
_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL = 0, 1, 2, 4, 5, 6
_CODES: dict[str, tuple[int, int]] = {
    "BOOL": (_BOOL, 8),
    "U8": (_UINT, 8),
    "I8": (_INT, 8),
    "U16": (_UINT, 16),
    "I16": (_INT, 16),
    "F16": (_FLOAT, 16),
    "BF16": (_BFLOAT, 16),
    "U32": (_UINT, 32),
    "I32": (_INT, 32),
    "F32": (_FLOAT, 32),
    "U64": (_UINT, 64),
    "I64": (_INT, 64),
    "F64": (_FLOAT, 64),
    "C64": (_COMPLEX, 64),
}

# Handed over as bytes and viewed: not every release knows their codes. F4 packs two values in a
# byte, and torch counts the pairs.
_VIEWED = {
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "float4_e2m1fn_x2",
}

DTYPES: dict[str, torch.dtype | None] = {
    **dict.fromkeys(_CODES),
    **{name: getattr(torch, dtype) for name, dtype in _VIEWED.items() if hasattr(torch, dtype)},
}
"""The dtypes that torch can hold, each with the one its bytes are viewed as, or None."""


def wrap(
    loaded: _native.Loaded, shard: int, dtypes: Sequence[str], shapes: list[tuple[int, ...]]
) -> list[torch.Tensor]:
    """Return one tensor for each of a shard, each with a storage of exactly its own bytes.

    Parameters
    ----------
    loaded : _native.Loaded
    shard : int
        Index of the file in the load.
    dtypes : sequence of str
        safetensors dtype names, all of them in `DTYPES`.
    shapes : list of tuple of int

    Raises
    ------
    ValueError
        A dtype and shape that do not come to the tensor's bytes.
    """
    codes = [_CODES.get(dtype, (_UINT, 8)) for dtype in dtypes]
    capsules = loaded.dlpack(
        shard,
        bytes(code for code, _ in codes),
        bytes(bits for _, bits in codes),
        shapes_in_memory(dtypes, shapes),
    )
    tensors: list[torch.Tensor] = [from_dlpack(capsule) for capsule in capsules]
    for index, dtype in enumerate(dtypes):
        viewed = DTYPES[dtype]
        if viewed is not None:
            tensors[index] = tensors[index].view(viewed)
    return tensors
