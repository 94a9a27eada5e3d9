"""The dtypes that torch holds, and their names in DLPack."""

from __future__ import annotations

import torch

# DLPack's type codes, https://dmlc.github.io/dlpack/latest/c_api.html: the dtypes that every torch
# release takes over as they are.
_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL = 0, 1, 2, 4, 5, 6
BYTE = (_UINT, 8)
CODES: dict[str, tuple[int, int]] = {
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
    **dict.fromkeys(CODES),
    **{name: getattr(torch, dtype) for name, dtype in _VIEWED.items() if hasattr(torch, dtype)},
}
"""The dtypes that torch can hold, each with the one its bytes are viewed as, or None."""


# The torch dtype of each dtype of a header.
HELD: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    **{name: dtype for name, dtype in DTYPES.items() if dtype is not None},
}

# Builds for ROCm call their devices "cuda" too.
IS_CUDA = getattr(torch.version, "cuda", None) is not None

NAMES = {dtype: name for name, dtype in HELD.items()}
