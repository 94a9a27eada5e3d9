"""PaddlePaddle tensors. Paddle has no unsigned integers but uint8, and two of the fp8 dtypes.

Its numpy interface knows no ml_dtypes: such values go as the bytes that they are.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import paddle

from fastio.frameworks.through_numpy import ArrayFramework

_WITHOUT = ("F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "U16", "U32", "U64")
# By what Paddle calls them, with an integer of their size that its numpy interface knows.
_AS_INTEGERS: dict[str, tuple[npt.DTypeLike, npt.DTypeLike]] = {
    "bfloat16": (ml_dtypes.bfloat16, np.int16),
    "float8_e4m3fn": (ml_dtypes.float8_e4m3fn, np.uint8),
    "float8_e5m2": (ml_dtypes.float8_e5m2, np.uint8),
}


def _make(array: npt.NDArray[Any]) -> Any:
    name = array.dtype.name
    if name not in _AS_INTEGERS:
        return paddle.to_tensor(array)
    if not array.size:
        return paddle.empty(array.shape, dtype=name)
    _, integer = _AS_INTEGERS[name]
    return paddle.to_tensor(array.view(integer)).view(name)


def _array_of(tensor: Any) -> npt.NDArray[Any]:
    name = str(tensor.dtype).rpartition(".")[2]
    array: npt.NDArray[Any]
    if name not in _AS_INTEGERS:
        array = tensor.numpy()
        return array
    own_dtype, integer = _AS_INTEGERS[name]
    if not tensor.size:
        return np.empty(tensor.shape, own_dtype)
    array = tensor.contiguous().view(np.dtype(integer).name).numpy()
    return array.view(own_dtype)


FRAMEWORK = ArrayFramework("paddle", make=_make, array_of=_array_of, without=_WITHOUT)
