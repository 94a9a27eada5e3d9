"""A save that runs beside its caller."""

import concurrent.futures
import functools
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import testbed
from samples import eventually, native_threads, open_files

_BYTES = 2**24


def _tensors(mark: int = 0) -> dict[str, Any]:
    return {f"t{i}": np.full(_BYTES // 4, mark, np.uint8) for i in range(4)}


def _when_released(handle: fastio.SaveHandle) -> Any:
    """The result of a save with a hanging write; the write may hang only now."""

    def ended() -> bool:
        fastio._native.testing.release_held_completions()
        return handle.done()

    assert eventually(ended, within_s=60)
    return handle.result()


def _marks(path: Path) -> set[int]:
    return {int(mark) for tensor in fastio.load(path).values() for mark in np.unique(tensor)}


@pytest.mark.parametrize("snapshot", ["copy", "borrow"])
@pytest.mark.parametrize("shard_bytes", [None, 2**23])
def test_the_handle_gives_the_path(
    tmp_path: Path, engine: Any, snapshot: Any, shard_bytes: int | None
) -> None:
    report = fastio.Report()
    handle = fastio.start_save(
        _tensors(3),
        tmp_path / "model",
        snapshot=snapshot,
        shard_bytes=shard_bytes,
        options=fastio.Options(engine=engine),
        report=report,
    )
    assert isinstance(handle, fastio.SaveHandle)
    assert handle.result(60) == handle.result(timeout=60) == tmp_path / "model"
    assert handle.done()
    assert handle.exception() is handle.exception(timeout=1) is None
    assert handle.wait_released(0)
    assert _marks(tmp_path / "model") == {3}
    assert report.nbytes == _BYTES


def test_copied_tensors_may_be_changed_at_once(tmp_path: Path, faults: Callable[..., None]) -> None:
    faults(*((at, "late", 200) for at in range(4)))
    tensors = _tensors(1)
    handle = fastio.start_save(tensors, tmp_path / "model")
    assert handle.wait_released(0)
    for tensor in tensors.values():
        tensor[:] = 99
    del tensors
    handle.result(60)
    assert _marks(tmp_path / "model") == {1}


def test_a_snapshot_is_written_without_another_copy(tmp_path: Path) -> None:
    report = fastio.Report()
    fastio.start_save(
        _tensors(),
        tmp_path / "model",
        report=report,
        options=fastio.Options(cache="bypass"),
    ).result(60)
    assert report.bytes_gathered == 0


def test_borrowed_tensors_are_held_until_their_release(
    tmp_path: Path, faults: Callable[..., None]
) -> None:
    faults((2, "never", 0))
    handle = fastio.start_save(_tensors(5), tmp_path / "model", snapshot="borrow")
    assert not handle.wait_released(0.2)
    assert not handle.done()
    assert handle.running()
    with pytest.raises(concurrent.futures.TimeoutError):
        handle.result(0.05)
    _when_released(handle)
    assert handle.wait_released(60)
    assert _marks(tmp_path / "model") == {5}


def test_it_works_with_concurrent_futures(tmp_path: Path) -> None:
    handles = [fastio.start_save(_tensors(mark), tmp_path / f"{mark}") for mark in range(1, 4)]
    done, not_done = concurrent.futures.wait(handles, timeout=60)
    assert (done, not_done) == (set(handles), set())
    assert [_marks(handle.result()) for handle in handles] == [{1}, {2}, {3}]


def test_saves_to_one_path_come_in_the_order_in_which_they_were_asked_for(
    tmp_path: Path, faults: Callable[..., None]
) -> None:
    faults((0, "late", 300))
    path = tmp_path / "model"
    ended: list[int] = []
    handles = []

    def note(mark: int, _: object) -> None:
        ended.append(mark)

    for mark in range(1, 6):
        handle = fastio.start_save(_tensors(mark), path)
        handle.add_done_callback(functools.partial(note, mark))
        handles.append(handle)
    (tmp_path / "link").symlink_to(tmp_path)
    fastio.save(_tensors(6), tmp_path / "link" / "model")  # the same path, so it waits
    assert ended == [1, 2, 3, 4, 5]
    assert all(handle.done() for handle in handles)
    assert _marks(path) == {6}


def test_saves_to_other_paths_do_not_wait(tmp_path: Path, faults: Callable[..., None]) -> None:
    faults((0, "never", 0))  # of the first one to write
    handles = [fastio.start_save(_tensors(mark), tmp_path / f"{mark}") for mark in (1, 2)]
    done, held = concurrent.futures.wait(
        handles, timeout=60, return_when=concurrent.futures.FIRST_COMPLETED
    )
    assert (len(done), len(held)) == (1, 1)
    assert [_marks(_when_released(handle)) for handle in handles] == [{1}, {2}]


def test_one_that_has_not_begun_can_be_cancelled(
    tmp_path: Path, faults: Callable[..., None]
) -> None:
    faults((0, "never", 0))
    path = tmp_path / "model"
    first = fastio.start_save(_tensors(1), path)
    assert eventually(first.running)
    second = fastio.start_save(_tensors(2), path)
    third = fastio.start_save(_tensors(3), path)
    assert second.cancel()
    assert not first.cancel()
    assert second.wait_released(0)
    _when_released(first)
    assert third.result(60) == path
    with pytest.raises(concurrent.futures.CancelledError):
        second.result()
    assert _marks(path) == {3}


def test_an_error_is_raised_when_the_result_is_asked_for(
    tmp_path: Path, faults: Callable[..., None], engine: Any
) -> None:
    path = fastio.save(_tensors(1), tmp_path / "model")
    faults((3, "error", 5))
    report = fastio.Report()
    handle = fastio.start_save(
        _tensors(2),
        path,
        snapshot="borrow",
        report=report,
        options=fastio.Options(engine=engine),
    )
    with pytest.raises(fastio.WriteError) as raised:
        handle.result(60)
    assert (raised.value.errno, raised.value.operation, raised.value.path) == (
        5,
        "write",
        str(path),
    )
    assert raised.value.offset is not None
    assert handle.exception() is raised.value
    assert handle.wait_released(0)
    assert report == fastio.Report()
    assert _marks(path) == {1}
    assert os.listdir(tmp_path) == ["model"]


def test_errors_that_need_no_io_are_raised_at_the_call(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "model", tmp_path):
        with pytest.raises(fastio.WriteError):
            fastio.start_save(_tensors(), path)


@pytest.mark.parametrize("shard_bytes", [None, 2**22])
def test_a_snapshot_over_the_limit_is_refused_before_it_begins(
    tmp_path: Path, shard_bytes: int | None
) -> None:
    options = fastio.Options(memory_limit_bytes=_BYTES - 1)
    before = open_files(), os.listdir(tmp_path)
    with pytest.raises(fastio.MemoryLimitError) as raised:
        fastio.start_save(_tensors(), tmp_path / "model", options=options, shard_bytes=shard_bytes)
    assert (raised.value.asked_bytes, raised.value.limit_bytes) == (_BYTES, _BYTES - 1)
    assert open_files() == before[0]
    if shard_bytes is None:
        assert os.listdir(tmp_path) == before[1]
    fastio.start_save(_tensors(), tmp_path / "other", snapshot="borrow").result(60)


def test_a_snapshot_larger_than_memory_is_an_error(tmp_path: Path) -> None:
    huge = np.broadcast_to(np.uint8(1), (2**46,))
    with pytest.raises(fastio.MemoryLimitError) as raised:
        fastio.start_save({"a": huge}, tmp_path / "model")
    assert raised.value.asked_bytes == 2**46
    assert os.listdir(tmp_path) == []


def test_a_finished_save_leaves_no_threads_or_files(tmp_path: Path, engine: Any) -> None:
    options = fastio.Options(engine=engine)
    before = threading.active_count()  # other tests' libraries may have threads

    def save() -> None:
        fastio.start_save(_tensors(), tmp_path / "model", options=options).result(60)
        assert eventually(lambda: threading.active_count() <= before)

    save()
    # A thread of the test before may be about to end.
    files, threads = open_files(), native_threads()
    for _ in range(3):
        save()
    assert eventually(lambda: open_files() <= files and native_threads() <= threads)


_PROGRAM = """
import sys, logging, numpy, fastio
logging.basicConfig(format="%(levelname)s %(message)s")
tensors = {"a": numpy.full(2**22, 7, numpy.uint8)}
"""


def test_the_interpreter_waits_at_its_end(tmp_path: Path) -> None:
    code = _PROGRAM + (
        'fastio._native.testing.set_completion_faults([(0, "late", 300)])\n'
        'fastio.start_save(tensors, sys.argv[1], snapshot="borrow")\n'
    )
    done = testbed.run_python(code, tmp_path / "model").check()
    assert _marks(tmp_path / "model") == {7}
    assert done.stderr == ""


def test_a_save_that_begins_at_the_end_is_done(tmp_path: Path) -> None:
    code = _PROGRAM + (
        "import atexit\natexit.register(lambda: fastio.start_save(tensors, sys.argv[1]))\n"
    )
    testbed.run_python(code, tmp_path / "model").check()
    assert _marks(tmp_path / "model") == {7}


def test_an_unretrieved_error_is_logged_at_exit(tmp_path: Path) -> None:
    code = _PROGRAM + (
        'fastio._native.testing.set_completion_faults([(0, "error", 5)])\n'
        "handle = fastio.start_save(tensors, sys.argv[1])\n"
        "if sys.argv[2] == 'ask': print(type(handle.exception()).__name__)\n"
    )
    done = testbed.run_python(code, tmp_path / "model", "leave").check()
    assert "ERROR" in done.stderr
    assert "EIO" in done.stderr
    assert str(tmp_path / "model") in done.stderr
    asked = testbed.run_python(code, tmp_path / "model", "ask").check()
    assert (asked.stdout.split(), asked.stderr) == (["WriteError"], "")


def test_a_child_made_by_fork_has_a_queue_of_its_own(
    tmp_path: Path, faults: Callable[..., None]
) -> None:
    faults((0, "never", 0))
    path = tmp_path / "model"
    held = fastio.start_save(_tensors(1), path)
    assert eventually(held.running)
    child = os.fork()
    if child == 0:
        try:
            fastio._native.testing.set_completion_faults([])
            fastio.save(_tensors(2), path)
            os._exit(0)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 60
    pid, status = 0, 0
    while not pid and time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    assert (pid, status) == (child, 0)
    assert _marks(path) == {2}
    _when_released(held)
    assert _marks(path) == {1}


@pytest.mark.parametrize("timeout", [1e300, math.inf, 10**400, None])
def test_a_wait_longer_than_anybody_can_wait_has_no_end(
    tmp_path: Path, timeout: float | None
) -> None:
    handle = fastio.start_save({"a": np.zeros(1000)}, tmp_path / "model")
    assert handle.wait_released(timeout)
    assert handle.exception(timeout) is None
    assert handle.result(timeout) == tmp_path / "model"


def test_a_wait_for_no_number_is_refused(tmp_path: Path) -> None:
    handle = fastio.start_save({"a": np.zeros(1000)}, tmp_path / "model")
    for call in (handle.result, handle.exception, handle.wait_released):
        with pytest.raises(fastio.UsageError, match="timeout=nan: expected seconds, or None"):
            call(math.nan)
        with pytest.raises(TypeError, match="timeout must be a float, not str"):
            call("3")  # type: ignore[arg-type]
    handle.result()
