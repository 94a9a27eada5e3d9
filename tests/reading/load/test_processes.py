"""Forks, threads, and the files and memory left after many loads."""

import gc
import hashlib
from pathlib import Path
from typing import Any

import pytest

import fastio
import testbed
from fastio import _native
from samples import (
    CHUNK_BYTES,
    chunk_count,
    data_start,
    eventually,
    expected_bytes,
    flip,
    in_threads,
    native_threads,
    open_files,
    same_bytes,
    write_even,
    write_model,
)

_ENGINES = ["uring", "pread"]

# argv: the file, its tensors' SHA-256 in one, engine, cache. A child ends with 0 on success.
_FORK = """
import hashlib, os, sys, threading, time
import fastio
path, digest, engine, cache = sys.argv[1:]
options = fastio.Options(engine=engine, cache=cache, mapping="auto" if cache == "auto" else "never")

def load():
    report = fastio.Report()
    tensors = fastio.load(path, options=options, report=report)
    assert report.engine == ("mmap" if cache == "auto" else engine), report
    return tensors

def whole(tensors):
    data = b"".join(tensors[name].tobytes() for name in sorted(tensors))
    return hashlib.sha256(data).hexdigest() == digest

def in_child(check):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if check() else 2
        finally:
            os._exit(code)
    return child

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    return fastio.seal(write_model(tmp_path / "model"))


def _digest(path: Path) -> str:
    expected = expected_bytes(path)
    return hashlib.sha256(b"".join(expected[name] for name in sorted(expected))).hexdigest()


def _fork(path: Path, engine: str, cache: str, code: str) -> None:
    with testbed.kept_warm(path):
        testbed.run_python(_FORK + code, path, _digest(path), engine, cache, timeout_s=60).check()


@pytest.mark.parametrize("cache", ["auto", "bypass", "keep"])
@pytest.mark.parametrize("engine", _ENGINES)
def test_parent_and_child_load_before_and_after_a_fork(
    sealed: Path, engine: str, cache: str
) -> None:
    code = """
before = load()
assert whole(before)
# The child has what the parent loaded, and loads by itself, twice.
child = in_child(lambda: whole(before) and whole(load()) and whole(load()))
assert whole(load())
assert ended(child) == 0
assert whole(before) and whole(load())
# A child of a child, too.
assert ended(in_child(lambda: ended(in_child(lambda: whole(load()))) == 0 and whole(load()))) == 0
"""
    _fork(sealed, engine, cache, code)


@pytest.mark.parametrize("cache", ["auto", "bypass"])
def test_a_childs_writes_do_not_reach_its_parent(sealed: Path, cache: str) -> None:
    code = """
tensors = load()
def scribble():
    for array in tensors.values():
        if array.ndim:
            array[...] = 0
    return not whole(tensors)
assert ended(in_child(scribble)) == 0
assert whole(tensors)
"""
    _fork(sealed, "pread", cache, code)


def test_a_child_of_a_process_that_loads_meanwhile_collects_garbage(sealed: Path) -> None:
    code = """
import gc
from fastio.host import collector
with collector.CollectorPaused():
    assert not gc.isenabled()
    assert ended(in_child(gc.isenabled)) == 0  # whoever paused it may be a thread that is not there

load()  # a module that a thread just imports is locked in a child for ever
loading = True
def go_on():
    while loading:
        load()
thread = threading.Thread(target=go_on)
thread.start()
for _ in range(20):
    assert ended(in_child(lambda: gc.isenabled() and whole(load()) and gc.isenabled())) == 0
loading = False
thread.join()
assert gc.isenabled()
gc.disable()
load()
assert not gc.isenabled()  # as it was before
"""
    _fork(sealed, "pread", "bypass", code)


@pytest.mark.parametrize("cache", ["bypass", "keep"])
@pytest.mark.parametrize("engine", _ENGINES)
def test_a_program_ends_as_it_wants_while_daemon_threads_load(
    sealed: Path, engine: str, cache: str
) -> None:
    code = """
import sys, threading, time
import fastio
options = fastio.Options(engine=sys.argv[2], cache=sys.argv[3], mapping="never")
def go_on():
    while True:
        fastio.load(sys.argv[1], options=options)
for _ in range(3):
    threading.Thread(target=go_on, daemon=True).start()
time.sleep(0.1)
sys.exit()
"""
    for _ in range(3):
        result = testbed.run_python(code, sealed, engine, cache, timeout_s=60)
        assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("cache", ["bypass", "keep"])
@pytest.mark.parametrize("engine", _ENGINES)
def test_a_fork_while_reads_are_on_their_way_harms_neither_side(
    sealed: Path, engine: str, cache: str
) -> None:
    code = """
done = threading.Event()
wrong = []
def load_again_and_again():
    for _ in range(25):
        if not whole(load()):
            wrong.append(1)
    done.set()
thread = threading.Thread(target=load_again_and_again)
thread.start()
children = 0
while not done.is_set():
    # Python's own locks may be held by the other thread: the child does next to nothing.
    assert ended(in_child(lambda: True)) == 0
    children += 1
thread.join()
assert children > 0 and not wrong
assert ended(in_child(lambda: whole(load()))) == 0
"""
    _fork(sealed, engine, cache, code)


@pytest.mark.parametrize("engine", _ENGINES)
def test_a_child_does_not_wait_for_the_reads_of_its_parent(sealed: Path, engine: str) -> None:
    code = """
fastio._native.testing.set_completion_faults([(0, "never", 0)])
report = fastio.Report()
def held():
    fastio.load(path, options=options, report=report)
parent = threading.Thread(target=held)
parent.start()
while not report.tensors:
    time.sleep(0.001)
# The faults are the parent's, too: the child meets none.
code = ended(in_child(lambda: whole(load()) and fastio._native.testing.abandoned_bytes() == 0))
while parent.is_alive():
    fastio._native.testing.release_held_completions()
    time.sleep(0.001)
assert code == 0
"""
    _fork(sealed, engine, "bypass", code)


@pytest.mark.parametrize("cache", ["auto", "bypass", "keep"])
@pytest.mark.parametrize("engine", _ENGINES)
@pytest.mark.parametrize("files", [1, 8], ids=["one file", "eight files"])
def test_eight_threads_load_at_once(files: int, engine: Any, cache: Any, tmp_path: Path) -> None:
    paths = [
        fastio.seal(write_even(tmp_path / f"model{i}", 6, CHUNK_BYTES, seed=i))
        for i in range(files)
    ]
    options = fastio.Options(engine=engine, cache=cache, block_bytes=CHUNK_BYTES)
    reports = [fastio.Report() for _ in range(8)]

    def load(i: int) -> Any:
        return fastio.load(paths[i % files], options=options, report=reports[i])

    for _ in range(3):
        loaded = in_threads(8, load)
        for i, tensors in enumerate(loaded):
            path = paths[i % files]
            assert same_bytes(tensors, expected_bytes(path))
            assert reports[i].chunks_verified == chunk_count(path)


def test_a_thread_that_meets_damage_does_not_disturb_the_others(tmp_path: Path) -> None:
    paths = [fastio.seal(write_even(tmp_path / f"model{i}", 6, CHUNK_BYTES)) for i in range(2)]
    flip(paths[1], data_start(paths[1]) + 2 * CHUNK_BYTES)
    expected = expected_bytes(paths[0])

    def load(i: int) -> bool:
        if i % 2:
            with pytest.raises(fastio.ChecksumError):
                fastio.load(paths[1], options=fastio.Options(cache="bypass"))
            return True
        return same_bytes(fastio.load(paths[0], options=fastio.Options(cache="bypass")), expected)

    assert all(in_threads(8, load))


@pytest.mark.parametrize("cache", ["auto", "bypass", "keep"])
@pytest.mark.parametrize("engine", _ENGINES)
@pytest.mark.parametrize("ending", ["loaded", "damaged", "not a file of tensors", "too large"])
def test_fifty_loads_leave_no_descriptor_and_no_thread(
    ending: str, engine: Any, cache: Any, tmp_path: Path
) -> None:
    path = fastio.seal(write_even(tmp_path / "model", 5, CHUNK_BYTES))
    limit = CHUNK_BYTES if ending == "too large" else None
    if ending == "damaged":
        flip(path, data_start(path) + 2 * CHUNK_BYTES)
    elif ending == "not a file of tensors":
        flip(path, 20)
    options = fastio.Options(engine=engine, cache=cache, memory_limit_bytes=limit)

    def load() -> None:
        if ending == "loaded":
            fastio.load(path, options=options)
            return
        with pytest.raises((fastio.ChecksumError, fastio.FormatError, fastio.MemoryLimitError)):
            fastio.load(path, options=options)

    load()
    gc.collect()
    # The first load may have made one-time objects.
    files, threads = open_files(), native_threads()
    for _ in range(50):
        load()
    gc.collect()
    assert eventually(lambda: open_files() <= files)
    assert eventually(lambda: native_threads() <= threads)
    assert _native.testing.abandoned_bytes() == 0


def test_tensors_hold_no_descriptor(sealed: Path) -> None:
    gc.collect()
    before = open_files()
    mappings: list[Any] = ["auto", "never"]
    for mapping in mappings:
        options = fastio.Options(mapping=mapping)
        kept = [fastio.load(sealed, options=options) for _ in range(3)]
        assert eventually(lambda: open_files() <= before)
        del kept


def test_tensors_may_be_dropped_by_other_threads(sealed: Path) -> None:
    expected = expected_bytes(sealed)
    for _ in range(20):
        tensors = fastio.load(sealed, options=fastio.Options(mapping="never"))
        kept = tensors["layers.1.weight"]
        rest = list(tensors.values())
        tensors.clear()

        def drop(_: int, rest: list[Any] = rest) -> None:
            while rest:
                try:
                    rest.pop()
                except IndexError:
                    return

        in_threads(4, drop)
        assert kept.tobytes() == expected["layers.1.weight"]
