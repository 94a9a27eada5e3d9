"""The meaning of an index, as numpy defines it.

An index is what numpy takes: ints, slices with any step, Ellipsis and None along every axis, and
along axis 0 also integers or booleans in an array.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastio.errors import SelectionError, UsageError
from fastio.reading.selection import Axis, Positions, Selection

# NPY_MAXDIMS of numpy.
_AXES_MAX = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32


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
    axes: list[Axis] = []
    result: list[int] = []
    listed: tuple[int, ...] | None = None
    places: Positions | None = None
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
            axes.append(Axis(positions))
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


def _sliced(item: slice, length: int) -> Axis:
    if item.step is not None and operator.index(item.step) == 0:
        raise UsageError("slice step cannot be zero")
    taken = range(length)[item]
    if len(taken) == 1:  # whatever its step is, it may be beyond what strides hold
        taken = range(taken[0], taken[0] + 1)
    if taken.step < 0 and taken:
        return Axis(taken[::-1], reverse=True)
    return Axis(taken if taken.step > 0 else range(0))


def _single(item: int, length: int, axis: int) -> Axis:
    if not -length <= item < length:
        raise SelectionError(f"index {item} is out of bounds for axis {axis} with size {length}")
    at = item % length
    return Axis(range(at, at + 1))


def _listed(item: npt.NDArray[Any], length: int, axis: int) -> Positions:
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


def _ascending(positions: Positions) -> tuple[Positions, Positions | None]:
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
