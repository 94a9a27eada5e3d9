"""The bytes of a tensor that a selection needs, and their places in the result: pure arithmetic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

# Parts that are this near are read in one request; csrc/plan.cc joins what is nearer than that.
_GAP_BYTES = 2**17
SEGMENT_BYTES_MAX = 2**24
"""A segment is held in memory beside the result, so it is never a whole large tensor."""
# numpy copies what an array of positions takes; a result of many equal rows is copied in parts.
_TAKEN_BYTES_MAX = 2**22

Positions = npt.NDArray[np.intp]


class Axis(msgspec.Struct, frozen=True):
    """The selection along one axis of the tensor: `positions` ascend; `reverse` turns them."""

    positions: range | Positions
    reverse: bool = False

    def __len__(self) -> int:
        return len(self.positions)


class Segment(msgspec.Struct, frozen=True):
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
    _rows: Positions | None
    _places: Positions | None

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


class Selection(msgspec.Struct, frozen=True):
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
    _axes: tuple[Axis, ...]
    item_bytes: int
    _places: Positions | None  # of axis 0: where in the result each position goes

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

    def meets(self, start: Sequence[int], shape: Sequence[int]) -> bool:
        """Return whether it has values of a box: those from `start` on, `shape` along each axis."""
        for axis, first, length in zip(self._axes, start, shape, strict=True):
            positions = axis.positions
            if isinstance(positions, range):
                # The first position that is not before the box.
                steps = max(-(-(first - positions.start) // positions.step), 0)
                if steps >= len(positions) or positions[steps] >= first + length:
                    return False
            else:
                at = int(np.searchsorted(positions, first))
                if at == len(positions) or positions[at] >= first + length:
                    return False
        return True

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
        outer = [self._taken(axis) for axis in range(split)]
        for each in itertools.product(*outer):
            base = inner_begin + sum(
                at * step for (_, at), step in zip(each, strides[:split], strict=True)
            )
            for first, last in _runs(positions, stride, inner_bytes, segment_bytes):
                begin = base + int(positions[first]) * stride
                end = base + int(positions[last - 1]) * stride + inner_bytes
                rows, count, step = _within(positions[first:last])
                yield Segment(
                    begin,
                    end,
                    (*(where for where, _ in each), slice(first, last)),
                    (count, *inner_shape),
                    (step * stride, *inner_strides),
                    rows,
                    None if rows is None or self._places is None else self._places[first:last],
                )

    def _taken(self, axis: int) -> list[tuple[Any, int]]:
        """Along one axis: each position that is taken, once, and where in the result it goes."""
        positions = self._axes[axis].positions
        if isinstance(positions, range):
            return list(enumerate(positions))
        bounds = [0, *(np.flatnonzero(np.diff(positions)) + 1).tolist(), len(positions)]
        return [
            (
                slice(first, last) if self._places is None else self._places[first:last],
                int(positions[first]),
            )
            for first, last in itertools.pairwise(bounds)
        ]

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


def _step(positions: range | Positions) -> int:
    return positions.step if isinstance(positions, range) else 1


def _runs(
    positions: range | Positions, stride: int, inner_bytes: int, segment_bytes: int
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


def _within(positions: range | Positions) -> tuple[Positions | None, int, int]:
    """Of the positions of one run: which of its rows (None: all), their count, their step."""
    if isinstance(positions, range):
        return None, len(positions), positions.step
    rows = positions - positions[0]
    return rows, int(rows[-1]) + 1, 1
