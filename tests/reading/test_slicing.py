"""fastio.reading.slicing against numpy: each index gives the same values or the same error, for
every cut into segments.
"""

from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastio.reading import selection, slicing

_Shape = tuple[int, ...]


def _array(shape: _Shape, item_bytes: int) -> npt.NDArray[Any]:
    """Values that are all different if their type has enough of them."""
    count = int(np.prod(shape))
    values: npt.NDArray[Any] = np.arange(count).astype(f"u{item_bytes}").reshape(shape)
    return values


def _selected(array: npt.NDArray[Any], index: Any, segment_bytes: int) -> npt.NDArray[Any]:
    """The values that a selection's segments make of the bytes; each is checked separately."""
    selected = slicing.select(index, array.shape, array.itemsize)
    if selected.is_empty:
        return np.empty(selected.shape, array.dtype)
    data = array.reshape(-1).view(np.uint8)
    together = selected.contiguous()
    if together is not None:
        whole: npt.NDArray[Any] = data[together[0] : together[1]].copy().view(array.dtype)
        return whole.reshape(selected.shape)
    out = selected.blank()
    before = 0
    for segment in selected.segments(segment_bytes):
        # A request's extents do not overlap.
        assert before <= segment.begin < segment.end <= data.size
        before = segment.end
        segment.copy_to(selected.turned(out), data[segment.begin : segment.end].copy())
    return out.view(array.dtype).reshape(selected.shape)


def _same(array: npt.NDArray[Any], index: Any, limits: tuple[int, int]) -> bool:
    """Whether both give the same, in values and shape, or both an IndexError."""
    gap_bytes, segment_bytes = limits
    with (
        mock.patch.object(selection, "_GAP_BYTES", gap_bytes),
        mock.patch.object(selection, "_TAKEN_BYTES_MAX", segment_bytes),
    ):
        return _same_as_cut(array, index, segment_bytes)


def _same_as_cut(
    array: npt.NDArray[Any], index: Any, segment_bytes: int = selection.SEGMENT_BYTES_MAX
) -> bool:
    try:
        expected = array[index]
    except IndexError:
        with pytest.raises(IndexError):
            _selected(array, index, segment_bytes)
        return True
    found = _selected(array, index, segment_bytes)
    return found.shape == np.shape(expected) and np.array_equal(found, expected)


_lengths = st.integers(0, 7)
_shapes = st.lists(_lengths, max_size=4).map(tuple)
_bounds = st.one_of(st.none(), st.integers(-9, 9))
_steps = st.one_of(st.none(), st.integers(-4, 4).filter(bool))
_slices = st.builds(slice, _bounds, _bounds, _steps)
# Mostly in range, so that most indices have a result.
_ints = st.integers(-3, 2) | st.integers(-9, 9)
_items = st.one_of(_slices, _ints, st.none(), st.just(Ellipsis))
_basic = _items | st.lists(_items, max_size=6).map(tuple)


@st.composite
def _with_array(draw: st.DrawFn) -> tuple[_Shape, Any]:
    """A shape, and an index with an array along its first axis."""
    shape = (draw(_lengths), *draw(st.lists(_lengths, max_size=2)))
    if draw(st.booleans()):
        mask = st.lists(st.booleans(), min_size=shape[0], max_size=shape[0])
        array: Any = np.array(draw(mask), bool)
    else:
        outer = draw(st.lists(st.integers(0, 3), min_size=1, max_size=2).map(tuple))
        count = int(np.prod(outer))
        reach = shape[0] if draw(st.booleans()) and shape[0] else 9
        values = draw(st.lists(st.integers(-reach, reach - 1), min_size=count, max_size=count))
        dtype = draw(st.sampled_from([np.int64, np.int8, np.int32]))
        array = np.array(values, dtype).reshape(outer)
        if draw(st.booleans()) and array.ndim == 1 and array.size:
            array = array.tolist()
    before = draw(st.lists(st.none(), max_size=2))
    behind = draw(st.lists(_items, max_size=len(shape) + 1))
    return shape, (*before, array, *behind)


# Small limits, so that every cut of a selection into segments occurs.
_every_cut = pytest.mark.parametrize(
    "limits",
    [(2**17, 2**24), (0, 1), (0, 64), (3, 7), (16, 40)],
    ids=lambda limits: f"gap {limits[0]}, segment {limits[1]}",
)


@_every_cut
@settings(max_examples=100)
@given(shape=_shapes, index=_basic, item_bytes=st.sampled_from([1, 2, 4, 8]))
def test_ints_slices_ellipsis_and_none_select_as_in_numpy(
    limits: tuple[int, int], shape: _Shape, index: Any, item_bytes: int
) -> None:
    assert _same(_array(shape, item_bytes), index, limits)


@_every_cut
@settings(max_examples=100)
@given(case=_with_array(), item_bytes=st.sampled_from([1, 2, 8]))
def test_an_array_along_the_first_axis_selects_as_in_numpy(
    limits: tuple[int, int], case: tuple[_Shape, Any], item_bytes: int
) -> None:
    shape, index = case
    assert _same(_array(shape, item_bytes), index, limits)


def _read_bytes(shape: _Shape, index: Any, item_bytes: int = 4) -> int:
    segments = slicing.select(index, shape, item_bytes).segments()
    return sum(segment.end - segment.begin for segment in segments)


_LARGE = (1000, 1000, 1000)  # 4 GB, never allocated


@pytest.mark.parametrize(
    ("index", "nbytes"),
    [
        ((slice(10, 20),), 10 * 4_000_000),
        ((slice(None, None, 100),), 10 * 4_000_000),
        ((5, slice(3, 5)), 2 * 4000),
        ((5, 6, 7), 4),
        ((5, 6, slice(None, None, -1)), 4000),
        ((slice(None, None, 500), 3, slice(7, 9)), 2 * 8),
        (([999, 0, 0, 500],), 3 * 4_000_000),
        (([999, 0, 500], 17, slice(4)), 3 * 16),
        ((slice(0, 0),), 0),
        ((np.arange(1000) == 40, 0), 4000),
    ],
    ids=str,
)
def test_far_elements_are_read_separately(index: Any, nbytes: int) -> None:
    assert _read_bytes(_LARGE, index) == nbytes


def test_near_elements_are_read_in_one_piece() -> None:
    assert len(list(slicing.select((0, slice(None), 0), _LARGE, 4).segments())) == 1
    assert _read_bytes(_LARGE, (0, slice(None), 0)) == 999 * 4000 + 4


def test_no_segment_of_a_strided_selection_is_a_whole_large_tensor() -> None:
    segments = list(slicing.select((slice(None), slice(None), 0), _LARGE, 4).segments())
    assert max(segment.end - segment.begin for segment in segments) <= 2**24
    assert sum(segment.end - segment.begin for segment in segments) <= 4 * 10**9


@pytest.mark.parametrize(
    ("index", "shape", "contiguous"),
    [
        (..., (3, 4), (0, 48)),
        (slice(1, 3), (3, 4), (16, 48)),
        ((2, slice(1, 3)), (3, 4), (36, 44)),
        ((None, slice(0, 3), ...), (3, 4), (0, 48)),
        (slice(None, None, -1), (3, 4), None),
        ((slice(None), slice(1, 3)), (3, 4), None),
        ([0, 1, 2], (3, 4), None),
    ],
    ids=str,
)
def test_a_result_that_lies_in_one_piece_is_known_as_such(
    index: Any, shape: _Shape, contiguous: tuple[int, int] | None
) -> None:
    selected = slicing.select(index, shape, 4)
    assert selected.contiguous() == contiguous
    assert selected.is_everything == (contiguous == (0, 48))


@pytest.mark.parametrize(
    "index",
    [
        4,
        -5,
        (0, 3),
        (0, 0, 0),
        (..., ...),
        (0, ..., ...),
        (0, 0, None, 0),
        "a",
        1.0,
        np.float32(1),
        [4],
        [-5],
        np.array([0, 4], np.uint64),
        [[0, 1], [2, 9]],
        np.zeros(3, bool),
        np.zeros(5, bool),
        np.zeros((4, 2), bool),
        np.array([1.0]),
        np.array(["a"]),
        [[0, 1], [2]],
        pytest.param(object(), id="object()"),
        (None,) * 70,
    ],
    ids=repr,
)
def test_indices_that_numpy_refuses_are_refused_the_same_way(index: Any) -> None:
    with pytest.raises((IndexError, ValueError)):  # numpy's, for lists that are no arrays
        np.zeros((4, 3), np.int32)[index]
    with pytest.raises(IndexError):
        slicing.select(index, (4, 3), 4)


def test_other_errors_of_a_slice_are_numpys_too() -> None:
    array = np.zeros(4)
    for index, kind in ((slice(None, None, 0), ValueError), (slice(1.5, None), TypeError)):
        with pytest.raises(kind):
            array[index]
        with pytest.raises(kind):
            slicing.select(index, (4,), 8)


@pytest.mark.parametrize(
    "index", [True, False, np.True_, (0, [0, 1]), (slice(None), np.zeros(3, bool))], ids=repr
)
def test_indices_that_only_numpy_takes_are_refused_and_not_misread(index: Any) -> None:
    assert isinstance(np.zeros((4, 3))[index], np.ndarray)
    with pytest.raises(IndexError):
        slicing.select(index, (4, 3), 8)


def test_int_like_and_array_like_objects_are_indices() -> None:
    array = _array((4, 3), 4)
    for index in (np.int8(-1), np.uint64(2), np.array(3), [True, False, True, False], [], range(2)):
        assert _same_as_cut(array, index), index
