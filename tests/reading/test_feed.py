"""A source whose bytes come from a feed, and from no file, is read in every way."""

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastio
from fastio import _native
from fastio.catalog import Catalog, OneFile, Shard
from fastio.formats import known
from fastio.reading import into
from fastio.reading.located import LocatedSource
from fastio.reading.reader import Reader
from samples import bytes_of, data_start, expected_bytes, flip, same_bytes, write_model

Bring = Callable[[int, int], bytes]


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    return fastio.seal(write_model(tmp_path / "model.safetensors"))


def _bring(path: Path) -> Bring:
    content = path.read_bytes()
    return lambda offset, nbytes: content[offset : offset + nbytes]


def _feed(path: Path, bring: Bring | None = None) -> _native.Feed:
    nbytes = path.stat().st_size
    return _native.Feed(f"bucket://{path.name}", nbytes, bring or _bring(path), disk=7)


def _located(shard: Shard) -> LocatedSource:
    return LocatedSource(Catalog([shard], "bucket"), {}, again=lambda _: _located(shard))


def _reader(shard: Shard, **asked: Any) -> Reader:
    return Reader(lambda _: _located(shard), **asked)


def test_a_format_is_located_through_a_feed(sealed: Path) -> None:
    shard = known.locate(_feed(sealed))
    assert shard.table is not None
    assert shard.path == "bucket://model.safetensors"
    assert set(shard.names) == expected_bytes(sealed).keys()


def test_a_feed_is_read_in_every_way(sealed: Path) -> None:
    expected = expected_bytes(sealed)
    with _reader(known.locate(_feed(sealed))) as reader:
        assert same_bytes(reader.load(), expected)
        assert bytes_of(reader.tensor("mask")) == expected["mask"]
        assert {name: bytes_of(tensor) for name, tensor in reader.stream()} == expected
        part = reader["embed.weight"][10:12]
        assert bytes_of(part) == expected["embed.weight"][10 * 2048 : 12 * 2048]
        report = reader.report
    assert report.bytes_fed > 0
    assert report.bytes_direct == report.bytes_mapped == 0
    assert report.chunks_verified > 0


def test_a_feed_fills_memory_of_the_caller(sealed: Path) -> None:
    places: dict[str, Any] = {"mask": np.zeros(77, np.bool_), "norm.weight": torch.zeros(2048)[::2]}
    into.fill(
        lambda: _located(known.locate(_feed(sealed))),
        places,
        verify=True,
        strict=False,
        progress=False,
        options=fastio.Options(),
        report=fastio.Report(),
    )
    expected = expected_bytes(sealed)
    assert bytes_of(places["mask"]) == expected["mask"]
    assert bytes_of(places["norm.weight"].contiguous()) == expected["norm.weight"]


def test_tensors_of_a_feed_are_those_of_any_framework(sealed: Path) -> None:
    with _reader(known.locate(_feed(sealed)), framework="torch") as reader:
        assert isinstance(reader.tensor("mask"), torch.Tensor)
        assert same_bytes(reader.load(), expected_bytes(sealed))


def test_lanes_are_added_to_a_load_that_they_make_faster(sealed: Path) -> None:
    bring = _bring(sealed)

    def slowly(offset: int, nbytes: int) -> bytes:
        time.sleep(0.002)
        return bring(offset, nbytes)

    options = fastio.Options(block_bytes=1 << 14, lanes=2, lanes_limit=6, queue_depth=1)
    shard = known.locate(_feed(sealed, slowly))
    with _reader(shard, verify=False, options=options) as reader:
        assert same_bytes(reader.load(), expected_bytes(sealed))
        assert 2 < reader.report.lanes <= 6


def test_several_threads_ask_a_feed_at_once(sealed: Path) -> None:
    bring = _bring(sealed)
    asked: set[int] = set()
    together = threading.Event()

    def wait_for_another(offset: int, nbytes: int) -> bytes:
        if offset >= data_start(sealed):
            asked.add(threading.get_ident())
            if len(asked) > 1:
                together.set()
            assert together.wait(60)
        return bring(offset, nbytes)

    feed = _feed(sealed, wait_for_another)
    shard = known.locate(feed)
    options = fastio.Options(block_bytes=1 << 20, lanes=1, queue_depth=4)
    with _reader(shard, options=options) as reader:
        assert same_bytes(reader.load(), expected_bytes(sealed))
    assert together.is_set()


def test_damage_that_a_feed_brings_is_refused(sealed: Path) -> None:
    shard = known.locate(_feed(sealed))
    flip(sealed, data_start(sealed) + 100)
    damaged = Shard(
        OneFile(_feed(sealed), shard.table),
        *(shard.names, shard.dtypes, shard.shapes, shard.begins, shard.ends, shard.metadata),
    )
    with _reader(damaged) as reader, pytest.raises(fastio.ChecksumError) as caught:
        reader.load()
    assert caught.value.path == "bucket://model.safetensors"
    assert caught.value.offset == data_start(sealed)


@pytest.mark.parametrize(
    ("error", "number", "said"),
    [
        (OSError(errno.EACCES, "the bucket is private"), errno.EACCES, "the bucket is private"),
        (RuntimeError("no such bucket"), errno.EIO, "no such bucket"),
        (OSError(errno.EAGAIN, "slow down"), errno.EIO, "slow down"),
    ],
    ids=["OSError", "another error", "an error that says: again"],
)
def test_what_a_feed_raises_is_told(sealed: Path, error: Exception, number: int, said: str) -> None:
    bring = _bring(sealed)
    start = data_start(sealed)

    def refuse_data(offset: int, nbytes: int) -> bytes:
        if offset >= start:
            raise error
        return bring(offset, nbytes)

    shard = known.locate(_feed(sealed, refuse_data))
    with _reader(shard) as reader, pytest.raises(fastio.ReadError, match=said) as caught:
        reader.load()
    assert caught.value.errno == number
    assert caught.value.path == "bucket://model.safetensors"


@pytest.mark.parametrize(
    ("bring", "said"),
    [
        (lambda offset, nbytes: b"", "nothing came"),
        (lambda offset, nbytes: bytes(nbytes + 1), "it brought"),
        (lambda offset, nbytes: None, "bytes-like"),
        (lambda offset, nbytes: "text", "bytes-like"),
    ],
    ids=["nothing", "too much", "None", "text"],
)
def test_a_feed_that_brings_something_else_is_refused(
    sealed: Path, bring: Bring, said: str
) -> None:
    feed = _feed(sealed, bring)
    with pytest.raises(fastio.ReadError, match=said):
        feed.read(0, 100)
    shard = known.locate(_feed(sealed))
    broken = Shard(
        OneFile(feed, shard.table),
        *(shard.names, shard.dtypes, shard.shapes, shard.begins, shard.ends, shard.metadata),
    )
    with _reader(broken) as reader, pytest.raises(fastio.ReadError, match=said):
        reader.load()


def test_bytes_behind_the_end_of_a_feed_are_refused(sealed: Path) -> None:
    feed = _feed(sealed)
    assert feed.read(feed.nbytes, 0) == b""
    with pytest.raises(fastio.ReadError):
        feed.read(feed.nbytes - 1, 2)
    with pytest.raises(fastio.ReadError):
        feed.read(feed.nbytes + 1, 0)


def test_a_feed_that_hangs_is_left_after_a_time(sealed: Path) -> None:
    answered = threading.Event()

    def wait(offset: int, nbytes: int) -> bytes:
        answered.wait(60)
        return bytes(nbytes)

    feed = _native.Feed("bucket://slow", sealed.stat().st_size, wait, disk=8)
    try:
        with pytest.raises(fastio.ReadError) as caught:
            feed.read(0, 100, timeout_s=0.05)
        assert caught.value.errno == errno.ETIMEDOUT
    finally:
        answered.set()


def test_io_uring_reads_no_feed(sealed: Path) -> None:
    shard = known.locate(_feed(sealed))
    request = ([_feed(sealed)], shard.begins, shard.ends, None, False)
    with pytest.raises(ValueError, match="feed"):
        _native.load([request], fastio.Options(engine="uring"))


def test_a_feed_is_let_go_when_nobody_reads_from_it(sealed: Path) -> None:
    class Bringing:
        def __call__(self, offset: int, nbytes: int) -> bytes:
            return _bring(sealed)(offset, nbytes)

        def __del__(self) -> None:
            gone.set()

    gone = threading.Event()
    shard = known.locate(_feed(sealed, Bringing()))
    with _reader(shard) as reader:
        reader.load()
    del shard, reader
    assert gone.wait(60)
