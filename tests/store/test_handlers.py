"""A write to a store in the middle of another write by the same thread."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import testbed
from fastio.store.saving import Plan
from store.samples import create

_TENSORS = {"a": np.arange(100)}

_PROGRAM = """
import os, sys
import numpy, fastio, fastio.store.store
from testbed.lines import at_each_line
store = fastio.Store.create([sys.argv[1] + "/r1", sys.argv[1] + "/r2"])
def tensors(mark):
    return {"a": numpy.full(10, mark, numpy.int32)}
"""


def test_a_handler_saves_in_the_middle_of_any_line_of_a_save(tmp_path: Path) -> None:
    """It waits for the interrupted save, if that has begun: generations never fork."""
    code = """
generations = []
def begin():
    store.gc(keep=1)
    generations.append(store.generation)
def inside():
    generations.append(store.save(tensors(2)))
    assert store.load()["a"][0] == 2
def end():
    first = generations[0]
    assert generations == [first, *sorted(generations[1:])], generations
    assert store.generation == first + 2, (generations, store.generation)
    marks = {int(store.load(generation=first + n)["a"][0]) for n in (1, 2)}
    assert marks == {1, 2}, marks
    generations.clear()
folder = os.path.dirname(fastio.__file__)
print(at_each_line(folder, lambda: store.save(tensors(1)), inside, begin=begin, end=end))
"""
    done = testbed.run_python(
        _PROGRAM + code,
        tmp_path,
        env={"PYTHONPATH": str(Path(testbed.__file__).parent.parent)},
        timeout_s=600,
    ).check()
    assert done.stderr == ""
    assert int(done.stdout) > 50


@pytest.mark.parametrize("what", ["save", "add", "gc", "rollback_to"])
def test_a_handler_writes_to_a_store_while_its_thread_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    store = create(tmp_path)
    store.save(_TENSORS)
    do: dict[str, Any] = {
        "save": lambda: store.save({"b": np.ones(2)}),
        "add": lambda: store.add("b", np.ones(2)),
        "gc": store.gc,
        "rollback_to": lambda: store.rollback_to(1),
    }
    done: list[Any] = []
    called = threading.Event()
    real = Plan.write

    def write(self: Plan, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert called.wait(60)
        real(self, *arguments)

    def handler(*_: object) -> None:
        monkeypatch.setattr(Plan, "write", real)
        called.set()
        done.append(do[what]())

    before = signal.signal(signal.SIGUSR1, handler)
    monkeypatch.setattr(Plan, "write", write)
    try:
        number = store.save({"a": np.zeros(5)})
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(done) == 1
    expected = {"save": ({"b"}, 3), "add": ({"a", "b"}, 3), "gc": ({"a"}, 2)}
    names, newest = expected.get(what, ({"a"}, 3))
    assert set(store.load()) == names
    assert (number, store.generation) == (2, newest)


def test_an_interrupt_ends_a_save_before_it_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = create(tmp_path)
    store.save(_TENSORS)
    real = Plan.write

    def handler(*_: object) -> None:
        raise KeyboardInterrupt

    def write(self: Plan, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        is_cancelled = arguments[-1]
        for _ in iter(is_cancelled, True):
            pass
        real(self, *arguments)

    before = signal.signal(signal.SIGUSR1, handler)
    monkeypatch.setattr(Plan, "write", write)
    try:
        with pytest.raises(KeyboardInterrupt):
            store.save({"b": np.ones(2)})
    finally:
        signal.signal(signal.SIGUSR1, before)
    monkeypatch.undo()
    assert fastio.Store.open(tmp_path / "root0").generation == 1
    assert store.save({"b": np.ones(2)}) == 2


def test_a_finalizer_cannot_write_to_a_store_in_the_middle_of_its_threads_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = create(tmp_path)
    real = Plan.write
    tried: list[bool] = []

    def write(self: Plan, *arguments: Any) -> None:
        with pytest.raises(fastio.ConflictError, match="its own thread is writing to it"):
            store.save(_TENSORS)
        tried.append(True)
        real(self, *arguments)

    monkeypatch.setattr(Plan, "write", write)
    assert store.save(_TENSORS) == 1
    assert tried == [True]


def test_threads_that_save_to_one_store_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its wait is longer than a writer's for another process."""
    monkeypatch.setattr("fastio.host.flocks.WAIT_S", 0.0)
    create(tmp_path)
    stores = [fastio.Store.open(tmp_path / "root0") for _ in range(4)]
    numbers: list[int] = []

    def save(store: fastio.Store) -> None:
        numbers.append(store.save({"a": np.full(1000, len(numbers))}))

    threads = [threading.Thread(target=save, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [1, 2, 3, 4]


def test_folders_above_a_root_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = fastio.Store.create(["disks/1/root", "disks/2/root"])
    assert set(store.roots) == {tmp_path / "disks/1/root", tmp_path / "disks/2/root"}
    store.save(_TENSORS)
    assert list(fastio.load("disks/2/root")) == ["a"]


def test_a_root_below_a_file_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(fastio.WriteError, match="file is a file, and no folder"):
        fastio.Store.create([tmp_path / "new" / "root", tmp_path / "file" / "root"])
    assert os.listdir(tmp_path) == ["file"]


def test_a_root_path_that_goes_up_from_a_symlink_means_the_same_as_to_the_kernel(
    tmp_path: Path,
) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/away")
    store = fastio.Store.create([tmp_path / "link" / ".." / "root"], replicas=1)
    assert store.roots == (tmp_path / "far" / "root",)
    assert fastio.Store.open(tmp_path / "link" / ".." / "root").roots == store.roots
