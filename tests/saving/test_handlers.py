"""A save that begins in the middle of another one of its own thread: in a signal handler, which
Python runs between any two lines, or in a finalizer.
"""

import errno
import gc
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import testbed
from fastio.host.replacement import Replacement
from fastio.saving import folder
from fastio.saving.turns import Turn, _queue, key_of
from samples import elsewhere, eventually

_PROGRAM = """
import json, os, sys, time
from pathlib import Path
import numpy, fastio, fastio.saving.background
from fastio.saving import turns
from testbed.lines import Interrupted, at_each_line

where, shard_bytes = Path(sys.argv[1]), json.loads(sys.argv[2])

def save(mark, by=fastio.save):
    tensors = {f"t{i}": numpy.full(100, mark, numpy.int32) for i in range(3)}
    return by(tensors, where, shard_bytes=shard_bytes, durable=False)

def mark():
    loaded = fastio.load(where)
    found = {int(each) for tensor in loaded.values() for each in numpy.unique(tensor)}
    assert len(found) == 1 and len(loaded) == 3, found
    return found.pop()

def nothing_is_left():
    assert mark() in (1, 2)
    save(3)
    assert mark() == 3
    assert not turns._turns
    for _ in range(1000):
        names = set(os.listdir(where.parent))
        expected = {where.name}
        if shard_bytes is not None:
            index = json.loads((where / "model.safetensors.index.json").read_text())
            names |= set(os.listdir(where))
            expected |= {*index["weight_map"].values(), "model.safetensors.index.json"}
        if names == expected:  # a file that is given up is closed by a thread
            return
        time.sleep(0.01)
    raise AssertionError(names ^ expected)

def lines(call, inside, end=nothing_is_left):
    folder = os.path.dirname(fastio.__file__)
    print(at_each_line(folder, call, inside, begin=lambda: save(0), end=end))
"""
_SHAPES = pytest.mark.parametrize("shard_bytes", [None, 1000], ids=["a file", "shards"])


def _lines(code: str, where: Path, shard_bytes: int | None = None) -> testbed.ChildResult:
    where.parent.mkdir()
    done = testbed.run_python(
        _PROGRAM + code,
        where,
        json.dumps(shard_bytes),
        env={"PYTHONPATH": str(Path(testbed.__file__).parent.parent)},
        timeout_s=600,
    ).check()
    assert int(done.stdout) > 200
    return done


@_SHAPES
def test_a_handler_saves_in_the_middle_of_any_line(tmp_path: Path, shard_bytes: int | None) -> None:
    """The inner save is complete when it returns; the outer one replaces it, or came before it."""
    code = """
def inside():
    save(2)
    assert mark() == 2
lines(lambda: save(1), inside)
"""
    assert _lines(code, tmp_path / "folder" / "model", shard_bytes).stderr == ""


@pytest.mark.parametrize("wait", ["handle.result()", "concurrent.futures.wait([handle])"])
def test_a_handler_waits_for_a_save_in_the_background_in_the_middle_of_any_line(
    tmp_path: Path, wait: str
) -> None:
    code = f"""
import concurrent.futures
def inside():
    handle = save(2, fastio.start_save)
    {wait}
    assert handle.result(60) == where
    assert mark() == 2
lines(lambda: save(1), inside)
"""
    assert _lines(code, tmp_path / "folder" / "model").stderr == ""


def test_a_handler_saves_in_the_middle_of_any_line_of_a_save_in_the_background(
    tmp_path: Path,
) -> None:
    code = """
def inside():
    save(2)
lines(lambda: save(1, fastio.start_save).result(), inside)
"""
    assert _lines(code, tmp_path / "folder" / "model").stderr == ""


@_SHAPES
def test_nothing_waits_for_a_save_that_was_interrupted_at_any_line(
    tmp_path: Path, shard_bytes: int | None
) -> None:
    # Standard error may say that an interrupt in a finalizer was ignored.
    code = """
def inside():
    raise Interrupted
def end():
    if mark() == 0:
        save(1)
    nothing_is_left()
lines(lambda: save(1), inside, end)
"""
    _lines(code, tmp_path / "folder" / "model", shard_bytes)


# ---- on real signals


_HANDLER = """
import faulthandler, os, signal, sys, threading
import numpy, fastio
faulthandler.dump_traceback_later(60, exit=True)
path, held = sys.argv[1], [(0, "never", 0)]
def tensors(mark):
    return {"a": numpy.full(2**20, mark, numpy.uint8)}
def handler(*_):
    fastio._native.testing.set_completion_faults([])
    inside()
    fastio._native.testing.release_held_completions()
signal.signal(signal.SIGUSR1, handler)
fastio._native.testing.set_completion_faults(held)
def send():  # when the outer save waits for a write that does not end
    begun.wait()
    os.kill(os.getpid(), signal.SIGUSR1)
begun = threading.Event()
from fastio.saving import pace
real = pace.write_data
def write_data(*arguments, **more):
    begun.set()
    return real(*arguments, **more)
pace.write_data = write_data
threading.Thread(target=send).start()
"""


@pytest.mark.parametrize("write", ["fastio.save", "fastio.numpy.save_file"])
def test_a_handler_saves_while_the_disk_writes(tmp_path: Path, write: str) -> None:
    code = f"""
seen = []
def inside():
    {write}(tensors(2), path)
    seen.append(int(fastio.load(path)["a"][0]))
{write}(tensors(1), path)
print(*seen, int(fastio.load(path)["a"][0]))
"""
    done = testbed.run_python(_HANDLER + code, tmp_path / "model").check()
    assert done.stdout.split() == ["2", "1"]


def test_a_handler_that_ends_the_process_has_saved(tmp_path: Path) -> None:
    code = """
def inside():
    fastio.save(tensors(2), path)
    sys.exit(7)
fastio.save(tensors(1), path)
"""
    done = testbed.run_python(_HANDLER + code, tmp_path / "model")
    assert done.returncode != 0
    assert done.exception == "SystemExit"
    assert fastio.load(tmp_path / "model")["a"][0] == 2
    assert os.listdir(tmp_path) == ["model"]


def test_a_handler_waits_for_a_save_that_was_to_come_after_its_own_threads(tmp_path: Path) -> None:
    """That save cannot wait for the interrupted one: it goes before it."""
    code = """
handles = []
def inside():
    other = threading.Thread(target=lambda: handles.append(
        fastio.start_save(tensors(2), path, snapshot="borrow")))
    other.start()
    other.join()
    assert not handles[0].done()
    assert handles[0].wait_released(60)
    print(handles[0].result(60) == __import__("pathlib").Path(path), int(fastio.load(path)["a"][0]))
fastio.save(tensors(1), path)
print(int(fastio.load(path)["a"][0]))
"""
    done = testbed.run_python(_HANDLER + code, tmp_path / "model").check()
    assert done.stdout.split() == ["True", "2", "1"]


# ---- in finalizers


class _SavesAtItsEnd:
    def __init__(self, save: Callable[[], object]) -> None:
        self._save = save
        self.itself = self

    def __del__(self) -> None:
        self._save()


@_SHAPES
def test_a_finalizer_saves_in_the_middle_of_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int | None
) -> None:
    path = tmp_path / "model"
    marks: list[int] = []

    def save(mark: int) -> None:
        fastio.save({"a": np.full(1000, mark)}, path, shard_bytes=shard_bytes)

    def save_inside() -> None:
        save(2)
        marks.append(int(fastio.load(path)["a"][0]))

    module: Any = folder if shard_bytes else Replacement
    name = "clean_up" if shard_bytes else "rename"
    real = getattr(module, name)

    def collected_before(*arguments: Any) -> Any:
        undo.undo()
        _SavesAtItsEnd(save_inside)
        gc.collect()
        return real(*arguments)

    with monkeypatch.context() as undo:
        undo.setattr(module, name, collected_before)
        save(1)
    assert marks == [2]
    assert fastio.load(path)["a"][0] == 1


def test_a_finalizer_cannot_change_a_folder_in_the_middle_of_its_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises at once. Python reports it on standard error, like any error in a finalizer."""
    path = tmp_path / "model"
    errors: list[BaseException] = []
    real = Replacement.link

    def link(self: Replacement) -> None:
        undo.undo()
        with pytest.raises(fastio.WriteError, match="this thread is changing the folder") as raised:
            fastio.save({"a": np.full(1000, 2)}, path, shard_bytes=100)
        errors.append(raised.value)
        real(self)

    with monkeypatch.context() as undo:
        undo.setattr(Replacement, "link", link)
        fastio.save({"a": np.full(1000, 1)}, path, shard_bytes=100)
    (error,) = errors
    assert isinstance(error, fastio.WriteError)
    assert error.errno == errno.EDEADLK
    assert fastio.load(path)["a"][0] == 1


def test_the_thread_of_a_save_cannot_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles: list[fastio.SaveHandle] = []
    handed_over = threading.Event()
    real = Replacement.rename

    def rename(self: Replacement) -> None:
        assert handed_over.wait(60)
        with pytest.raises(RuntimeError, match="cannot wait for it"):
            handles[0].result()
        real(self)

    monkeypatch.setattr(Replacement, "rename", rename)
    handles.append(fastio.start_save({"a": np.ones(3)}, tmp_path / "model"))
    handed_over.set()
    assert handles[0].result(60) == tmp_path / "model"


def test_a_callback_at_the_end_of_a_save_has_its_result(tmp_path: Path) -> None:
    results: list[Path] = []
    ended = threading.Event()
    handle = fastio.start_save({"a": np.ones(3)}, tmp_path / "model")
    handle.add_done_callback(lambda handle: results.append(handle.result()))
    handle.add_done_callback(lambda _: ended.set())
    assert ended.wait(60)
    assert results == [tmp_path / "model"]


# ---- other threads


def test_a_waiter_is_not_held_up_by_a_lost_turn(tmp_path: Path) -> None:
    path = tmp_path / "model"
    lost: Turn | None = Turn(key_of(path))
    assert lost is not None
    lost.take()
    with elsewhere(lambda: fastio.save({"a": np.ones(3)}, path)) as writer:
        assert eventually(lambda: len(_queue(key_of(path))) == 2)
        assert not writer.done
        lost = None
    assert writer.error is None
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize(
    "call",
    [
        "fastio.save(tensors, path)",
        "fastio.save(tensors, path, shard_bytes=100)",
        "fastio.numpy.save_file(tensors, path)",
        "fastio.save(tensors, path, checksums=False); fastio.seal(path)",
        "fastio.Store.create([path], replicas=1).save(tensors)",
    ],
    ids=["save", "shards", "save_file", "seal", "store"],
)
@pytest.mark.parametrize("before", ["", "fastio.save(tensors, path + '.before')"])
def test_a_finalizer_saves_when_the_interpreter_ends(
    tmp_path: Path, call: str, before: str
) -> None:
    """No thread can start then, and no module can be imported."""
    code = f"""
import sys
import numpy, fastio, fastio.numpy
fastio.Store
class Last:
    def __del__(self):
        assert sys.is_finalizing()
        {call}
tensors, path = {{"a": numpy.arange(1000.0), "b": numpy.ones(3)}}, sys.argv[1]
{before}
last = Last()
"""
    done = testbed.run_python(code, tmp_path / "model").check()
    assert done.stderr == ""
    found = fastio.load(tmp_path / "model", verify="require")
    assert sorted(found) == ["a", "b"]
    assert found["a"][7] == 7
