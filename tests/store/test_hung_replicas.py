"""A root whose disk hangs counts as missing: its reads are lost, and other roots have the bytes."""

import errno
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest

import fastio
import testbed
from fastio import _native
from fastio.storage.answering import Answering
from samples import elsewhere, eventually, native_threads, open_files
from store.damages import flip
from store.samples import CHUNK_BYTES, assert_same, create, shards_of, tensors
from store.ways import WAYS

Faults = Callable[..., None]
_TIMEOUT_S = 1.5
_CAUSE = "no answer in time (Options.root_timeout_s is 1.5 s)"
_EVERY = [(at, "never", 0) for at in range(10_000)]


@pytest.fixture
def options(engine: Any) -> fastio.Options:
    return _options(engine)


def _options(engine: Any, **more: Any) -> fastio.Options:
    given = {"cache": "bypass", "block_bytes": CHUNK_BYTES, "root_timeout_s": _TIMEOUT_S, **more}
    return fastio.Options(engine=engine, **given)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("nth", [0, 3])
def test_blocks_of_a_hung_disk_are_read_from_another_root(
    roots: list[Path],
    way: str,
    nth: int,
    options: fastio.Options,
    faults: Faults,
    told: list[fastio.Event],
) -> None:
    threads, files = native_threads(), open_files()
    with fastio.Store.open(roots) as store:
        faults((nth, "never", 0))
        assert_same(WAYS[way](store, options), tensors(1))
    (path,) = {event.path for event in told if event.cause.startswith(_CAUSE)}
    assert any(str(root) in path for root in roots)
    assert {event.remedy for event in told} == {"taken from another replica"}
    assert _native.testing.abandoned_bytes() > 0, "nothing was hung"

    _native.testing.release_held_completions()
    assert eventually(lambda: _native.testing.abandoned_bytes() == 0)
    assert eventually(lambda: native_threads() <= threads)
    assert eventually(lambda: open_files() <= files)


def test_the_report_tells_of_it_once(
    roots: list[Path], options: fastio.Options, faults: Faults, told: list[fastio.Event]
) -> None:
    report = fastio.Report()
    with fastio.Store.open(roots) as store:
        faults((0, "never", 0))
        assert_same(store.load(options=options, report=report), tensors(1))
        assert _native.testing.abandoned_bytes() > 0
    (event,) = report.events
    assert told == [event]
    assert report.fallbacks == (str(event),)
    assert event.kind == "fallback"
    assert event.cause.startswith(_CAUSE)
    assert event.offset is not None
    assert event.tensors
    assert report.nbytes == sum(np.asarray(tensor).nbytes for tensor in tensors(1).values())


def test_a_lane_whose_only_slot_is_lost_is_succeeded(
    roots: list[Path], engine: Any, faults: Faults
) -> None:
    with fastio.Store.open(roots) as store:
        faults((2, "never", 0))
        options = _options(engine, lanes=1, queue_depth=1)
        for way in ("load", "stream", "load_into"):
            assert_same(WAYS[way](store, options), tensors(1))


def test_a_disk_that_owes_an_answer_is_asked_for_nothing_that_others_have(
    roots: list[Path], engine: Any, faults: Faults
) -> None:
    patient = _options(engine, root_timeout_s=60)
    with fastio.Store.open(roots) as store:
        faults((0, "never", 0))
        assert_same(store.load(options=_options(engine)), tensors(1))
        faults()
        report = fastio.Report()
        begin = time.monotonic()
        assert_same(store.load(options=patient, report=report), tensors(1))
        assert time.monotonic() - begin < 30
        assert report.fallbacks
        assert all("an earlier request has no answer yet" in line for line in report.fallbacks)
        _native.testing.release_held_completions()
        assert eventually(lambda: _native.testing.abandoned_bytes() == 0)
        assert_same(store.load(options=patient, report=report), tensors(1))
        assert not report.fallbacks


def test_a_replica_on_a_disk_that_owes_an_answer_is_opened_soon_or_not_at_all(
    roots: list[Path], engine: Any, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load waits for a hanging disk once: not for its reads, and then again for its replicas."""
    asked: dict[PurePath, set[float | None]] = {}
    ask = Answering.ask

    def noted(answering: Answering, call: Callable[[], Any], timeout_s: float | None = None) -> Any:
        asked.setdefault(answering.path, set()).add(timeout_s)
        return ask(answering, call, timeout_s)

    with fastio.Store.open(roots) as store:
        faults((0, "never", 0))
        store.load(options=_options(engine))
        faults()
        owing = [
            root for root in store._opened.members.roots.values() if root.answering.owes_answer
        ]
        assert len(owing) == 1
        monkeypatch.setattr(Answering, "ask", noted)
        assert_same(store.load(options=_options(engine)), tensors(1))
    for path, timeouts in asked.items():
        (waited_s,) = timeouts - {None}
        share = 0.1 if path == owing[0].path else 1.0
        assert waited_s == pytest.approx(_TIMEOUT_S / 2 * share)
    assert len(asked) == 2


@pytest.mark.parametrize("way", [way for way in WAYS if way != "backwards"])
def test_if_every_disk_hangs_each_replica_is_named_with_its_reason(
    roots: list[Path], way: str, options: fastio.Options, faults: Faults
) -> None:
    with fastio.Store.open(roots) as store:
        faults(*_EVERY)
        with pytest.raises(fastio.ReplicaError) as caught:
            WAYS[way](store, options)
        reasons = caught.value.reasons
        assert len(reasons) == 2
        for root in roots:
            assert any(str(root) in path for path in reasons)
        assert all("no answer" in reason for reason in reasons.values())
        assert caught.value.tensors
        faults()
        _native.testing.release_held_completions()
        assert eventually(lambda: _native.testing.abandoned_bytes() == 0)
        assert_same(WAYS[way](store, options), tensors(1))


def test_a_store_with_one_root_says_so(
    tmp_path: Path, options: fastio.Options, faults: Faults
) -> None:
    with create(tmp_path / "store", 1) as store:
        store.save(tensors(1))
        faults((0, "never", 0))
        with pytest.raises(fastio.ReplicaError, match="no replica of a shard") as caught:
            store.load(options=options)
        assert all(_CAUSE in reason for reason in caught.value.reasons.values())


def test_a_file_that_is_on_no_root_is_waited_for(
    tmp_path: Path, options: fastio.Options, faults: Faults
) -> None:
    path = tmp_path / "model.safetensors"
    fastio.save({"a": np.arange(2**18)}, path)
    testbed.evict(path)
    faults((0, "never", 0))

    def load() -> Any:
        return fastio.load(path, options=options)

    with elsewhere(load) as loading:
        time.sleep(4 * _TIMEOUT_S)
        assert (loading.error, loading.result) == (None, None)
        _native.testing.release_held_completions()
    assert loading.error is None
    assert_same(loading.result, {"a": np.arange(2**18)})


def test_a_time_without_end_is_waited_for(roots: list[Path], engine: Any, faults: Faults) -> None:
    with fastio.Store.open(roots) as store:
        faults((0, "never", 0))
        options = _options(engine, root_timeout_s="inf")
        with elsewhere(lambda: store.load(options=options)) as loading:
            time.sleep(4 * _TIMEOUT_S)
            assert (loading.error, loading.result) == (None, None)
            _native.testing.release_held_completions()
        assert loading.error is None
        assert_same(loading.result, tensors(1))


@pytest.mark.parametrize("way", ["load", "stream", "load_into"])
def test_on_damage_raise_a_disk_that_hangs_is_an_error(
    roots: list[Path], way: str, options: fastio.Options, faults: Faults
) -> None:
    native = {name: np.asarray(tensor) for name, tensor in tensors(1).items()}
    filled = {
        name: np.zeros(tensor.shape, tensor.dtype.newbyteorder("="))
        for name, tensor in native.items()
    }
    calls: dict[str, Callable[[fastio.Store], object]] = {
        "load": lambda store: store.load(on_damage="raise", options=options),
        "stream": lambda store: dict(store.stream(on_damage="raise", options=options)),
        "load_into": lambda store: store.load_into(filled, on_damage="raise", options=options),
    }
    with fastio.Store.open(roots) as store:
        faults((0, "never", 0))
        with pytest.raises(fastio.ReadError) as caught:
            calls[way](store)
    assert caught.value.errno == errno.ETIMEDOUT
    assert _CAUSE in str(caught.value)
    assert any(str(root) in str(caught.value.filename) for root in roots)


def test_a_replica_that_hung_is_not_repaired(
    roots: list[Path], options: fastio.Options, faults: Faults
) -> None:
    before = {shard: shard.stat().st_ino for root in roots for shard in shards_of(root)}
    report = fastio.Report()
    with fastio.Store.open(roots) as store:
        faults((0, "never", 0))
        found = store.load(on_damage="repair", options=options, report=report)
        assert_same(found, tensors(1))
    assert not any("written anew" in line for line in report.fallbacks)
    assert {shard: shard.stat().st_ino for root in roots for shard in shards_of(root)} == before


def test_damage_in_one_replica_and_a_hang_of_the_other_is_an_error_with_both(
    roots: list[Path], engine: Any, faults: Faults
) -> None:
    for root in roots:
        for shard in shards_of(root):
            flip(shard, -1)
    with fastio.Store.open(roots) as store:
        options = _options(engine, lanes=1, queue_depth=1)
        faults((0, "never", 0))
        with pytest.raises(fastio.ReplicaError) as caught:
            store.load(options=options)
    first, second = sorted(caught.value.reasons.values())
    assert "checksum" in first
    assert "no answer" in second


def test_progress_never_decreases(
    roots: list[Path], engine: Any, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    real = _native.load

    def load(*arguments: Any, progress: Any, **more: Any) -> Any:
        def advance(done: int, total: int) -> None:
            seen.append((done, total))

        return real(*arguments, progress=advance, **more)

    monkeypatch.setattr(_native, "load", load)
    with fastio.Store.open(roots) as store:
        faults((6, "never", 0))
        assert_same(store.load(options=_options(engine, lanes=1)), tensors(1))
    assert seen == sorted(seen)
    assert seen[0][0] < seen[-1][0] == seen[-1][1]


def test_abandoned_memory_counts_against_the_limit(
    roots: list[Path], engine: Any, faults: Faults
) -> None:
    with fastio.Store.open(roots) as store:
        nbytes = sum(np.asarray(tensor).nbytes for tensor in tensors(1).values())
        faults((0, "never", 0))
        options = _options(engine, memory_limit_bytes=nbytes + 2**18)
        with pytest.raises(fastio.MemoryLimitError) as caught:
            store.load(options=options)
        assert caught.value.held_bytes > 0
        _native.testing.release_held_completions()
        assert eventually(lambda: _native.testing.abandoned_bytes() == 0)
        assert_same(store.load(options=options), tensors(1))


@pytest.mark.parametrize("way", ["narrow stream", "slices", "one by one"])
def test_abandoned_memory_does_not_fill_the_window_of_a_later_stream(
    roots: list[Path], way: str, engine: Any, faults: Faults
) -> None:
    with fastio.Store.open(roots) as store:
        faults((0, "never", 0))
        store.load(options=_options(engine))
        faults((0, "never", 0))
        store.load(options=_options(engine))  # of the other disk, or of the same one
        assert _native.testing.abandoned_bytes() > 0
        faults()
        assert_same(WAYS[way](store, _options(engine)), tensors(1))


def test_a_fill_that_lost_all_staging_memory_to_hung_reads_is_a_memory_limit_error(
    roots: list[Path], engine: Any, faults: Faults
) -> None:
    with fastio.Store.open(roots) as store:
        faults((0, "never", 0))
        tight = _options(engine, memory_limit_bytes=CHUNK_BYTES)
        with pytest.raises(fastio.MemoryLimitError):
            WAYS["load_into"](store, tight)
        _native.testing.release_held_completions()
        assert eventually(lambda: _native.testing.abandoned_bytes() == 0)
        assert_same(WAYS["load_into"](store, tight), tensors(1))


class _InterruptedError(Exception):
    pass


@pytest.mark.parametrize("way", ["load", "stream", "load_into"])
def test_an_interrupt_is_answered_while_a_hung_disk_is_waited_for(
    roots: list[Path], way: str, engine: Any, faults: Faults
) -> None:
    def interrupt(*_: object) -> None:
        raise _InterruptedError

    sent: list[float] = []

    def send() -> None:
        time.sleep(0.3)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    sender = threading.Thread(target=send)
    try:
        with fastio.Store.open(roots) as store:
            faults(*_EVERY)
            sender.start()
            with pytest.raises(_InterruptedError):
                WAYS[way](store, _options(engine, root_timeout_s=60))
            assert time.monotonic() - sent[0] < 10
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)


# ---- disks that really hang


def _store_on(roots: list[Path]) -> None:
    settings = {"replicas": 2, "shard_bytes": 2**20, "chunk_bytes": CHUNK_BYTES}
    with fastio.Store.create(roots, **settings) as store:  # type: ignore[arg-type]
        store.save(tensors(1))
    for root in roots:
        for shard in shards_of(root):
            testbed.evict(shard)


@pytest.mark.parametrize("opened", [False, True], ids=["cold", "opened"])
@pytest.mark.parametrize("way", ["load", "stream", "one by one", "load_into"])
def test_a_server_that_hangs_is_not_waited_for(
    slow_mount: testbed.SlowMount, tmp_path: Path, way: str, engine: Any, opened: bool
) -> None:
    roots = [slow_mount.path / "root0", tmp_path / "root1"]
    _store_on(roots)
    files = open_files()
    options = _options(engine, root_timeout_s=1)
    with fastio.Store.open(roots) as store:
        reader = store.reader(options=options)
        if opened:
            assert_same({"flags": reader["flags"][...]}, {"flags": tensors(1)["flags"]})
        slow_mount.hang()
        try:
            assert_same(WAYS[way](store, options), tensors(1))
            assert_same({name: reader.tensor(name) for name in reader}, tensors(1))
        finally:
            slow_mount.release()
        reader.close()
    assert eventually(lambda: _native.testing.abandoned_bytes() == 0)
    assert eventually(lambda: open_files() <= files)


def test_a_server_that_hangs_when_a_replica_is_opened_is_not_waited_for(
    slow_mount: testbed.SlowMount, tmp_path: Path, engine: Any
) -> None:
    roots = [slow_mount.path / "root0", tmp_path / "root1"]
    _store_on(roots)
    report = fastio.Report()
    with fastio.Store.open(roots) as store:
        slow_mount.hang_in("open")
        try:
            options = _options(engine, root_timeout_s=1)
            assert_same(store.load(options=options, report=report), tensors(1))
        finally:
            slow_mount.release()
    assert any("no answer in time" in line for line in report.fallbacks)


def test_a_server_that_hangs_when_a_replica_is_opened_for_direct_reads_is_not_waited_for(
    slow_mount: testbed.SlowMount, tmp_path: Path, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = [slow_mount.path / "root0", tmp_path / "root1"]
    _store_on(roots)
    real = _native.load

    def load(*arguments: Any, **more: Any) -> Any:
        slow_mount.hang_in("open")  # the replicas are open by now
        return real(*arguments, **more)

    monkeypatch.setattr(_native, "load", load)
    report = fastio.Report()
    with fastio.Store.open(roots) as store:
        try:
            options = _options(engine, root_timeout_s=1)
            names = [name for name in tensors(1) if name != "long"]
            found = store.load(names=names, options=options, report=report)
            assert_same(found, {name: tensors(1)[name] for name in names})
        finally:
            slow_mount.release()
    assert any("an earlier request has no answer yet" in line for line in report.fallbacks)


@pytest.mark.parametrize("way", ["load", "stream", "one by one", "load_into"])
def test_a_disk_that_hangs_is_not_waited_for(
    ext4: testbed.Mount, tmp_path: Path, way: str, engine: Any
) -> None:
    with tempfile.TemporaryDirectory(dir=ext4.path) as folder:
        roots = [Path(folder) / "root0", tmp_path / "root1"]
        _store_on(roots)
        with fastio.Store.open(roots) as store, testbed.throttled(ext4.path, read_bytes_s=1):
            assert_same(WAYS[way](store, _options(engine, root_timeout_s=1)), tensors(1))
        assert eventually(lambda: _native.testing.abandoned_bytes() == 0)
