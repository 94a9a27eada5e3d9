"""A bad replica is reported briefly: one event a file, with the count and the ranges."""

import errno
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
from fastio import _native
from samples import in_threads
from store.damages import damage_data, each_shard, flip
from store.samples import CHUNK_BYTES, assert_same, create, shards_of, tensors

_CHUNKS = 24
_OPTIONS = fastio.Options(cache="bypass")


def _one_shard(folder: Path, chunks: int = _CHUNKS) -> tuple[fastio.Store, Path, int]:
    """A store whose data is one shard, the replica that is read first, and its data's offset."""
    store = create(folder, 2, shard_bytes=2**30)
    store.save({"a": np.arange(chunks * CHUNK_BYTES // 8, dtype=np.int64)})
    with store.reader() as reader:
        path = Path(reader.info("a").path)
        return store, path, reader.info("a").offset


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, logger="fastio")
    return lambda: [record.getMessage() for record in caplog.records]


def _damage(path: Path, start: int, chunks: Any) -> None:
    data = bytearray(path.read_bytes())
    for chunk in chunks:
        data[start + chunk * CHUNK_BYTES] ^= 1
    path.write_bytes(data)


def test_a_replica_that_is_damaged_all_over_is_one_line_and_one_event(
    tmp_path: Path, told: list[fastio.Event], log: Callable[[], list[str]]
) -> None:
    store, path, start = _one_shard(tmp_path, 64)
    expected = store.load()
    _damage(path, start, range(64))
    report = fastio.Report()
    options = fastio.Options(cache="bypass", lanes=4, block_bytes=CHUNK_BYTES)
    assert_same(store.load(options=options, report=report), expected)
    (event,) = report.events
    assert told == [event]
    assert log() == [str(event)]
    assert report.fallbacks == (str(event),)
    # Not all of it was read from that replica.
    assert event.count == sum((end - begin) // CHUNK_BYTES for begin, end in event.ranges) > 10
    assert event.nbytes == event.count * CHUNK_BYTES
    assert event.offset == event.ranges[0][0]
    assert event.path == str(path)
    assert event.tensors == ("a",)
    assert "checksum" in event.cause
    assert event.remedy == "taken from another replica"
    assert f"{event.count} chunks, {event.nbytes} bytes" in str(event)


@pytest.mark.parametrize("way", ["load", "stream", "load_into", "tensor", "slices"])
def test_the_ranges_are_those_that_are_damaged(
    tmp_path: Path, way: str, told: list[fastio.Event], log: Callable[[], list[str]]
) -> None:
    store, _, start = _one_shard(tmp_path)
    expected = store.load()
    both = [shards_of(tmp_path / f"root{at}")[0] for at in (0, 1)]
    _damage(both[0], start, [0, 1, 2, 7, _CHUNKS - 1])  # each from the other, sound replica
    _damage(both[1], start, [3, 4, 12])
    report = fastio.Report()
    with store, store.reader(options=_OPTIONS) as reader:
        if way == "load":
            assert_same(store.load(options=_OPTIONS, report=report), expected)
        elif way == "load_into":
            into = {"a": np.empty_like(expected["a"])}
            store.load_into(into, options=_OPTIONS, report=report)
            assert_same(into, expected)
        elif way == "stream":
            assert_same(dict(reader.stream(memory_limit_bytes=4 * CHUNK_BYTES)), expected)
        elif way == "tensor":
            assert_same({"a": reader.tensor("a")}, expected)
        else:
            rows = CHUNK_BYTES // 8
            for at in range(_CHUNKS):
                part = reader["a"][at * rows : (at + 1) * rows]
                assert part.tobytes() == expected["a"][at * rows : (at + 1) * rows].tobytes()
    if not report.events:
        report = reader.report
        assert report.events  # also when it is closed
    damaged = {
        str(both[0]): [(0, 3), (7, 8), (_CHUNKS - 1, _CHUNKS)],
        str(both[1]): [(3, 5), (12, 13)],
    }
    for event in report.events:
        chunks = [tuple((at - start) // CHUNK_BYTES for at in each) for each in event.ranges]
        bad = {at for begin, end in damaged[event.path] for at in range(begin, end)}
        met = {at for begin, end in chunks for at in range(begin, end)}
        assert met <= bad
        assert event.count == len(met)
        if way == "slices":
            assert chunks == damaged[event.path]
    # A file is reported at its first fault, and once more in the end if there were more.
    assert len({event.path for event in told}) == len(report.events)
    assert len(told) <= 2 * len(report.events)
    assert log() == [str(event) for event in told]
    last = {event.path: event for event in told}
    assert last == {event.path: event for event in report.events}


def test_a_root_without_its_shards_is_some_lines_and_an_event_for_each(
    tmp_path: Path, told: list[fastio.Event], log: Callable[[], list[str]]
) -> None:
    store = create(tmp_path, 2, shard_bytes=CHUNK_BYTES)
    many = {f"t{at}": np.full(CHUNK_BYTES // 8, at) for at in range(60)}
    store.save(many)
    lost = shards_of(tmp_path / "root1")
    assert len(lost) >= 50
    for shard in lost:
        shard.unlink()
    report = fastio.Report()
    assert_same(store.load(report=report), many)
    lines = log()
    assert len(lines) < 12
    assert f"{len(lost) - len(lines) + 1} more files" in lines[-1]
    assert str(tmp_path / "root1") in lines[-1]
    assert {event.path for event in told} == set(map(str, lost))
    assert len(report.fallbacks) == len(report.events) == len(lost)
    assert len(str(report).splitlines()) < 20
    told.clear()
    assert_same(dict(store.stream()), many)
    assert {event.path for event in told} == set(map(str, lost))
    assert len(log()) < 24


def test_replicas_that_a_save_writes_again_are_a_line_for_each_root(
    tmp_path: Path, log: Callable[[], list[str]]
) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    each_shard(tmp_path / "root0", damage_data)
    report = fastio.Report()
    store.save(tensors(1), report=report)
    (line,) = log()
    assert str(tmp_path / "root0") in line
    assert "more files" in line
    again = [line for line in report.fallbacks if "is written again" in line]
    assert len(again) > 3
    assert_same(store.load(), tensors(1))


def test_threads_that_meet_the_same_file_tell_of_it_once(
    tmp_path: Path, told: list[fastio.Event]
) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    for root in (0, 1):
        for at, shard in enumerate(shards_of(tmp_path / f"root{root}")):
            if at % 2 == root:
                flip(shard, -1)
    with store.reader(options=_OPTIONS) as reader:
        in_threads(8, lambda _: assert_same({n: reader.tensor(n) for n in reader}, tensors(1)))
    paths = [event.path for event in told]
    assert len(paths) == len(set(paths))


def test_failed_reads_are_reported_like_damage(
    tmp_path: Path, told: list[fastio.Event], log: Callable[[], list[str]]
) -> None:
    store, _, _ = _one_shard(tmp_path)
    expected = store.load()
    told.clear()
    _native.testing.set_completion_faults([(at, "error", errno.EIO) for at in range(3)])
    try:
        options = fastio.Options(cache="bypass", lanes=1, block_bytes=CHUNK_BYTES)
        assert_same(store.load(options=options), expected)
    finally:
        _native.testing.set_completion_faults([])
    assert len(told) == len({event.path for event in told})
    assert log() == list(map(str, told))
    assert all("Input/output error" in event.cause for event in told)
    assert sum(event.count or 0 for event in told) == 3


def test_a_callback_that_always_fails_is_one_trace_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: fastio.Event) -> None:
        raise RuntimeError(str(event))

    store = create(tmp_path, 2)
    store.save(tensors(1))
    each_shard(tmp_path / "root0", Path.unlink)
    before = fastio.on_event(fail)
    try:
        with caplog.at_level(logging.INFO, logger="fastio"):
            store.load()
            store.load()
    finally:
        fastio.on_event(before)
    traces = [record for record in caplog.records if record.exc_info]
    assert len(traces) == 1


def test_status_of_a_store_fits_a_notebook(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    shutil.rmtree(tmp_path / "root1")
    shown = store.status()._repr_html_()
    assert "DEGRADED" in shown
    assert str(tmp_path / "root1") in shown
    assert "<table>" in shown


@pytest.mark.parametrize("damage", ["header", "missing"])
def test_a_report_of_a_repair_names_each_fault_once(tmp_path: Path, damage: str) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    for path in shards_of(tmp_path / "root0"):
        if damage == "header":
            flip(path, 100)
        else:
            path.unlink()
    report = fastio.Report()
    store.load(on_damage="repair", report=report)
    repaired = [event for event in report.events if event.kind == "repair"]
    assert repaired
    for event in repaired:
        first, second = (line for line in report.fallbacks if event.path in line)
        assert event.cause in first
        assert second == f"{event.path}: {event.remedy}"
