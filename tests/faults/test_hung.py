"""While a disk hangs, Ctrl-C and errors of other operations still end a save; no file is lost."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastio
import testbed
from fastio import _native
from fastio.saving import pace
from faults.samples import (
    NEW,
    NEXT,
    OLD,
    Engine,
    Shape,
    bytes_below,
    held,
    many_at_once,
    one_by_one,
    place,
    save,
    strays,
)
from samples import elsewhere, eventually, native_threads, open_files

Faults = Callable[..., None]


class _CancelledError(Exception):
    pass


@pytest.fixture
def cancelling() -> Iterator[None]:
    """SIGUSR1 raises `_CancelledError`, as SIGINT raises KeyboardInterrupt."""

    def cancel(*_: object) -> None:
        raise _CancelledError

    before = signal.signal(signal.SIGUSR1, cancel)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("ended_by", ["signal", "error"])
@pytest.mark.usefixtures("cancelling")
def test_memory_with_a_write_still_in_it_is_abandoned_until_the_write_returns(
    tmp_path: Path,
    engine: Engine,
    cache: Any,
    shape: Shape,
    faults: Faults,
    ended_by: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = place(tmp_path, shape)
    save(path, OLD, shape, one_by_one(engine))
    files, threads, descriptors = bytes_below(tmp_path), native_threads(), open_files()
    before = set(os.listdir("/proc/self/task"))
    script = [(0, "never", 0)]
    if ended_by == "error":
        script.append((1, "error", errno.EIO))
    faults(*script)
    options = many_at_once(engine, cache=cache)
    if ended_by == "error":
        with pytest.raises(fastio.WriteError) as raised:
            save(path, NEW, shape, options)
        assert raised.value.operation == "write"
        del raised
    else:
        begun = threading.Event()
        real = pace.write_data

        def write_data(*arguments: Any, **more: Any) -> Any:
            begun.set()
            return real(*arguments, **more)

        monkeypatch.setattr(pace, "write_data", write_data)

        def cancel_when_held() -> None:
            assert begun.wait(10)
            time.sleep(0.3)  # by then only the one write that never ends is missing
            os.kill(os.getpid(), signal.SIGUSR1)

        with elsewhere(cancel_when_held) as canceller, pytest.raises(_CancelledError):
            save(path, NEW, shape, options)
        assert canceller.error is None
    assert bytes_below(tmp_path) == files
    # The job keeps its own memory; a block written straight from a tensor is the caller's memory.
    # One of an earlier test may have ended meanwhile, so they are not counted.
    assert set(os.listdir("/proc/self/task")) - before, "nothing was held"
    assert eventually(lambda: _native.testing.abandoned_bytes() > 0 or cache == "keep")

    _native.testing.release_held_completions()
    assert eventually(lambda: _native.testing.abandoned_bytes() == 0)
    assert eventually(lambda: native_threads() <= threads)
    assert eventually(lambda: open_files() <= descriptors)
    faults()
    save(path, NEXT, shape, options)
    assert (held(path), strays(path)) == (NEXT, [])


# Interrupts saves while the disk hangs. Prints the time that each took to end, and its leftovers.
_INTERRUPT = """
import threading, time
path, seed, again, engine, operation, control = argv
def tell(what):
    Path(control + ".new").write_text(what)
    os.replace(control + ".new", control)
def interrupt():
    time.sleep(0.3)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
folder = Path(path).parent
files, descriptors = sorted(os.listdir(folder)), len(os.listdir("/proc/self/fd"))
seconds = []
for _ in range(3):
    sent = []
    tell("hang " + operation)
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    try:
        save(path, seed, "file", many_at_once(engine, cache="keep"))
    except KeyboardInterrupt:
        seconds.append(time.monotonic() - sent[0])
    interrupter.join()
    tell("0")
    # The name of the file that hung is gone when the disk answers, its descriptors too.
    eventually(lambda: len(os.listdir("/proc/self/fd")) == descriptors)
    eventually(lambda: sorted(os.listdir(folder)) == files)
unchanged = sorted(os.listdir(folder)) == files
more = len(os.listdir("/proc/self/fd")) - descriptors
save(path, again, "file", many_at_once(engine))
say([seconds, unchanged, more, fastio._native.testing.abandoned_bytes()])
"""


@pytest.mark.parametrize("operation", ["write", "fsync"])
def test_an_interrupt_is_answered_within_100_ms_by_a_save_on_a_disk_that_hangs(
    forks: testbed.Forks, slow_mount: testbed.SlowMount, engine: Engine, operation: str
) -> None:
    path = place(slow_mount.path, "file")
    save(path, OLD, "file", one_by_one(engine))
    ended = forks.run(
        _INTERRUPT, path, NEW, NEXT, engine, operation, slow_mount.control, timeout_s=90
    ).check()
    ((seconds, unchanged, more_descriptors, abandoned),) = ended.said
    assert len(seconds) == 3
    # The best of three: a busy machine may delay a process for longer than the promise.
    assert min(seconds) < 0.1, seconds
    assert (unchanged, more_descriptors, abandoned) == (True, 0, 0)
    assert (held(path), strays(path)) == (NEXT, [])


def test_a_save_works_on_a_filesystem_without_unnamed_files(
    slow_mount: testbed.SlowMount, engine: Engine, shape: Shape
) -> None:
    path = place(slow_mount.path, shape)
    with pytest.raises(OSError, match=r"not supported|Is a directory"):
        os.open(slow_mount.path, os.O_WRONLY | os.O_TMPFILE)
    for seed in (OLD, NEW):
        save(path, seed, shape, many_at_once(engine))
        assert (held(path), strays(path)) == (seed, [])


def _killed_at(n: int) -> Callable[[testbed.Stop], testbed.Answer]:
    return lambda stop: testbed.KILL if stop.at == n else testbed.GO_ON


@pytest.mark.parametrize("shape", ["folder"])
def test_a_kill_at_any_system_call_is_survived_without_exchanges_of_names(
    forks: testbed.Forks, slow_mount: testbed.SlowMount, engine: Engine, shape: Shape
) -> None:
    path = place(slow_mount.path, shape)
    code = "path, seed, shape, engine = argv\nsave(path, seed, shape, in_few_writes(engine))"
    left: list[int] = []
    while True:
        n = len(left)
        save(path, OLD, shape, one_by_one(engine), durable=False)
        ended = forks.run(
            code,
            path,
            NEW,
            shape,
            engine,
            at=_killed_at(n),
        )
        left.append(held(path))
        save(path, NEXT, shape, one_by_one(engine), durable=False)
        assert (held(path), strays(path)) == (NEXT, []), ended.stops[-1]
        if not ended.killed:
            break
    assert ended.check().names().count("renameat2") == 1
    assert left == sorted(left)
    assert set(left) == {OLD, NEW}
