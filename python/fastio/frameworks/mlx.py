"""MLX arrays. MLX has no fp8, and makes F64 to float32."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import mlx.core as mx
import numpy as np
import numpy.typing as npt

from fastio.frameworks.through_numpy import ArrayFramework

_WITHOUT = ("F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")


def _array_of(tensor: Any) -> npt.NDArray[Any]:
    if tensor.dtype == mx.bfloat16:  # the buffer protocol has no name for it
        return np.asarray(tensor.view(mx.uint16)).view(ml_dtypes.bfloat16)
    return np.asarray(tensor)


FRAMEWORK = ArrayFramework("mlx", make=mx.array, array_of=_array_of, without=_WITHOUT)
