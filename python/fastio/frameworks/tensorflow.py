"""TensorFlow tensors. TensorFlow has no F8_E8M0."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import tensorflow as tf

from fastio.frameworks.through_numpy import ArrayFramework


def _array_of(tensor: Any) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor.numpy()
    return array


FRAMEWORK = ArrayFramework(
    "tensorflow",
    make=tf.convert_to_tensor,
    array_of=_array_of,
    without=["F8_E8M0"],
)
