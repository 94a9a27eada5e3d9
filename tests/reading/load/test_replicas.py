"""Replicas of a file, passed to the core from Python: read from either, with notes of failures."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
from fastio import _native

_CHUNK_BYTES = 1 << 16
_CHUNKS = 40
_NBYTES = _CHUNKS * _CHUNK_BYTES - 1000
Faults = Callable[..., None]


@pytest.fixture
def replicas(tmp_path: Path) -> list[Path]:
    data = np.random.default_rng(1).bytes(_NBYTES)
    paths = [tmp_path / "first", tmp_path / "second"]
    for path in paths:
        path.write_bytes(data)
    return paths


def _options(**changed: Any) -> fastio.Options:
    asked = {"lanes": 1, "queue_depth": 1, "block_bytes": 4 * _CHUNK_BYTES, "cache": "keep"}
    return fastio.Options(**{**asked, **changed})


def _request(data: bytes, *files: _native.File) -> _native.ShardRequest:
    begins = np.arange(0, _NBYTES, 4 * _CHUNK_BYTES)
    ends = np.minimum(begins + 4 * _CHUNK_BYTES, _NBYTES)
    algorithm = _native.ALGORITHMS["xxh3_64"]
    table = (0, _CHUNK_BYTES, algorithm, algorithm.digests(data, _CHUNK_BYTES))
    return files, begins, ends, table, True


def _damage(path: Path, chunk: int) -> None:
    with path.open("r+b") as file:
        file.seek(chunk * _CHUNK_BYTES + 5)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def _bytes_of(loaded: _native.Loaded, first: int, count: int) -> bytes:
    begins = np.arange(0, _NBYTES, 4 * _CHUNK_BYTES)
    sizes = (np.minimum(begins + 4 * _CHUNK_BYTES, _NBYTES) - begins).tolist()
    shapes: list[tuple[int, ...]] = [(size,) for size in sizes[first : first + count]]
    arrays = loaded.numpy(0, [np.dtype(np.uint8)] * count, shapes, first)
    return b"".join(array.tobytes() for array in arrays)


def test_a_damaged_chunk_is_read_from_the_other_replica_and_reported(
    replicas: list[Path], engine: Any
) -> None:
    data = replicas[0].read_bytes()
    _damage(replicas[0], 5)
    request = _request(data, *map(_native.File, replicas))
    incidents: list[_native.Incident] = []
    options = _options(engine=engine)
    loaded = _native.load([request], options, persistent=True, incidents=incidents)
    assert _bytes_of(loaded, 0, 10) == data
    assert len(loaded.statistics["access"]) == 2
    assert loaded.statistics["incidents_dropped"] == 0
    found = _native.xxh3_64(replicas[0].read_bytes()[5 * _CHUNK_BYTES : 6 * _CHUNK_BYTES])
    expected = _native.xxh3_64(data[5 * _CHUNK_BYTES : 6 * _CHUNK_BYTES])
    told: _native.Incident = {
        "shard": 0,
        "replica": 0,
        "path": str(replicas[0]),
        "offset": 5 * _CHUNK_BYTES,
        "nbytes": _CHUNK_BYTES,
        "cause": "checksum",
        "detail": f"checksum {expected:016x} expected, {found:016x} found",
        "errno": None,
        "remedy": "other_replica",
    }
    assert incidents == [told, told]  # it was read twice


def test_a_failed_read_is_reported_even_if_no_replica_is_left(
    replicas: list[Path], engine: Any, faults: Faults
) -> None:
    request = _request(replicas[0].read_bytes(), *map(_native.File, replicas))
    incidents: list[_native.Incident] = []
    faults((0, "error", errno.EIO), (2, "error", errno.EIO), (3, "error", errno.ENXIO))
    with pytest.raises(fastio.ReadError) as caught:
        _native.load([request], _options(engine=engine), persistent=True, incidents=incidents)
    assert caught.value.errno == errno.ENXIO
    assert caught.value.filename == str(replicas[1])
    assert [incident["remedy"] for incident in incidents] == ["other_replica", "none", "none"]
    assert [incident["errno"] for incident in incidents] == [errno.EIO, errno.EIO, errno.ENXIO]
    assert incidents[0]["detail"] == "Input/output error"
    assert {incident["cause"] for incident in incidents} == {"read"}
    assert {incident["nbytes"] for incident in incidents} == {4 * _CHUNK_BYTES}


def test_a_load_that_does_not_persist_ends_with_the_first_failure(
    replicas: list[Path], faults: Faults
) -> None:
    request = _request(replicas[0].read_bytes(), *map(_native.File, replicas))
    incidents: list[_native.Incident] = []
    faults((0, "error", errno.EIO))
    with pytest.raises(fastio.ReadError):
        _native.load([request], _options(), incidents=incidents)
    assert [incident["remedy"] for incident in incidents] == ["none"]


def test_a_stream_reports_the_failures_since_the_last_query(
    replicas: list[Path], engine: Any
) -> None:
    data = replicas[0].read_bytes()
    _damage(replicas[0], 1)
    _damage(replicas[0], 30)
    request = _request(data, *map(_native.File, replicas))
    stream = _native.Stream(
        [request], _options(engine=engine), window_bytes=4 * _CHUNK_BYTES, persistent=True
    )
    told = []
    for index, (_, first, last) in enumerate(stream.regions()):
        loaded = stream.take(index)
        assert (
            _bytes_of(loaded, first, last - first)
            == data[first * 4 * _CHUNK_BYTES :][: (last - first) * 4 * _CHUNK_BYTES]
        )
        told.append([incident["offset"] // _CHUNK_BYTES for incident in stream.incidents()])
        loaded.release()
        stream.release(index)
    assert [chunks for chunks in told if chunks] == [[1, 1], [30, 30]]
    stream.close()
    assert stream.incidents() == []


def test_a_fill_takes_sound_chunks_from_either_replica(replicas: list[Path], engine: Any) -> None:
    data = replicas[0].read_bytes()
    _damage(replicas[0], 1)
    _damage(replicas[1], 2)
    request = _request(data, *map(_native.File, replicas))
    target = np.zeros(_NBYTES, np.uint8)
    places = [
        (_native.address_of(target) + int(begin), 1, (int(end - begin),), (1,), -1)
        for begin, end in zip(request[1], request[2], strict=True)
    ]
    fill = _native.Fill([request], [places], _options(engine=engine), persistent=True)
    assert fill.incidents() == []
    fill.run()
    assert target.tobytes() == data
    assert all(fill.placed(0))
    assert [incident["remedy"] for incident in fill.incidents()] == ["other_replica"] * 2
    assert fill.incidents() == []


@pytest.mark.parametrize("files", [[], [None], None, "ab", 7])
def test_anything_but_files_is_refused(files: Any) -> None:
    nothing = np.zeros(0, np.int64)
    with pytest.raises((TypeError, ValueError)):
        _native.load([(files, nothing, nothing, None, True)], _options())


def test_replicas_of_different_sizes_are_refused(replicas: list[Path]) -> None:
    replicas[1].write_bytes(b"short")
    nothing = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="different sizes"):
        _native.load(
            [(list(map(_native.File, replicas)), nothing, nothing, None, True)], _options()
        )


def test_a_file_is_opened_by_its_name_in_a_folder(replicas: list[Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("first")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
    folder_fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        file = _native.File.open_in(folder_fd, "first", "shown/as")
        assert file.path == "shown/as"
        assert file.disk == os.stat(replicas[0]).st_dev
        assert file.read(0, _NBYTES) == replicas[0].read_bytes()
        refused = {
            "link": errno.ELOOP,
            "folder": errno.EINVAL,
            "socket": errno.EINVAL,
            "..": errno.EINVAL,
            "./first": errno.EINVAL,
            str(replicas[0]): errno.EINVAL,
        }
        for name, error in refused.items():
            with pytest.raises(fastio.ReadError) as caught:
                _native.File.open_in(folder_fd, name, "shown/as")
            assert caught.value.errno == error, name
            assert caught.value.filename == "shown/as"
        with pytest.raises(FileNotFoundError):
            _native.File.open_in(folder_fd, "missing", "shown/as")
        with pytest.raises(ValueError, match="null byte"):
            _native.File.open_in(folder_fd, "fir\0st", "shown/as")
    finally:
        os.close(folder_fd)
    with pytest.raises(fastio.ReadError) as caught:
        _native.File.open_in(folder_fd, "first", "shown/as")
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("kept", [-8, 8, 0], ids=["too few", "too many", "no chunk size"])
def test_a_table_that_does_not_fit_the_file_is_refused_for_loads_and_mappings(
    replicas: list[Path], kept: int
) -> None:
    files, begins, ends, table, _ = _request(replicas[0].read_bytes(), _native.File(replicas[0]))
    assert table is not None
    start, chunk_bytes, algorithm, digests = table
    wrong = (digests + bytes(8))[: len(digests) + kept]
    other = (start, chunk_bytes if kept else 0, algorithm, wrong)
    for read in (_load, _map):
        with pytest.raises(ValueError, match="does not fit the file"):
            read((files, begins, ends, other, False))


def _load(request: _native.ShardRequest) -> object:
    return _native.load([request], _options())


def _map(request: _native.ShardRequest) -> object:
    return _native.MappedFile.open(request, fastio.Options())


def test_a_table_without_an_algorithm_is_refused(replicas: list[Path]) -> None:
    files, begins, ends, table, _ = _request(replicas[0].read_bytes(), _native.File(replicas[0]))
    assert table is not None
    request: Any = (files, begins, ends, (*table[:2], None, table[3]), False)
    with pytest.raises(TypeError, match="Algorithm"):
        _native.load([request], _options())
