"""stream: name and tensor in file order, within a limit; its end frees everything."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastio
import testbed
from fastio import _native
from samples import (
    CHUNK_BYTES,
    MODEL,
    bytes_of,
    eventually,
    expected_bytes,
    native_threads,
    open_files,
    same_bytes,
    write,
    write_even,
    write_model,
)

_COUNT = 16


def _options(engine: Any, cache: Any = "bypass", **more: Any) -> fastio.Options:
    return fastio.Options(engine=engine, cache=cache, mapping="never", **more)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    return fastio.seal(write_even(tmp_path / "model", _COUNT, CHUNK_BYTES + 1000))


@pytest.mark.parametrize("temperature", ["cold", "warm", "mapped"])
@pytest.mark.parametrize(
    ("limit", "framework"), [(CHUNK_BYTES, "numpy"), (3 * CHUNK_BYTES, "torch"), (None, "numpy")]
)
@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "unsealed"])
def test_every_tensor_comes_once_in_file_order(
    tmp_path: Path,
    engine: Any,
    limit: int | None,
    framework: Any,
    temperature: str,
    is_sealed: bool,
) -> None:
    path = write_model(tmp_path / "model")
    if is_sealed:
        fastio.seal(path)
    expected = expected_bytes(path)
    if temperature == "cold":
        testbed.evict(path)
    options = fastio.Options(engine=engine, mapping="auto" if temperature == "mapped" else "never")
    with fastio.open(path, framework=framework, options=options) as reader:
        got = list(reader.stream(memory_limit_bytes=limit))
        report = reader.report
    assert [name for name, _ in got] == list(MODEL)
    assert same_bytes(dict(got), expected)
    if temperature == "mapped":
        assert (report.bytes_read, report.engine) == (0, "mmap")
    else:
        # Regions that share a chunk each read it.
        assert report.bytes_read <= path.stat().st_size + 8 * CHUNK_BYTES
        assert report.engine == engine
    assert report.unverified == (() if is_sealed else (str(path),))
    assert report.chunks_verified == (12 if is_sealed else 0)


def test_some_names_come_in_file_order_and_others_are_not_read(sealed: Path, engine: Any) -> None:
    expected = expected_bytes(sealed)
    testbed.evict(sealed)
    with fastio.open(sealed, options=_options(engine)) as reader:
        got = dict(reader.stream(iter(["t9", "t2", "t9"])))  # type: ignore[arg-type]
        assert list(got) == ["t2", "t9"]
        assert reader.report.bytes_read == 4 * CHUNK_BYTES
        assert list(reader.stream([])) == []
    assert same_bytes(got, {name: expected[name] for name in got})


def test_a_tensor_above_the_limit_is_read_on_its_own(tmp_path: Path, engine: Any) -> None:
    path = fastio.seal(write_even(tmp_path / "model", 3, 5 * CHUNK_BYTES))
    with fastio.open(path, options=_options(engine)) as reader:
        got = dict(reader.stream(memory_limit_bytes=CHUNK_BYTES))
    assert same_bytes(got, expected_bytes(path))


def test_a_limit_of_the_options_is_the_streams(sealed: Path, engine: Any) -> None:
    options = _options(engine, memory_limit_bytes=CHUNK_BYTES - 1)
    with fastio.open(sealed, options=options) as reader:
        with pytest.raises(fastio.MemoryLimitError) as raised:
            reader.stream()
        assert (raised.value.asked_bytes, raised.value.limit_bytes) == (
            *(CHUNK_BYTES, CHUNK_BYTES - 1),
        )
        with pytest.raises(fastio.MemoryLimitError):
            reader.tensor("t3")
        assert len(list(reader.stream(memory_limit_bytes=CHUNK_BYTES))) == _COUNT
    with fastio.open(sealed, verify=False, options=options) as reader:
        assert len(list(reader.stream())) == _COUNT  # without checksums there are no chunks


@pytest.mark.parametrize(
    ("limit", "kind"),
    [(0, ValueError), (-1, ValueError), (1.5, ValueError), (True, TypeError), ("1 x", ValueError)],
)
def test_an_invalid_limit_is_refused_before_the_first_tensor(
    sealed: Path, limit: Any, kind: type[Exception]
) -> None:
    with fastio.open(sealed) as reader, pytest.raises(kind, match="memory_limit_bytes"):
        reader.stream(memory_limit_bytes=limit)


def test_nothing_is_read_before_the_first_tensor_is_asked_for(sealed: Path) -> None:
    with fastio.open(sealed, options=_options("pread")) as reader:
        stream = reader.stream()
        assert reader.report.bytes_read == 0
        del stream


class _ConsumerError(Exception):
    pass


def _consume(stream: Iterator[tuple[str, Any]]) -> None:
    for name, _ in stream:
        if name == "t3":
            raise _ConsumerError


def _raise_in_the_consumer(stream: Iterator[tuple[str, Any]]) -> None:
    with pytest.raises(_ConsumerError):
        _consume(stream)


def _drop(stream: Iterator[tuple[str, Any]]) -> None:
    next(stream)


def _close(stream: Any) -> None:
    next(stream)
    stream.close()
    assert list(stream) == []


def _leave(stream: Iterator[tuple[str, Any]]) -> None:
    for name, _ in stream:
        if name == "t7":
            break


@pytest.mark.parametrize("end", [_raise_in_the_consumer, _drop, _close, _leave])
def test_a_stream_that_ends_early_leaves_nothing_behind(
    sealed: Path, engine: Any, cache: Any, end: Any
) -> None:
    gc.collect()
    with fastio.open(sealed, options=_options(engine, cache)) as reader:
        list(reader.stream(["t0"]))
        files, threads = open_files(), native_threads()
        for _ in range(3):
            end(reader.stream(memory_limit_bytes=4 * CHUNK_BYTES))
        gc.collect()
        assert eventually(lambda: native_threads() <= threads)
        assert eventually(lambda: _native.testing.abandoned_bytes() == 0)
        assert open_files() <= files
        assert same_bytes(dict(reader.stream()), expected_bytes(sealed))


def test_reads_left_in_flight_by_a_stream_do_not_use_up_the_limit(
    tmp_path: Path, engine: Any, faults: Callable[..., None]
) -> None:
    spec = {
        name: ("U8", (chunks * CHUNK_BYTES,)) for name, chunks in zip("abc", (1, 3, 2), strict=True)
    }
    path = fastio.seal(write(tmp_path / "model", spec))
    expected = expected_bytes(path)["c"]
    options = _options(engine, memory_limit_bytes=4 * CHUNK_BYTES)
    reads: list[Callable[[fastio.Reader], Any]] = [
        lambda reader: reader.tensor("c"),
        lambda reader: reader["c"][:],
        lambda reader: reader.read(["c"])["c"],
        lambda reader: next(reader.stream(["c"]))[1],
    ]
    for read in reads:
        with fastio.open(path, options=options) as reader:

            def leave_one_in_flight(reader: fastio.Reader = reader) -> bool:
                faults((1, "late", 50))  # "b", if the threads do not bring it first
                stream: Any = reader.stream()
                next(stream)
                stream.close()
                return bool(_native.testing.abandoned_bytes() == 3 * CHUNK_BYTES)

            assert eventually(leave_one_in_flight)
            assert bytes_of(read(reader)) == expected


def test_two_streams_and_other_reads_do_not_disturb_each_other(sealed: Path, engine: Any) -> None:
    expected = expected_bytes(sealed)
    with fastio.open(sealed, options=_options(engine)) as reader:
        limit = 3 * CHUNK_BYTES
        both = zip(
            reader.stream(memory_limit_bytes=limit),
            reader.stream(memory_limit_bytes=limit),
            strict=True,
        )
        for (name, first), (other, second) in both:
            first[...] = 0
            assert name == other
            assert bytes_of(second) == expected[name] == bytes_of(reader.tensor(name))
            assert bytes_of(reader[name][-5:]) == expected[name][-5:]


def test_a_stream_outlives_its_reader(sealed: Path, engine: Any) -> None:
    files = open_files()
    with fastio.open(sealed, options=_options(engine)) as reader:
        begun, fresh = reader.stream(), reader.stream()
        first = next(begun)
    assert same_bytes(dict([first, *begun]), expected_bytes(sealed))
    assert same_bytes(dict(fresh), expected_bytes(sealed))
    del begun, fresh
    assert eventually(lambda: open_files() <= files)
