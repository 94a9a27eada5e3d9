"""Damage and failing disks, in every way to read: reported with their place, and only there."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import testbed
from fastio import _native
from samples import (
    CHUNK_BYTES,
    bytes_of,
    data_start,
    eventually,
    expected_bytes,
    flip,
    native_threads,
    open_files,
    write_even,
)

_COUNT = 12  # tensors of the file, one a chunk
_DAMAGED = 7
Faults = Callable[..., None]


def _options(engine: Any, cache: Any, **more: Any) -> fastio.Options:
    return fastio.Options(
        engine=engine, cache=cache, mapping="never", block_bytes=CHUNK_BYTES, **more
    )


def _one_by_one(engine: Any, cache: Any) -> fastio.Options:
    """Block n is read by completion n."""
    return _options(engine, cache, lanes=1, queue_depth=1)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    return fastio.seal(write_even(tmp_path / "model", _COUNT, CHUNK_BYTES))


@pytest.fixture
def damaged(sealed: Path) -> Path:
    """One chunk, that of t7, has a flipped bit."""
    flip(sealed, data_start(sealed) + _DAMAGED * CHUNK_BYTES + 500_000)
    return sealed


def _check(error: fastio.ChecksumError, path: Path) -> None:
    assert (error.path, error.chunk, error.tensors) == (str(path), _DAMAGED, (f"t{_DAMAGED}",))
    assert (error.offset, error.nbytes) == (
        data_start(path) + _DAMAGED * CHUNK_BYTES,
        CHUNK_BYTES,
    )
    assert error.expected != error.found


@pytest.fixture(params=["bypass", "keep", "mapped"])
def options(request: pytest.FixtureRequest, engine: Any) -> fastio.Options:
    """Each way to read the bytes."""
    if request.param == "mapped":
        return fastio.Options(engine=engine, cache="keep")
    return _options(engine, request.param)


_FINE = [f"t{i}" for i in range(_COUNT) if i != _DAMAGED]


@pytest.mark.parametrize(
    ("order", "limit"),
    [("file", None), ("file", 4 * CHUNK_BYTES), ("names", None), ("backwards", 4 * CHUNK_BYTES)],
)
def test_a_loop_meets_damage_at_the_tensor_that_has_it(
    damaged: Path, options: fastio.Options, order: str, limit: int | None
) -> None:
    expected = expected_bytes(damaged)
    object.__setattr__(options, "memory_limit_bytes", limit)
    with testbed.kept_warm(damaged), fastio.open(damaged, options=options) as reader:
        names = reader.keys()
        if order == "names":
            names.sort()
        elif order == "backwards":
            names.reverse()
        fine = []
        for name in names:
            try:
                tensor = reader.tensor(name)
            except fastio.ChecksumError as error:
                assert name == f"t{_DAMAGED}"
                _check(error, damaged)
            else:
                assert bytes_of(tensor) == expected[name]
                fine.append(name)
        assert sorted(fine) == sorted(_FINE)


@pytest.mark.parametrize("limit", [None, CHUNK_BYTES, 4 * CHUNK_BYTES])
def test_a_stream_yields_all_that_comes_before_the_damage(
    damaged: Path, options: fastio.Options, limit: int | None
) -> None:
    expected = expected_bytes(damaged)
    files, threads = open_files(), native_threads()
    with testbed.kept_warm(damaged), fastio.open(damaged, options=options) as reader:
        stream = reader.stream(memory_limit_bytes=limit)
        for i in range(_DAMAGED):
            name, tensor = next(stream)
            assert (name, bytes_of(tensor)) == (f"t{i}", expected[name])
        with pytest.raises(fastio.ChecksumError) as raised:
            next(stream)
        _check(raised.value, damaged)
        assert list(stream) == []
        # Sound tensors can be streamed, read and cut.
        assert [name for name, _ in reader.stream(_FINE)] == _FINE
        assert list(reader.read(_FINE)) == _FINE
    del stream, raised, tensor
    assert eventually(lambda: open_files() <= files and native_threads() <= threads)
    assert eventually(lambda: _native.testing.abandoned_bytes() == 0)


def test_a_slice_beside_the_damage_is_fine(tmp_path: Path, options: fastio.Options) -> None:
    path = fastio.seal(write_even(tmp_path / "model", 1, 4 * CHUNK_BYTES))
    expected = expected_bytes(path)["t0"]
    flip(path, data_start(path) + 2 * CHUNK_BYTES + 17)
    with testbed.kept_warm(path), fastio.open(path, options=options) as reader:
        view = reader["t0"]
        for begin, end in ((0, 2 * CHUNK_BYTES), (3 * CHUNK_BYTES, 4 * CHUNK_BYTES), (5, 6)):
            assert bytes_of(view[begin:end]) == expected[begin:end]
        for index in (
            ...,
            slice(2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 1),
            slice(None, None, CHUNK_BYTES + 9),
            [0, 2 * CHUNK_BYTES + 900],
            -CHUNK_BYTES - 1,
        ):
            with pytest.raises(fastio.ChecksumError) as raised:
                view[index]
            assert (raised.value.chunk, raised.value.tensors) == (2, ("t0",))
        assert raised.value.path == str(path)


def test_verify_false_returns_damaged_bytes_as_they_are(
    damaged: Path, options: fastio.Options
) -> None:
    expected = expected_bytes(damaged)  # the current contents
    with (
        testbed.kept_warm(damaged),
        fastio.open(damaged, verify=False, options=options) as reader,
    ):
        assert {name: bytes_of(tensor) for name, tensor in reader.stream()} == expected
        assert bytes_of(reader.tensor(f"t{_DAMAGED}")) == expected[f"t{_DAMAGED}"]
        assert reader.report.chunks_verified == 0
        assert reader.report.unverified == (str(damaged),)


def test_require_refuses_a_file_without_checksums(tmp_path: Path) -> None:
    path = write_even(tmp_path / "model", 2, 1000)
    with pytest.raises(fastio.FormatError, match="no checksums"):
        fastio.open(path, verify="require")
    with pytest.raises(fastio.FormatError, match="no checksums"):
        fastio.load_into(path, {"t0": np.zeros(1000, np.uint8)}, verify="require", strict=False)
    with fastio.open(fastio.seal(path), verify="require") as reader:
        assert len(reader.load()) == 2


def _looped(reader: fastio.Reader) -> dict[str, Any]:
    return {name: reader.tensor(name) for name in reader}


def _streamed(reader: fastio.Reader) -> dict[str, Any]:
    return dict(reader.stream())


_WAYS = pytest.mark.parametrize("way", [_looped, _streamed])


@_WAYS
def test_faults_that_can_be_survived_are(
    sealed: Path, engine: Any, cache: Any, way: Any, faults: Faults
) -> None:
    expected = expected_bytes(sealed)
    kinds = [
        ("short", 70_001),
        ("error", errno.EINTR),
        ("reorder", 0),
        ("late", 5),
        ("error", errno.EAGAIN),
    ]
    faults(*((at, *kinds[at % len(kinds)]) for at in range(4 * _COUNT)))
    with fastio.open(sealed, options=_options(engine, cache, lanes=3, queue_depth=4)) as reader:
        got = way(reader)
        assert {name: bytes_of(tensor) for name, tensor in got.items()} == expected
        assert reader.report.chunks_verified == _COUNT


@_WAYS
@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ([(5, "error", errno.EIO)], fastio.ReadError),
        ([(5, "short", 8192), (6, "zero", 0)], fastio.ReadError),
        ([(5, "flip", 12_345)], fastio.ChecksumError),
    ],
    ids=["error", "zero", "flip"],
)
def test_an_error_names_the_tensor_that_it_hit(
    sealed: Path, engine: Any, cache: Any, way: Any, script: Any, kind: Any, faults: Faults
) -> None:
    expected = expected_bytes(sealed)
    with fastio.open(sealed, options=_one_by_one(engine, cache)) as reader:
        faults(*script)
        with pytest.raises(kind) as raised:
            way(reader)
        assert raised.value.path == str(sealed)
        # The first tensor of a loop is copied from the page cache without any completion.
        chunk = 6 if way is _looped and cache == "keep" else 5
        at = data_start(sealed) + chunk * CHUNK_BYTES
        assert at <= raised.value.offset < at + CHUNK_BYTES
        faults()
        # The reader works on.
        assert {name: bytes_of(tensor) for name, tensor in way(reader).items()} == expected


@_WAYS
def test_an_error_is_not_held_back_by_a_read_that_hangs(
    sealed: Path, engine: Any, cache: Any, way: Any, faults: Faults
) -> None:
    threads = native_threads()
    with fastio.open(sealed, options=_options(engine, cache, lanes=3, queue_depth=4)) as reader:
        # The first tensor of a loop is read alone.
        faults((6, "never", 0), (1, "error", errno.EIO), (2, "error", errno.EIO))
        with pytest.raises(fastio.ReadError) as raised:
            way(reader)
        assert raised.value.errno == errno.EIO

    def is_quiet() -> bool:
        _native.testing.release_held_completions()  # the hanging one may be reached only now
        return _native.testing.abandoned_bytes() == 0 and native_threads() <= threads

    assert eventually(is_quiet)


@_WAYS
@pytest.mark.parametrize("warm", [True, False])
def test_a_file_that_shrank_has_its_own_error(
    sealed: Path, engine: Any, cache: Any, way: Any, warm: bool
) -> None:
    if not warm:
        testbed.evict(sealed)
    with fastio.open(sealed, options=_options(engine, cache)) as reader:
        os.truncate(sealed, data_start(sealed) + 3 * CHUNK_BYTES + 100)
        with pytest.raises(fastio.ReadError, match="ends here") as raised:
            way(reader)
        assert raised.value.offset == data_start(sealed) + 3 * CHUNK_BYTES + 100
        assert len(reader["t2"][:]) == CHUNK_BYTES
        with pytest.raises(fastio.ReadError):
            reader["t9"][5]


@_WAYS
def test_a_reader_keeps_the_file_that_it_opened(
    sealed: Path, engine: Any, cache: Any, way: Any
) -> None:
    expected = expected_bytes(sealed)
    with fastio.open(sealed, options=_options(engine, cache)) as reader:
        other = fastio.seal(write_even(sealed.parent / "other", _COUNT, CHUNK_BYTES, seed=9))
        other.replace(sealed)
        assert {name: bytes_of(tensor) for name, tensor in way(reader).items()} == expected
        assert bytes_of(reader["t4"][9:99]) == expected["t4"][9:99]
        sealed.unlink()
        assert bytes_of(reader.tensor("t9")) == expected["t9"]
