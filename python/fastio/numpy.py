"""numpy arrays over loaded memory. Wraps only; reads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from fastio import _native
from fastio.catalog import shapes_in_memory

# F4 holds two values a byte, which no numpy dtype does: it is handed out packed, as uint8 of half
# the length.
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "BOOL": np.bool_,
        "F4": np.uint8,
        "U8": np.uint8,
        "I8": np.int8,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
        "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
        "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
        "U16": np.uint16,
        "I16": np.int16,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "U32": np.uint32,
        "I32": np.int32,
        "F32": np.float32,
        "U64": np.uint64,
        "I64": np.int64,
        "F64": np.float64,
        "C64": np.complex64,
    }.items()
}


def wrap(
    loaded: _native.Loaded, shard: int, dtypes: Sequence[str], shapes: list[tuple[int, ...]]
) -> list[np.ndarray[Any, np.dtype[Any]]]:
    """Return one array for each tensor of a shard, each owning its own bytes.

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
    held = [DTYPES[dtype] for dtype in dtypes]
    return loaded.numpy(shard, held, shapes_in_memory(dtypes, shapes))
