"""A root whose disk does not answer during the open: the others are read, and it is reported."""

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import testbed
from fastio.storage.answering import Answering
from fastio.storage.folder import Folder
from fastio.store.root import Root
from samples import eventually
from store.samples import assert_same, tensors

_SHORT = fastio.Options(root_timeout_s=3)


@pytest.fixture
def roots(slow_mount: testbed.SlowMount, tmp_path: Path) -> Iterator[list[Path]]:
    """Of a store with two replicas; the last root is on a disk that hangs on request."""
    found = [tmp_path / "root0", tmp_path / "root1", slow_mount.path / "root2"]
    with fastio.Store.create(found, replicas=2, shard_bytes=2**18) as store:
        store.save(tensors(1))
    yield found
    slow_mount.release()


def test_a_root_that_hangs_is_missing(roots: list[Path], slow_mount: testbed.SlowMount) -> None:
    slow_mount.hang()
    report = fastio.Report()
    assert_same(fastio.load(roots[0], options=_SHORT, report=report), tensors(1))
    assert any(str(roots[2]) in line and "no answer in time" in line for line in report.fallbacks)
    assert any("root_timeout_s" in line for line in report.fallbacks)
    with fastio.Store.open(roots, options=_SHORT) as store:
        assert sorted(store.roots) == roots[:2]
        status = store.status()
        assert status.degraded
        assert "no answer" in status.roots[str(roots[2])]
        assert store.save(tensors(2)) == 2
        assert store.gc().generations == (1, 0)
        assert_same(store.load(), tensors(2))
        slow_mount.release()
        assert eventually(lambda: len(store.status().roots) == 3 and len(store.roots) == 3)
        assert_same(store.load(), tensors(2))
        assert store.save(tensors(3)) == 3
        assert not store.status().degraded
    assert_same(fastio.load(roots[2]), tensors(3))


def test_only_a_root_that_hangs_is_an_error(
    roots: list[Path], slow_mount: testbed.SlowMount
) -> None:
    slow_mount.hang()
    with pytest.raises(fastio.ReplicaError, match=r"no answer in time .*root_timeout_s"):
        fastio.load(roots[2], options=_SHORT)
    slow_mount.release()
    assert eventually(lambda: _loads(roots[2]))


def _loads(root: Path) -> bool:
    try:
        assert_same(fastio.load(root, options=_SHORT), tensors(1))
    except fastio.ReplicaError:
        return False
    return True


def test_a_hanging_root_is_waited_for_once(
    roots: list[Path], slow_mount: testbed.SlowMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[Any] = []
    real = Answering.abandon

    def leave(self: Answering, call: Any) -> fastio.ReadError:
        left.append(self.path)
        return real(self, call)

    monkeypatch.setattr(Answering, "abandon", leave)
    slow_mount.hang()
    for _ in range(5):
        assert_same(fastio.load(roots[0], options=_SHORT), tensors(1))
    with fastio.Store.open(roots, options=_SHORT) as store:
        for _ in range(3):
            assert_same(store.load(), tensors(1))
    assert left == [roots[2]]


def test_a_disk_that_is_slow_and_goes_on_is_waited_for(
    roots: list[Path], slow_mount: testbed.SlowMount
) -> None:
    """The whole open takes longer than the limit of one step."""
    with fastio.Store.open(roots) as store:
        for seed in range(2, 24):
            store.save({"a": np.full(10, seed)})
    slow_mount.delay(0.2)
    begun = time.monotonic()
    with fastio.Store.open(roots, options=fastio.Options(root_timeout_s=6)) as store:
        assert sorted(store.roots) == roots
        assert store.load()["a"][0] == 23
    assert time.monotonic() - begun > 3


def test_a_wait_without_end_is_left_by_a_signal(
    roots: list[Path], slow_mount: testbed.SlowMount
) -> None:
    class _Left(Exception):
        pass

    def leave(*_: object) -> None:
        raise _Left

    before = signal.signal(signal.SIGUSR1, leave)
    try:
        slow_mount.hang()
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(_Left):
            fastio.Store.open(roots, options=fastio.Options(root_timeout_s="inf"))
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_threads_and_descriptors_of_a_root_that_hung_are_gone_when_it_answered(
    roots: list[Path], slow_mount: testbed.SlowMount
) -> None:
    def ours() -> int:
        gc.collect()  # an error from a missing call may still hold its frames
        return sum(thread.name == f"fastio root {roots[2]}" for thread in threading.enumerate())

    def descriptors() -> int:
        found = 0
        for fd in os.listdir("/proc/self/fd"):
            try:
                found += os.readlink(f"/proc/self/fd/{fd}").startswith(str(roots[2]))
            except OSError:
                continue
        return found

    assert eventually(lambda: (ours(), descriptors()) == (0, 0))
    slow_mount.hang()
    assert_same(fastio.load(roots[0], options=_SHORT), tensors(1))
    assert ours() == 1
    slow_mount.release()
    assert eventually(lambda: (ours(), descriptors()) == (0, 0))


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("when", ["before", "at the first shard"])
def test_a_verification_tells_of_it_in_one_line_and_promises_no_repair(
    roots: list[Path], monkeypatch: pytest.MonkeyPatch, when: str, repair: bool
) -> None:
    go_on = threading.Event()

    def hanging(real: Any) -> Any:
        def call(self: Root | Folder, *arguments: Any) -> Any:
            if self.path == roots[2]:
                self.answering.ask(lambda: go_on.wait(60))
            return real(self, *arguments)

        return call

    with fastio.Store.open(roots, options=_SHORT) as store:
        if when == "before":
            monkeypatch.setattr(Root, "is_itself", hanging(Root.is_itself))
        else:
            monkeypatch.setattr(Folder, "open_file", hanging(Folder.open_file))
        try:
            found = store.verify(repair=repair)
        finally:
            go_on.set()
        (event,) = found.damaged
        assert event.path == str(roots[2])
        assert "no answer in time" in event.cause
        assert "verify when its disk answers" in event.remedy
        assert "mends" not in event.remedy
        assert not found.ok
        assert "no answer in time" in found.roots[str(roots[2])]
        assert [found.roots[str(root)] for root in roots[:2]] == ["whole", "whole"]
        monkeypatch.undo()
        assert eventually(lambda: store.verify().ok)


def test_a_child_made_by_fork_asks_by_itself(roots: list[Path]) -> None:
    with fastio.Store.open(roots, options=_SHORT) as store:
        assert_same(store.load(), tensors(1))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                assert_same(store.load(), tensors(1))
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert_same(store.load(), tensors(1))
