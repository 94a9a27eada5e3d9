"""Chunks that were verified for a part, and kept: later parts read no disk for them."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import testbed
from fastio import _native
from fastio.formats import safetensors
from fastio.reading.chunks import CACHED_BYTES_MAX, Chunks
from samples import CHUNK_BYTES, write

_ROWS_PER_CHUNK = 256


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed file of 16 MiB: an embedding table, rows of 4 KiB."""
    return fastio.seal(
        write(tmp_path_factory.mktemp("kept") / "model", {"t": ("U32", (4096, 1024))})
    )


@pytest.fixture(scope="module")
def whole(path: Path) -> Any:
    return fastio.load(path, options=fastio.Options(mapping="never"))["t"]


@pytest.fixture
def reader(path: Path, engine: Any) -> Any:
    testbed.evict(path)
    options = fastio.Options(engine=engine, cache="bypass", mapping="never")
    with fastio.open(path, options=options) as reader:
        yield reader


def test_neighbouring_rows_come_from_one_read(reader: fastio.Reader, whole: Any) -> None:
    for row in (*range(20), 0, _ROWS_PER_CHUNK - 1, slice(7, 9), [3, 3, 1], slice(40, 0, -3)):
        assert np.array_equal(reader["t"][row], whole[row])
        assert np.array_equal(reader["t"][row, ..., 5:17:3], whole[row, ..., 5:17:3])
    assert reader.report.bytes_read == CHUNK_BYTES
    assert reader.report.chunks_verified == 1


def test_only_the_chunks_that_are_missing_are_read(reader: fastio.Reader, whole: Any) -> None:
    border = slice(_ROWS_PER_CHUNK - 1, _ROWS_PER_CHUNK + 1)
    reader["t"][0]
    assert np.array_equal(reader["t"][border], whole[border])
    assert reader.report.bytes_read == 2 * CHUNK_BYTES


def test_the_chunks_that_were_used_last_are_kept(reader: fastio.Reader, whole: Any) -> None:
    chunks = CACHED_BYTES_MAX // CHUNK_BYTES
    for chunk in (*range(chunks), 0, chunks):  # the last one replaces 1
        assert np.array_equal(reader["t"][chunk * 256], whole[chunk * 256])
    assert reader.report.bytes_read == (chunks + 1) * CHUNK_BYTES
    reader["t"][1]
    assert reader.report.bytes_read == (chunks + 1) * CHUNK_BYTES
    reader["t"][257]
    assert reader.report.bytes_read == (chunks + 2) * CHUNK_BYTES


def test_no_more_is_kept_than_the_limit_allows(path: Path, whole: Any) -> None:
    for limit_chunks, reads in ((4, 1), (3, 4)):
        options = fastio.Options(
            cache="bypass", mapping="never", memory_limit_bytes=limit_chunks * CHUNK_BYTES
        )
        with fastio.open(path, options=options) as reader:
            for row in range(4):
                assert np.array_equal(reader["t"][row], whole[row])
            assert reader.report.bytes_read == reads * CHUNK_BYTES


def test_returned_tensors_share_no_memory_with_kept_chunks(
    reader: fastio.Reader, whole: Any
) -> None:
    for index in (5, slice(5, 6), (slice(5, 7), slice(3, 5)), [5, 6], (5, 5)):
        part = reader["t"][index]
        part[...] = 0
        assert np.array_equal(reader["t"][index], whole[index])


def test_small_tensors_and_parts_share_kept_chunks(tmp_path: Path, engine: Any) -> None:
    path = fastio.seal(write(tmp_path / "model", {f"t{i}": ("U8", (64, 1024)) for i in range(16)}))
    testbed.evict(path)
    options = fastio.Options(engine=engine, cache="bypass", mapping="never")
    with fastio.open(path, options=options) as reader:
        for name in ("t3", "t9", "t1"):
            assert np.array_equal(reader[name][5:7], reader.tensor(name)[5:7])
        assert reader.report.bytes_read == CHUNK_BYTES


def test_chunks_without_checksums_are_not_kept(path: Path, whole: Any) -> None:
    options = fastio.Options(cache="bypass", mapping="never")
    with fastio.open(path, verify=False, options=options) as reader:
        for _ in range(2):
            assert np.array_equal(reader["t"][0], whole[0])
        read = reader.report.bytes_read
        assert np.array_equal(reader["t"][0], whole[0])
        assert reader.report.bytes_read * 2 == read * 3


def test_damage_is_refused_each_time_and_not_kept(tmp_path: Path, path: Path, whole: Any) -> None:
    damaged = tmp_path / "damaged"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    with fastio.open(damaged, options=fastio.Options(mapping="never")) as reader:
        for _ in range(2):
            with pytest.raises(fastio.ChecksumError, match=r"'t'"):
                reader["t"][-2]
            assert np.array_equal(reader["t"][1], whole[1])


def test_threads_may_read_the_same_chunks_at_once(reader: fastio.Reader, whole: Any) -> None:
    wrong: list[int] = []

    def work(first: int) -> None:
        for row in range(first, 4096, 61):
            if not np.array_equal(reader["t"][row], whole[row]):
                wrong.append(row)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 61, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_kept_chunks_stay_within_their_bound_when_chunks_are_read_twice(path: Path) -> None:
    shard = safetensors.locate(_native.File(path))
    table = shard.table
    assert table is not None
    chunks = Chunks(None)

    def read(ranges: list[tuple[int, int]]) -> list[Any]:
        # Another thread reads and keeps the same chunks meanwhile.
        made = [np.zeros(end - begin, np.uint8) for begin, end in ranges]
        if depth:
            depth.pop()
            chunks.ranges(shard, table, ranges, read)
        return made

    for number in range(16):
        depth = [1]
        begin = table.start + number * CHUNK_BYTES
        chunks.ranges(shard, table, [(begin, begin + 10)], read)
        kept = sum(chunk.nbytes for chunk in chunks._kept.values())
        assert chunks._nbytes == kept <= CACHED_BYTES_MAX
