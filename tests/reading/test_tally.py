"""The report of a reader over all its reads: every field, after every way to read."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

import fastio
import testbed
from fastio import _native
from fastio.reading.tally import RunningJob, Tally
from samples import in_threads

_NBYTES = 1_500_000
_NAMES = [f"t{i}" for i in range(8)]


def _tensors() -> dict[str, npt.NDArray[Any]]:
    random = np.random.default_rng(7)
    made: dict[str, npt.NDArray[Any]] = {
        name: random.integers(0, 256, (1500, 1000), np.uint8) for name in _NAMES
    }
    return {**made, "small": np.arange(10, dtype=np.int64), "empty": np.empty((0, 3))}


def _all(reader: fastio.Reader) -> int:
    return sum(reader.info(name).nbytes for name in reader)


def _some_of_a_stream(reader: fastio.Reader) -> int:
    stream = reader.stream(["t1", "t2", "t5"])
    next(stream)
    next(stream)
    assert reader.report.nbytes == 2 * _NBYTES  # also while the read is running
    assert reader.report.seconds > 0
    return 2 * _NBYTES


def _loop(reader: fastio.Reader) -> int:
    for name in _NAMES:
        reader.tensor(name)
    return len(_NAMES) * _NBYTES


def _loop_left_half_way(reader: fastio.Reader) -> int:
    for name in _NAMES[:4]:
        reader.tensor(name)
    return 4 * _NBYTES


def _after(read: Callable[[fastio.Reader], object], nbytes: int) -> Callable[[Any], int]:
    def call(reader: fastio.Reader) -> int:
        read(reader)
        return nbytes

    return call


def _load(reader: fastio.Reader) -> int:
    reader.load()
    return _all(reader)


def _stream(reader: fastio.Reader) -> int:
    for _ in reader.stream():
        pass
    return _all(reader)


_WAYS: dict[str, Callable[[fastio.Reader], int]] = {
    "a stream": _stream,
    "half of a stream": _some_of_a_stream,
    "a loop": _loop,
    "half of a loop": _loop_left_half_way,
    "a tensor": _after(lambda reader: reader.tensor("t3"), _NBYTES),
    "a view": _after(lambda reader: reader["t3"][...], _NBYTES),
    "a small tensor, often": _after(
        lambda reader: [reader.tensor("small") for _ in range(5)], 5 * 80
    ),
    "rows": _after(lambda reader: reader["t3"][10:20], 10 * 1000),
    "load": _load,
    "read": _after(lambda reader: reader.read(["t1", "t4"]), 2 * _NBYTES),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tally")
    safetensors.numpy.save_file(_tensors(), folder / "plain")
    fastio.save(_tensors(), folder / "sealed")
    with fastio.Store.create([folder / "a", folder / "b"], shard_bytes=4_000_000) as store:
        store.save(_tensors())
    return {"plain": folder / "plain", "sealed": folder / "sealed", "store": folder / "a"}


@pytest.fixture(params=["plain", "sealed", "sealed, mapped", "plain, mapped", "store"])
def reader(request: pytest.FixtureRequest, sources: dict[str, Path]) -> Iterator[fastio.Reader]:
    kind, _, mapped = request.param.partition(", ")
    path = sources[kind]
    options = fastio.Options(cache="auto" if mapped else "bypass")
    if not mapped:
        with fastio.open(path, options=options) as reader:
            yield reader
        return
    with testbed.kept_warm(path), fastio.open(path) as reader:
        yield reader


@pytest.mark.parametrize("way", _WAYS)
def test_every_field_is_filled_after_every_way_to_read(reader: fastio.Reader, way: str) -> None:
    begun = time.perf_counter()
    nbytes = _WAYS[way](reader)
    report = reader.report
    assert report.nbytes == nbytes
    assert 0 < report.seconds <= time.perf_counter() - begun + 0.1
    assert report.cpu_seconds > 0
    assert report.gb_per_s == pytest.approx(nbytes / report.seconds / 1e9)
    assert report.bytes_read + report.bytes_mapped >= min(nbytes, 80)
    assert report.engine in ("uring", "pread", "inline", "mmap")
    assert report.engine_reason
    assert report.cache in ("cold", "warm", "mixed")
    assert report.cache_reason
    assert (report.engine == "mmap") == (report.bytes_mapped > 0)
    assert report.tensors == len(reader)
    assert report.files >= 1
    assert (report.chunks_verified > 0) == (report.unverified == ())
    assert (report.fallbacks, report.events) == ((), ())
    assert f"{len(reader)} tensors" in str(report)
    assert "nothing" not in str(report)
    assert len(repr(report)) <= 120
    reader.close()
    again = reader.report
    assert (again.nbytes, again.bytes_read, again.bytes_mapped) == (
        *(report.nbytes, again.bytes_read, again.bytes_mapped),
    )
    assert again.seconds >= report.seconds


@pytest.mark.parametrize("way", ["nothing", "a tensor of no bytes"])
def test_a_reader_that_read_no_bytes_says_so(reader: fastio.Reader, way: str) -> None:
    if way != "nothing":
        assert reader.tensor("empty").shape == (0, 3)
    report = reader.report
    assert (report.engine, report.engine_reason) == ("none", "nothing was read")
    assert (report.nbytes, report.seconds, report.gb_per_s) == (0, 0, 0)
    assert "engine none (nothing was read)" in str(report)


@pytest.mark.parametrize("mapped", [True, False])
def test_reads_of_several_threads_take_no_longer_than_the_clock(
    sources: dict[str, Path], mapped: bool
) -> None:
    options = fastio.Options(mapping="auto" if mapped else "never")
    path = sources["sealed"]
    with testbed.kept_warm(path), fastio.open(path, options=options) as reader:
        begun = time.perf_counter()
        in_threads(8, lambda i: [reader.tensor(name) for name in _NAMES[i % 3 :]])
        in_threads(4, lambda _: list(reader.stream()))
        elapsed = time.perf_counter() - begun
        report = reader.report
    assert 0 < report.seconds <= elapsed
    whole = sum(tensor.nbytes for tensor in _tensors().values())
    assert report.nbytes == 4 * whole + sum(8 - i % 3 for i in range(8)) * _NBYTES


def test_the_callers_time_between_tensors_is_not_counted(sources: dict[str, Path]) -> None:
    options = fastio.Options(cache="bypass")
    own = 0.0
    with fastio.open(sources["sealed"], options=options) as reader:
        begun = time.perf_counter()
        for _ in reader.stream():
            at = time.perf_counter()
            while time.perf_counter() - at < 0.02:
                pass
            own += time.perf_counter() - at
        elapsed = time.perf_counter() - begun
        report = reader.report
    # The lanes' reads count although the caller did not wait for them.
    lanes = max((lane.total_s - lane.room_wait_s for lane in report.lane_times), default=0.0)
    assert 0 < report.seconds <= elapsed - own + lanes


class _Job:
    """A stream whose lanes worked for the given time."""

    def __init__(self, *busy_s: float) -> None:
        lanes = [{"total_s": busy + 1.0, "room_wait_s": 1.0} for busy in busy_s]
        ways = ("bytes_direct", "bytes_buffered", "bytes_mapped", "bytes_fed")
        counts = ("chunks_trusted", "reads_hedged", "hedges_won")
        zero = dict.fromkeys((*ways, *counts, "chunks_verified", "nbytes", "lanes"), 0)
        self.statistics = {
            **zero,
            "engine": "pread",
            "engine_reason": "tried",
            "access": [],
            "fallbacks": [],
            "lane_times": lanes,
        }


def test_readahead_counts_for_its_own_duration_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    for busy_s, lived_s, expected_s in ((2.0, 5.0, 2.0), (9.0, 5.0, 5.0), (0.0, 5.0, 0.0)):
        now = 0.0
        tally = Tally()
        underway = RunningJob(tally, _Job(busy_s / 2, busy_s))  # type: ignore[arg-type]
        now = lived_s
        underway.end()
        underway.end()
        assert tally.report().seconds == expected_s


def test_time_that_overlaps_counts_once() -> None:
    clock = _native.ActiveTime()
    assert clock.seconds == 0
    inside, leave = threading.Barrier(9), threading.Event()

    def stay() -> None:
        clock.start()
        inside.wait()
        leave.wait()
        clock.stop()

    threads = [threading.Thread(target=stay) for _ in range(8)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    inside.wait()
    running = clock.seconds
    assert 0 < running <= time.perf_counter() - begun
    leave.set()
    for thread in threads:
        thread.join()
    ended = clock.seconds
    assert running <= ended <= time.perf_counter() - begun
    assert clock.seconds == ended
    clock.stop()  # started before a fork, by its record
    clock.start()
    clock.start()
    clock.stop_all()
    assert clock.seconds >= ended
    assert clock.seconds == clock.seconds


def test_a_child_made_by_fork_counts_for_itself(sources: dict[str, Path]) -> None:
    code = """
import os, sys
import fastio
with fastio.open(sys.argv[1], options=fastio.Options(cache="bypass")) as reader:
    stream = reader.stream()
    next(stream)
    if os.fork() == 0:
        before = reader.report
        reader["t3"][5:9]
        after = reader.report
        ok = 0 < after.seconds < 60 and after.nbytes == before.nbytes + 4 * 1000
        os._exit(0 if ok and reader.report == after else 1)
    _, status = os.wait()
    print(os.waitstatus_to_exitcode(status), reader.report.nbytes > 0)
"""
    assert testbed.run_python(code, sources["sealed"]).check().stdout.split() == ["0", "True"]
