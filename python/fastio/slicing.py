"""Which bytes of a tensor an index needs, and how they make up the result. Pure arithmetic.

An index is what numpy takes: ints, slices with any step, Ellipsis and None along every axis, and
along axis 0 also integers or booleans in an array.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastio.errors import SelectionError, UsageError

# Parts that are this near are read in one request; csrc/plan.cc joins what is nearer than that.
_GAP_BYTES = 2**17
SEGMENT_BYTES_MAX = 2**24
"""A segment is held in memory beside the result, so it is never a whole large tensor."""
# numpy copies what an array of positions takes; a result of many equal rows is copied in parts.
_TAKEN_BYTES_MAX = 2**22
# NPY_MAXDIMS of numpy.
_AXES_MAX = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32

_Positions = npt.NDArray[np.intp]


@dataclass(frozen=True)
class _Axis:
    """What is taken along one axis of the tensor: `positions` ascend; `reverse` turns them."""

    positions: range | _Positions
    reverse: bool = False

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class Segment:
    """A run of bytes of the tensor, and the part of the result that is in it.

    Attributes
    ----------
    begin, end : int
        Offsets from the tensor's first byte.
    """

    begin: int
    end: int
    _where: tuple[Any, ...]
    _shape: tuple[int, ...]
    _strides: tuple[int, ...]
    _rows: _Positions | None
    _places: _Positions | None

    def copy_to(self, out: npt.NDArray[Any], memory: npt.NDArray[np.uint8]) -> None:
        """Copy from the segment's bytes to their places in `out`: `Selection.turned` gives it."""
        there: npt.NDArray[Any] = np.ndarray(self._shape, out.dtype, memory, strides=self._strides)
        if self._rows is None:
            out[self._where] = there
            return
        (taken,) = self._where
        row_bytes = math.prod(self._shape[1:]) * out.itemsize
        step = max(1, _TAKEN_BYTES_MAX // row_bytes)
        for first in range(0, len(self._rows), step):
            rows = self._rows[first : first + step]
            if self._places is None:
                at = taken.start + first
                out[at : at + len(rows)] = there[rows]
            else:
                out[self._places[first : first + step]] = there[rows]


@dataclass(frozen=True)
class Selection:
    """A part of a tensor, by an index.

    Attributes
    ----------
    shape : tuple of int
        Of the result.
    item_bytes : int
        Of one element.
    """

    shape: tuple[int, ...]
    _tensor_shape: tuple[int, ...]
    _axes: tuple[_Axis, ...]
    item_bytes: int
    _places: _Positions | None  # of axis 0: where in the result each position goes

    @property
    def nbytes(self) -> int:
        """Of the result."""
        return math.prod(len(axis) for axis in self._axes) * self.item_bytes

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to read."""
        return self.nbytes == 0

    @property
    def is_everything(self) -> bool:
        """Whether the result is all of the tensor in its order."""
        return self.contiguous() == (0, math.prod(self._tensor_shape) * self.item_bytes)

    def contiguous(self) -> tuple[int, int] | None:
        """Return begin and end of the bytes, where the result is just these in their order."""
        if self.is_empty or any(
            axis.reverse or not isinstance(axis.positions, range) for axis in self._axes
        ):
            return None
        # As many bytes as lie between the first and the last one: nothing else is between them.
        strides = _strides(self._tensor_shape, self.item_bytes)
        begin = end = 0
        for axis, stride in zip(self._axes, strides, strict=True):
            begin += int(axis.positions[0]) * stride
            end += int(axis.positions[-1]) * stride
        end += self.item_bytes
        return (begin, end) if end - begin == self.nbytes else None

    def segments(self, segment_bytes: int = SEGMENT_BYTES_MAX) -> Iterator[Segment]:
        """Yield what has to be read, ascending, in segments of about so many bytes at most.

        Raises
        ------
        Nothing.
        """
        if self.is_empty:
            return
        strides = _strides(self._tensor_shape, self.item_bytes)
        split, inner_bytes = self._split(strides, segment_bytes)
        inner = self._axes[split + 1 :]
        steps = strides[split + 1 :]
        inner_begin = sum(
            int(axis.positions[0]) * stride for axis, stride in zip(inner, steps, strict=True)
        )
        inner_shape = tuple(len(axis) for axis in inner)
        inner_strides = tuple(
            _step(axis.positions) * stride for axis, stride in zip(inner, steps, strict=True)
        )
        if split < 0:
            end = inner_begin + inner_bytes
            yield Segment(inner_begin, end, (), inner_shape, inner_strides, None, None)
            return
        positions, stride = self._axes[split].positions, strides[split]
        for outer in np.ndindex(*(len(axis) for axis in self._axes[:split])):
            base = inner_begin + sum(
                int(axis.positions[at]) * step
                for axis, at, step in zip(self._axes[:split], outer, strides[:split], strict=True)
            )
            for first, last in _runs(positions, stride, inner_bytes, segment_bytes):
                begin = base + int(positions[first]) * stride
                end = base + int(positions[last - 1]) * stride + inner_bytes
                rows, count, step = _within(positions[first:last])
                yield Segment(
                    begin,
                    end,
                    (*outer, slice(first, last)),
                    (count, *inner_shape),
                    (step * stride, *inner_strides),
                    rows,
                    None if self._places is None else self._places[first:last],
                )

    def _split(self, strides: Sequence[int], segment_bytes: int) -> tuple[int, int]:
        """The innermost axis along which segments are apart, or -1; and the bytes inside of it."""
        span = self.item_bytes
        for axis in range(len(self._axes) - 1, -1, -1):
            positions = self._axes[axis].positions
            regular = isinstance(positions, range)
            if len(positions) > 1 or not regular:
                wider = int(positions[-1] - positions[0]) * strides[axis] + span
                gap = _step(positions) * strides[axis] - span
                if not regular or gap > _GAP_BYTES or wider > segment_bytes:
                    return axis, span
                span = wider
        return -1, span

    def blank(self) -> npt.NDArray[Any]:
        """Return memory for the result, uninitialised: one axis for each of the tensor."""
        shape = tuple(len(axis) for axis in self._axes)
        return np.empty(shape, np.dtype(f"u{self.item_bytes}"))

    def turned(self, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the same memory with its axes in the order of the tensor, for segments."""
        turns = tuple(slice(None, None, -1 if axis.reverse else 1) for axis in self._axes)
        return out[turns] if turns else out


def _strides(shape: Sequence[int], item_bytes: int) -> list[int]:
    strides = [item_bytes] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return strides


def _step(positions: range | _Positions) -> int:
    return positions.step if isinstance(positions, range) else 1


def _runs(
    positions: range | _Positions, stride: int, inner_bytes: int, segment_bytes: int
) -> Iterator[tuple[int, int]]:
    """Cut positions into runs that are read together: [first, last)."""
    if isinstance(positions, range):
        step_bytes = positions.step * stride
        is_far = step_bytes - inner_bytes > _GAP_BYTES
        together = 1 if is_far else max(1, segment_bytes // step_bytes)
        for first in range(0, len(positions), together):
            yield first, min(first + together, len(positions))
        return
    first = 0
    apart = np.diff(positions) * stride - inner_bytes > _GAP_BYTES
    for last in [*(np.flatnonzero(apart) + 1).tolist(), len(positions)]:
        while first < last:
            limit = positions[first] + max(1, segment_bytes // stride)
            stop = int(min(last, max(first + 1, np.searchsorted(positions, limit))))
            yield first, stop
            first = stop


def _within(positions: range | _Positions) -> tuple[_Positions | None, int, int]:
    """Of the positions of one run: which of its rows (None: all), their count, their step."""
    if isinstance(positions, range):
        return None, len(positions), positions.step
    rows = positions - positions[0]
    return rows, int(rows[-1]) + 1, 1


# ---- indices ------------------------------------------------------------------------------------


class UnknownIndexError(SelectionError):
    """An index of a kind that is not known here, though a framework may know it."""


def select(index: Any, shape: tuple[int, ...], item_bytes: int) -> Selection:
    """Return the part of a tensor that an index asks for, with numpy's meaning.

    Parameters
    ----------
    index : int, slice, Ellipsis, None, an array along axis 0, or a tuple of these
    shape : tuple of int
        Of the tensor, in memory.
    item_bytes : int
        Of one element: 1, 2, 4 or 8.

    Raises
    ------
    UnknownIndexError
        An index of another kind; an array along another axis.
    SelectionError
        Out of range, or too many indices.
    TypeError, UsageError
        A slice of something else than ints; one whose step is 0.
    """
    given = [_item(item) for item in (index if isinstance(index, tuple) else (index,))]
    items = _expanded(given, len(shape))
    axes: list[_Axis] = []
    result: list[int] = []
    listed: tuple[int, ...] | None = None
    places: _Positions | None = None
    front = 0
    for item in items:
        if item is None:
            result.append(1)
            continue
        length = shape[len(axes)]
        if isinstance(item, slice):
            axes.append(_sliced(item, length))
            result.append(len(axes[-1]))
        elif isinstance(item, np.ndarray):
            positions, places = _ascending(_listed(item, length, len(axes)))
            listed = (len(positions),) if item.dtype.kind == "b" else item.shape
            axes.append(_Axis(positions))
            front = len(result)
            result.extend(listed)
        else:
            axes.append(_single(item, length, len(axes)))
    if len(result) > _AXES_MAX:
        raise IndexError(f"the result would have {len(result)} axes; at most {_AXES_MAX} are had")
    if listed is not None and _separated(given) and front:
        result = [*listed, *result[:front], *result[front + len(listed) :]]
    return Selection(tuple(result), shape, tuple(axes), item_bytes, places)


def _expanded(items: list[Any], ndim: int) -> list[Any]:
    """The items of an index, one for each axis and None: Ellipsis replaced."""
    dots = [at for at, item in enumerate(items) if item is Ellipsis]
    if len(dots) > 1:
        raise UnknownIndexError("an index can only have a single ellipsis ('...')")
    given = len(items) - len(dots) - sum(item is None for item in items)
    if given > ndim:
        raise SelectionError(
            f"too many indices for array: array is {ndim}-dimensional, but {given} were indexed"
        )
    at = dots[0] if dots else len(items)
    return [*items[:at], *[slice(None)] * (ndim - given), *items[at + len(dots) :]]


def _item(item: Any) -> Any:
    if item is None or item is Ellipsis or isinstance(item, slice):
        return item
    # A boolean of torch, too, says it is an int.
    is_flag = isinstance(item, bool) or str(getattr(item, "dtype", "")).endswith("bool")
    if isinstance(item, (str, bytes, float)) or (is_flag and not getattr(item, "ndim", 0)):
        raise _no_index(item)
    try:
        return operator.index(item)
    except TypeError:
        pass
    try:
        listed = np.asarray(item)
    except Exception:
        raise _no_index(item) from None
    if listed.ndim == 0:
        raise _no_index(item)
    if listed.size == 0 and isinstance(item, (list, tuple)):
        listed = listed.astype(np.intp)
    if listed.dtype.kind not in "iub":
        raise UnknownIndexError("arrays used as indices must be of integer (or boolean) type")
    return listed


def _no_index(item: object) -> UnknownIndexError:
    return UnknownIndexError(
        "only integers, slices (`:`), ellipsis (`...`), None and integer or boolean arrays are "
        f"valid indices, not {type(item).__name__}"
    )


def _sliced(item: slice, length: int) -> _Axis:
    if item.step is not None and operator.index(item.step) == 0:
        raise UsageError("slice step cannot be zero")
    taken = range(length)[item]
    if len(taken) == 1:  # whatever its step is, it may be beyond what strides hold
        taken = range(taken[0], taken[0] + 1)
    if taken.step < 0 and taken:
        return _Axis(taken[::-1], reverse=True)
    return _Axis(taken if taken.step > 0 else range(0))


def _single(item: int, length: int, axis: int) -> _Axis:
    if not -length <= item < length:
        raise SelectionError(f"index {item} is out of bounds for axis {axis} with size {length}")
    at = item % length
    return _Axis(range(at, at + 1))


def _listed(item: npt.NDArray[Any], length: int, axis: int) -> _Positions:
    if axis:
        raise UnknownIndexError(f"an array can be an index of axis 0 only, not of axis {axis}")
    if item.dtype.kind == "b":
        if item.shape != (length,):
            raise UnknownIndexError(
                "boolean index did not match indexed array along axis 0; size of axis is "
                f"{length} but the boolean index has shape {item.shape}"
            )
        return np.flatnonzero(item)
    wrong = (item >= length) | (item < -length) if item.size else item.astype(bool)
    if wrong.any():
        raise SelectionError(
            f"index {item[wrong].flat[0]} is out of bounds for axis 0 with size {length}"
        )
    positions = item.reshape(-1).astype(np.intp, copy=False)
    return np.where(positions < 0, positions + length, positions)


def _ascending(positions: _Positions) -> tuple[_Positions, _Positions | None]:
    """Positions in the order of the file, and where each of them was; None where they were so."""
    if bool((positions[:-1] <= positions[1:]).all()):
        return positions, None
    places = np.argsort(positions, kind="stable")
    return positions[places], places


def _separated(items: Sequence[Any]) -> bool:
    """Whether an int behind the array, with something else between, moves the array's axes; for
    numpy an Ellipsis that stands for no axis is something.
    """
    at = next(at for at, item in enumerate(items) if isinstance(item, np.ndarray))
    between = False
    for item in items[at + 1 :]:
        if isinstance(item, int):
            if between:
                return True
        else:
            between = True
    return False
