"""JAX, TensorFlow, MLX and PaddlePaddle as far as fastio needs them, made of numpy arrays.

Their classes and modules have the real names, and they refuse the same dtypes. The tests use a real
framework if it is installed.
"""

import types
from typing import Any

import ml_dtypes
import numpy as np


class _Values:
    """A tensor over a numpy array."""

    def __init__(self, array: Any) -> None:
        self.array = np.array(array)

    dtype = property(lambda self: self.array.dtype)
    shape = property(lambda self: self.array.shape)
    size = property(lambda self: self.array.size)


def _class(module: str, name: str, **members: Any) -> Any:
    return type(name, (_Values,), {"__module__": module, **members})


def jax() -> dict[str, types.ModuleType]:
    """`numpy.asarray` reads an array, and ``jax.numpy.asarray`` makes one."""
    array = _class("jaxlib._jax", "ArrayImpl", __array__=_as_array)
    package, numpy = types.ModuleType("jax"), types.ModuleType("jax.numpy")
    numpy.asarray = array  # type: ignore[attr-defined]
    package.numpy = numpy  # type: ignore[attr-defined]
    return {"jax": package, "jax.numpy": numpy}


def tensorflow() -> dict[str, types.ModuleType]:
    """A tensor has ``numpy()``; for a scalar it returns a numpy scalar."""
    tensor = _class("tensorflow.python.framework.ops", "Tensor", numpy=lambda self: self.array[()])
    package = types.ModuleType("tensorflow")
    package.convert_to_tensor = tensor  # type: ignore[attr-defined]
    return {"tensorflow": package}


def mlx() -> dict[str, types.ModuleType]:
    """The buffer protocol of an array knows no bf16."""

    def no_bf16(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.dtype == ml_dtypes.bfloat16:
            raise ValueError("'bfloat16' is not a valid PEP 3118 buffer format string")
        return _as_array(self)

    array = _class(
        "mlx.core",
        "array",
        __array__=no_bf16,
        view=lambda self, dtype: type(self)(self.array.view(dtype)),
    )
    package, core = types.ModuleType("mlx"), types.ModuleType("mlx.core")
    core.array, core.bfloat16, core.uint16 = array, ml_dtypes.bfloat16, np.uint16  # type: ignore[attr-defined]
    package.core = core  # type: ignore[attr-defined]
    return {"mlx": package, "mlx.core": core}


def paddle() -> dict[str, types.ModuleType]:
    """Its numpy interface has no dtype of ml_dtypes."""

    def plain(array: Any) -> Any:
        if array.dtype.kind == "V" or array.dtype.name.startswith(("bfloat", "float8")):
            raise ValueError("(InvalidArgument) incompatible array data type")
        return array

    tensor = _class(
        "paddle",
        "Tensor",
        numpy=lambda self: plain(self.array),
        contiguous=lambda self: self,
        view=lambda self, name: type(self)(self.array.view(np.dtype(name))),
    )
    package = types.ModuleType("paddle")
    package.to_tensor = lambda array: tensor(plain(array))  # type: ignore[attr-defined]
    package.empty = lambda shape, dtype: tensor(np.empty(shape, dtype))  # type: ignore[attr-defined]
    return {"paddle": package}


def _as_array(self: Any, dtype: Any = None, copy: Any = None) -> Any:
    return self.array
