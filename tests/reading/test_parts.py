"""Views of tensors: their properties. A part equals numpy's; a read of it costs its own bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastio
import testbed
from fastio.frameworks.numpy import DTYPES
from samples import CHUNK_BYTES, bytes_of, write

_SHAPES = [(7,), (5, 1, 6), (300, 500), (2, 3, 4, 5), (0, 3), (), (1,)]
# Every dtype with every shape; the rows of F4 are whole bytes.
_SPEC = {
    f"{dtype}.{number}": (dtype, (*shape[:-1], 2 * shape[-1]) if dtype == "F4" else shape)
    for dtype in DTYPES
    for number, shape in enumerate(_SHAPES)
    if shape or dtype != "F4"
}


@pytest.fixture(scope="module", params=[True, False], ids=["sealed", "unsealed"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write(tmp_path_factory.mktemp("parts") / "model", _SPEC, start_modulo_8=1)
    return fastio.seal(path) if request.param else path


@pytest.fixture(scope="module", params=["uring", "pread", "mapped"])
def reader(request: pytest.FixtureRequest, path: Path) -> Iterator[fastio.Reader]:
    mapped = request.param == "mapped"
    options = fastio.Options(
        engine="auto" if mapped else request.param, mapping="auto" if mapped else "never"
    )
    with testbed.kept_warm(path), fastio.open(path, options=options) as reader:
        yield reader
        assert (reader.report.bytes_read == 0) == mapped


@pytest.fixture(scope="module")
def whole(path: Path) -> dict[str, npt.NDArray[Any]]:
    return fastio.load(path, options=fastio.Options(mapping="never"))


_slices = st.builds(
    slice,
    st.none() | st.integers(-600, 600),
    st.none() | st.integers(-600, 600),
    st.none() | st.integers(-5, 5).filter(bool) | st.sampled_from([-400, 97]),
)
_items = st.one_of(_slices, st.integers(-3, 3), st.none(), st.just(Ellipsis))
_rows = st.lists(st.integers(-2, 1) | st.integers(-300, 299), max_size=6).map(np.array)
_indices = st.one_of(
    _items,
    st.lists(_items, max_size=4).map(tuple),
    st.tuples(_rows, _items),
)


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(_SPEC)), index=_indices)
def test_a_part_equals_the_part_that_numpy_takes_of_the_whole(
    reader: fastio.Reader, whole: dict[str, npt.NDArray[Any]], name: str, index: Any
) -> None:
    try:
        expected = np.asarray(whole[name][index])
    except IndexError:
        with pytest.raises(IndexError):
            reader[name][index]
        return
    part = reader[name][index]
    assert isinstance(part, np.ndarray)
    assert (part.dtype, part.shape) == (expected.dtype, expected.shape)
    assert part.tobytes() == expected.tobytes()
    assert part.flags.writeable
    assert part.flags.aligned
    assert part.flags.c_contiguous


def test_a_part_shares_no_memory(reader: fastio.Reader, whole: dict[str, npt.NDArray[Any]]) -> None:
    view = reader["F32.2"]
    for index in (..., slice(None), slice(10, 20), (slice(None), slice(3, 4)), [5, 5], (7, 8)):
        first = view[index]
        expected = first.tobytes()
        first[...] = 0
        assert view[index].tobytes() == expected != first.tobytes()
    assert view[...].tobytes() == whole["F32.2"].tobytes()


def test_a_view_describes_itself_without_a_read(
    reader: fastio.Reader, whole: dict[str, npt.NDArray[Any]]
) -> None:
    before = reader.report
    for name, (dtype, shape) in _SPEC.items():
        view, info = reader[name], reader.info(name)
        assert (view.name, view.info) == (name, info)
        assert (info.dtype, info.shape) == (dtype, shape)
        assert (view.dtype, view.shape, view.nbytes, view.ndim) == (
            *(whole[name].dtype, whole[name].shape),
            *(whole[name].nbytes, whole[name].ndim),
        )
        if view.shape:
            assert len(view) == view.shape[0]
    assert reader.report == before
    with pytest.raises(TypeError, match="unsized"):
        len(reader["F32.5"])
    assert repr(reader["F32.2"]) == "<fastio.TensorView 'F32.2' [300, 500] float32>"


def test_a_view_is_an_array_to_numpy_and_a_row_of_rows(
    reader: fastio.Reader, whole: dict[str, npt.NDArray[Any]]
) -> None:
    view, expected = reader["I32.1"], whole["I32.1"]
    assert np.array_equal(np.asarray(view), expected)
    assert np.array_equal(np.asarray(view, np.float64), expected.astype(np.float64))
    assert np.array_equal(np.array(list(view)), expected)  # type: ignore[call-overload]
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        with pytest.raises(ValueError, match="without a copy"):
            np.asarray(view, copy=False)


def test_torch_has_the_same_parts_in_its_own_dtypes(path: Path) -> None:
    whole = fastio.load(path, framework="torch")
    with fastio.open(path, framework="torch") as reader:
        for name in _SPEC:
            if name.endswith((".5", ".4")):
                continue
            view = reader[name]
            part, row = view[-1:], view[0]
            assert (view.dtype, view.shape) == (whole[name].dtype, tuple(whole[name].shape))
            assert isinstance(part, torch.Tensor)
            assert (part.dtype, part.shape) == (view.dtype, (1, *view.shape[1:]))
            assert row.shape == view.shape[1:]
            raw = bytes_of(whole[name])
            each = len(raw) // view.shape[0]
            assert (bytes_of(part), bytes_of(row)) == (raw[-each:], raw[:each])
        assert reader["F32.5"][()].shape == ()
        assert reader["F32.4"][:, :2].shape == (0, 2)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed file of 16 MiB: one tensor of rows of 64 KiB."""
    return fastio.seal(
        write(tmp_path_factory.mktemp("large") / "model", {"t": ("U32", (256, 16384))})
    )


@pytest.mark.parametrize(
    ("index", "chunks"),
    [
        (0, 1),
        (slice(0, 16), 1),
        (slice(15, 17), 2),
        ((slice(None, None, 64), slice(0, 4)), 4),
        ([255, 0, 255], 2),
        ((3, slice(None, None, -1)), 1),
        (slice(0, 0), 0),
        ((slice(None, None, 128), 5, None), 2),
    ],
    ids=str,
)
def test_a_part_reads_its_chunks_and_no_others(
    large: Path, engine: Any, index: Any, chunks: int
) -> None:
    whole = fastio.load(large, options=fastio.Options(mapping="never"))["t"]
    testbed.evict(large)
    options = fastio.Options(engine=engine, cache="bypass", mapping="never")
    with fastio.open(large, options=options) as reader:
        assert np.array_equal(reader["t"][index], whole[index])
        report = reader.report
    assert (report.bytes_read, report.chunks_verified) == (chunks * CHUNK_BYTES, chunks)
    assert report.bytes_direct == report.bytes_read


def test_an_unverified_part_reads_whole_pages_only(large: Path, engine: Any) -> None:
    whole = fastio.load(large, options=fastio.Options(mapping="never"))["t"]
    options = fastio.Options(engine=engine, cache="bypass", mapping="never")
    with fastio.open(large, verify=False, options=options) as reader:
        assert np.array_equal(reader["t"][100, 5:9], whole[100, 5:9])
        assert 16 <= reader.report.bytes_read <= 4096
        assert reader.report.chunks_verified == 0


def test_a_mapped_part_verifies_its_chunk_once(large: Path) -> None:
    with testbed.kept_warm(large), fastio.open(large) as reader:
        for _ in range(3):
            assert reader["t"][100:102, 5:9].shape == (2, 4)
        assert reader.report.chunks_verified == 1


def test_a_part_that_is_gathered_in_several_goes_is_whole(
    large: Path, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastio.reading.parts._WINDOW_BYTES", 3 * CHUNK_BYTES)
    monkeypatch.setattr("fastio.reading.parts._AT_ONCE_BYTES", 0)
    monkeypatch.setattr("fastio.reading.chunks.CACHED_BYTES_MAX", 0)
    whole = fastio.load(large, options=fastio.Options(mapping="never"))["t"]
    with fastio.open(large, options=fastio.Options(engine=engine, mapping="never")) as reader:
        for index in ((slice(None), slice(7, 11)), (slice(None, None, -5), slice(None, None, 3))):
            assert np.array_equal(reader["t"][index], whole[index])
