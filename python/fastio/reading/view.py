"""A tensor of a reader that is not read yet."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fastio.catalog.dtypes import shape_in_memory
from fastio.display.values import cut, one_line
from fastio.frameworks import Framework, check_dtype
from fastio.reading.located import Cut, LocatedSource


class _Reader(Protocol):
    """What reads it."""

    @property
    def _open_source(self) -> LocatedSource: ...
    @property
    def _framework(self) -> Framework: ...
    def _whole(self, position: tuple[int, int] | Cut) -> Any: ...
    def _part(self, position: tuple[int, int] | Cut, index: Any) -> Any: ...


class TensorView:
    """A tensor that is not read yet: ``view[...]`` reads all of it, ``view[10:20]`` a part.

    Attributes
    ----------
    name : str
    info : TensorInfo
        Its `shape` is the logical one.
    shape : tuple of int
        Of the array: packed F4 counts pairs of values along the last axis.
    dtype
        Of the framework.
    nbytes : int

    Examples
    --------
    >>> view = fastio.open("model.safetensors")["weight"]
    >>> view.shape
    (2, 3)
    >>> view[1, :2]
    array([3., 4.], dtype=float32)
    """

    __slots__ = ("_position", "_reader", "dtype", "info", "name", "nbytes", "shape")

    def __init__(self, reader: _Reader, name: str) -> None:
        self._reader = reader
        self._position = reader._open_source.position(name)
        self.info = reader._open_source.info(name)
        check_dtype(self.info, reader._framework)
        self.name = name
        self.shape = shape_in_memory(self.info.dtype, self.info.shape)
        self.dtype = reader._framework.dtype_of(self.info.dtype)
        self.nbytes = self.info.nbytes

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an unsized tensor")
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """Return a part as an array with memory of its own.

        Parameters
        ----------
        index
            As in numpy: ints, slices with steps, Ellipsis and None along any axis; an array of
            integers or booleans along axis 0.

        Raises
        ------
        SelectionError
            An index out of range, or of another kind.
        ChecksumError, MemoryError, MemoryLimitError, ReadError
            As `fastio.load` does.
        UsageError
            The reader is closed.
        """
        _ = self._reader._open_source
        if index is Ellipsis:
            return self._reader._whole(self._position)
        return self._reader._part(self._position, index)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("a tensor that is not read yet cannot be had without a copy")
        return np.asarray(self[...], dtype=dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        # By its name: where it lies in what has the path by then is looked up there.
        return TensorView, (self._reader, self.name)

    @one_line
    def __repr__(self) -> str:
        return f"<fastio.TensorView {cut(repr(self.name), 60)} {list(self.shape)} {self.dtype}>"
