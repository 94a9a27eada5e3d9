"""TensorSpec, as safetensors has it: a tensor as the address of its bytes, and what they are."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastio.catalog.dtypes import DTYPES
from fastio.display.values import one_line, shown
from fastio.errors import DtypeError, UsageError
from fastio.frameworks import Origin
from fastio.frameworks import numpy as numpy_arrays
from fastio.saving.origins import Origins, checked_names, in_file_order

# By what the constructor calls them: numpy's names, and torch's for pairs of F4 in a byte.
_PAIRS_OF_F4 = "float4_e2m1fn_x2"
_CODES = {
    _PAIRS_OF_F4: "F4",
    **{dtype.name: code for code, dtype in numpy_arrays.DTYPES.items() if code != "F4"},
}
_WORD_VALUES = 2**64  # of an unsigned number, as a header's sizes are


class TensorSpec:
    """The address, dtype and shape of a tensor's bytes.

    It has the arguments and attributes of ``safetensors.TensorSpec``. The memory must exist
    unchanged while `fastio.serialize` or `fastio.serialize_file` uses it.

    Parameters
    ----------
    dtype : str
        The name in numpy and torch: ``float32``, ``bfloat16``, ``float8_e4m3fn``.
    shape : sequence of int
        ``float4_e2m1fn_x2`` counts pairs, as a byte has two values.
    data_ptr : int
        The address of the first byte; the bytes are contiguous.
    data_len : int
        In bytes.

    Raises
    ------
    DtypeError
        A dtype that no file can hold.
    TypeError
        An argument of another type.
    OverflowError
        A number that is negative, or has more than 64 bits.
    UsageError
        Too many pairs to count the single values in 64 bits.

    Examples
    --------
    >>> ones = np.ones(3, np.float32)
    >>> spec = fastio.TensorSpec(
    ...     dtype="float32", shape=[3], data_ptr=ones.ctypes.data, data_len=ones.nbytes
    ... )
    >>> spec.dtype, spec.shape
    ('F32', [3])
    """

    __slots__ = ("_data_len", "_data_ptr", "_dtype", "_shape")

    def __init__(self, *, dtype: str, shape: Sequence[int], data_ptr: int, data_len: int) -> None:
        if not isinstance(dtype, str):
            raise TypeError(f"dtype must be a str, not {type(dtype).__name__}")
        if dtype not in _CODES:
            raise DtypeError(f"dtype={shown(dtype)}: expected one of {', '.join(_CODES)}")
        _check_sequence(shape)
        lengths = [_unsigned("shape", length) for length in shape]
        if dtype == _PAIRS_OF_F4 and lengths:
            lengths[-1] *= 2
            if lengths[-1] >= _WORD_VALUES:
                raise UsageError(f"shape: {shape} pairs of F4 are too many")
        self._dtype = _CODES[dtype]
        self._shape = tuple(lengths)
        self._data_ptr = _unsigned("data_ptr", data_ptr)
        self._data_len = _unsigned("data_len", data_len)

    @property
    def dtype(self) -> str:
        """The dtype, as headers write it."""
        return self._dtype

    @property
    def shape(self) -> list[int]:
        """The shape, as headers write it: in single values also of F4."""
        return list(self._shape)

    @property
    def data_ptr(self) -> int:
        """The address of the first byte."""
        return self._data_ptr

    @property
    def data_len(self) -> int:
        """How many bytes there are."""
        return self._data_len

    @one_line
    def __repr__(self) -> str:
        return (
            f"TensorSpec(dtype={self.dtype!r}, shape={self.shape}, data_ptr={self.data_ptr}, "
            f"data_len={self.data_len})"
        )


def _check_sequence(shape: object) -> None:
    if isinstance(shape, str) or not isinstance(shape, (Sequence, np.ndarray)):
        raise TypeError(f"shape must be a sequence of int, not {type(shape).__name__}")


def _unsigned(what: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{what}: expected an int, not {type(value).__name__}") from None
    if not 0 <= number < _WORD_VALUES:
        raise OverflowError(f"{what}: {number} is no unsigned number of 64 bits")
    return number


def origins_of_specs(specs: Mapping[str, TensorSpec]) -> Origins:
    """Put tensors that are given as addresses in the order of a file.

    Parameters
    ----------
    specs : mapping of str to TensorSpec
        Of fastio or of safetensors.

    Raises
    ------
    TypeError
        `specs` is no mapping; a name is no str; something is no TensorSpec.
    UsageError
        A name that no file can hold, or that two tensors have; a tensor whose bytes are more or
        fewer than its dtype and shape come to, or nowhere. Names it.
    """
    if not isinstance(specs, Mapping):
        raise TypeError(f"tensor_dict must be a dict, not {type(specs).__name__}")
    items = list(specs.items())
    found = Origins.blank(checked_names([name for name, _ in items]))
    for row, (name, spec) in enumerate(items):
        # By name: that of safetensors, which need not be installed, is as good.
        if type(spec).__name__ != TensorSpec.__name__:
            raise TypeError(f"tensor {shown(name)} is a {type(spec).__name__}, and no TensorSpec")
        found.put(row, _origin_of(name, spec))
    return in_file_order(found)


def _origin_of(name: str, spec: TensorSpec) -> Origin:
    bits = DTYPES[spec.dtype].bits
    for length in spec.shape:
        bits *= length
        if bits >= 8 * _WORD_VALUES:
            raise UsageError(f"tensor {shown(name)} of shape {spec.shape} has too many values")
    if bits != 8 * spec.data_len:
        raise UsageError(
            f"tensor {shown(name)} has {spec.data_len} bytes; {spec.dtype} of shape {spec.shape} "
            f"comes to {bits / 8:g}"
        )
    if spec.data_len and not spec.data_ptr:
        raise UsageError(f"tensor {shown(name)} has {spec.data_len} bytes at address 0")
    return Origin(spec.dtype, tuple(spec.shape), spec.data_ptr, spec.data_len, None, 1, spec)
