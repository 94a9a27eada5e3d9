"""Frameworks whose tensors are made of numpy arrays, and become such arrays to be saved.

`fastio.frameworks.numpy` does the work. This module adds one call for each
tensor. It reads and writes no file format of the framework.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import fastio._native as _native
from fastio.errors import UsageError
from fastio.frameworks import Origin, Place
from fastio.frameworks import numpy as arrays


class ArrayFramework:
    """A `fastio.frameworks.Framework`, made of two conversions.

    Parameters
    ----------
    name : str
        As `framework=` has it.
    make : callable
        From a numpy array, whose memory is nobody else's, to a tensor.
    array_of : callable
        From a tensor to a numpy array of its values; it may be a view of the tensor's memory.
    without : collection of str
        Dtypes of files that the framework lacks.
    """

    def __init__(
        self,
        name: str,
        *,
        make: Callable[[npt.NDArray[Any]], Any],
        array_of: Callable[[Any], npt.NDArray[Any]],
        without: Collection[str] = (),
    ) -> None:
        self.NAME = name
        self.DTYPES = {dtype: own for dtype, own in arrays.DTYPES.items() if dtype not in without}
        self._make = make
        self._array_of = array_of

    def wrap(
        self,
        loaded: _native.Loaded,
        shard: int,
        dtypes: Sequence[str],
        shapes: list[tuple[int, ...]],
        first: int = 0,
    ) -> list[Any]:
        """Return one tensor for each of a row of tensors of a shard."""
        return [self._make(array) for array in arrays.wrap(loaded, shard, dtypes, shapes, first)]

    def copies(
        self,
        data: bytes,
        dtypes: Sequence[str],
        shapes: list[tuple[int, ...]],
        begins: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
    ) -> list[Any]:
        """Return tensors out of bytes that have them from `begins` to `ends`, each as a copy."""
        return [self._make(array) for array in arrays.copies(data, dtypes, shapes, begins, ends)]

    def part_mapped(
        self,
        file: _native.MappedFile,
        row: int,
        dtype: str,
        shape: tuple[int, ...],
        index: object,
    ) -> Any:
        """Return a part of a tensor of a file that is in the page cache; None where it is not one
        of those that are copied out at once.
        """
        array = arrays.part_mapped(file, row, dtype, shape, index)
        return None if array is None else self._make(array)

    def wrap_mapped(
        self, file: _native.MappedFile, row: int, dtype: str, shape: tuple[int, ...]
    ) -> Any:
        """Return one tensor of a file that is in the page cache."""
        return self._make(arrays.wrap_mapped(file, row, dtype, shape))

    def adopt(self, memory: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> Any:
        """Return memory as a tensor; `shape` is that of the tensor."""
        return self._make(arrays.adopt(memory, dtype, shape))

    def dtype_of(self, dtype: str) -> np.dtype[Any]:
        """Return what numpy calls a dtype.

        Raises
        ------
        KeyError
            If the framework cannot hold it.
        """
        return self.DTYPES[dtype]

    def place_of(self, tensor: Any, dtype: str) -> Place:
        """Refuse to fill a tensor: nothing is promised of its memory.

        Raises
        ------
        TypeError
        """
        raise TypeError(
            f"is a tensor of {self.NAME}, which cannot be filled in place: "
            f"fastio.load(..., framework={self.NAME!r}) makes new ones"
        )

    def origin_of(self, tensor: Any) -> Origin:
        """Return where the bytes of a tensor are taken from.

        Raises
        ------
        DtypeError
            If no file can hold its dtype.
        TypeError
            If it has no values here: it is symbolic, was deleted, or lies on other hosts.
        """
        try:
            array = np.asarray(self._array_of(tensor))
        except Exception as error:  # each framework has its own
            raise TypeError(
                f"is a {type(tensor).__name__} of {self.NAME}, whose values cannot be had as a "
                f"numpy array: {error}"
            ) from error
        return arrays.origin_of(array)

    def note_write(self, tensor: Any) -> None:
        """Never called: no tensor is filled."""

    def destination(self, device: object, stream: object) -> None:
        """Return None: tensors go where the framework puts them.

        Raises
        ------
        UsageError
            For a device other than the CPU, and for a stream.
        """
        self.mover_to(device)
        if stream is not None:
            raise UsageError(f"stream= is for torch, and the framework is {self.NAME}")

    def mover_to(self, device: object) -> None:
        """Return None: tensors go where the framework puts them.

        Raises
        ------
        UsageError
            For a device other than the CPU.
        """
        if device not in ("cpu", None):
            raise UsageError(
                f"device={device!r}: with {self.NAME} tensors go to its default device; move them "
                "from there"
            )
