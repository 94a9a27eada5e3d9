"""Ring: every method on real files, every refusal, and the ownership of memory during requests."""

import array
import doctest
import errno
import gc
import mmap
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import testbed
from samples import open_files

_RING_GIVEN = testbed.run_python("import fastio.uring; fastio.uring.Ring(1).close()")
if _RING_GIVEN.returncode:
    pytest.skip(f"no ring here: {_RING_GIVEN.message}", allow_module_level=True)

from fastio import _uring  # noqa: E402
from fastio.uring import Completion, Ring, queue  # noqa: E402
from fastio.uring.queue import FEATURES, OPERATIONS  # noqa: E402

_HEADER = Path("/usr/include/liburing/io_uring.h")
_NBYTES = 300_001
_PAGE_BYTES = mmap.PAGESIZE


@pytest.fixture
def file(storage: Path) -> Path:
    path = storage / "file"
    path.write_bytes(np.random.default_rng(0).bytes(_NBYTES))
    return path


@pytest.fixture
def fd(file: Path) -> Iterator[int]:
    opened = os.open(file, os.O_RDWR)
    yield opened
    os.close(opened)


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring(8) as made:
        yield made


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def _only(ring: Ring) -> int:
    """Submit the one queued request, and return its result."""
    assert ring.submit() == 1
    (completion,) = ring.wait(timeout_s=60)
    return completion.result


def _sent(ring: Ring, tag: int) -> tuple[str, int, int]:
    """The operation of a request, its registered buffer, its file or the index of that."""
    fields = ring._queue.requests[tag].fields
    return OPERATIONS[fields.opcode], fields.buffer_index, fields.fd


def _aligned(nbytes: int) -> mmap.mmap:
    return mmap.mmap(-1, nbytes)


# ---- bytes moved


@pytest.mark.root
def test_a_file_is_read_byte_for_byte(ring: Ring, file: Path, fd: int) -> None:
    buffers = [bytearray(_NBYTES // 7) for _ in range(8)]
    for i, buffer in enumerate(buffers):
        ring.read(fd, buffer, i * len(buffer), tag=i)
    assert ring.submit() == 8
    results = dict(ring.wait(8, timeout_s=60))
    assert b"".join(b[: results[i]] for i, b in enumerate(buffers)) == file.read_bytes()


@pytest.mark.root
def test_registered_buffers_and_files_take_direct_reads(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY | os.O_DIRECT)
    whole = file.read_bytes()
    one, two = _aligned(8 * _PAGE_BYTES), _aligned(2 * _PAGE_BYTES)
    half = memoryview(one)[4 * _PAGE_BYTES :]
    with Ring(buffers=[one, two], files=[0, fd]) as ring:
        ring.read(fd, half, 0, tag=1)
        ring.read(fd, two, _PAGE_BYTES, tag=2)
        assert _sent(ring, 1) == ("read_fixed", 0, 1)
        assert _sent(ring, 2) == ("read_fixed", 1, 1)
        assert ring.submit() == 2
        assert sorted(ring.wait(2)) == [(1, len(half)), (2, len(two))]
    assert half == whole[: len(half)]
    assert two[:] == whole[_PAGE_BYTES:][: len(two)]
    assert one[: 4 * _PAGE_BYTES] == bytes(4 * _PAGE_BYTES)
    os.close(fd)


def test_only_buffers_within_registered_memory_are_fixed(pipe: tuple[int, int]) -> None:
    memory = bytearray(64)
    within, across = memoryview(memory)[8:24], memoryview(memory)[20:40]
    with Ring(buffers=[memoryview(memory)[:32]], files=[pipe[1]]) as ring:
        ring.read(pipe[0], within, 0, tag=1)
        ring.read(pipe[0], across, 0, tag=2)
        ring.readv(pipe[0], [within], 0, tag=3)
        ring.write(pipe[1], within, 0, tag=4)
        ring.cancel(1, tag=5)
        sent = [_sent(ring, tag) for tag in range(1, 6)]
    assert sent == [
        ("read_fixed", 0, pipe[0]),
        ("read", 0, pipe[0]),
        ("readv", 0, pipe[0]),
        ("write_fixed", 0, 0),
        ("async_cancel", 0, 0),
    ]


@pytest.mark.root
def test_one_read_fills_several_buffers(ring: Ring, file: Path, fd: int) -> None:
    buffers: list[Any] = [bytearray(5), array.array("i", [0] * 1000), np.zeros((3, 5), np.float32)]
    nbytes = [len(memoryview(buffer).cast("B")) for buffer in buffers]
    ring.readv(fd, buffers, 17, tag=1)
    assert _only(ring) == sum(nbytes)
    assert (
        b"".join(bytes(memoryview(buffer)) for buffer in buffers)
        == (file.read_bytes()[17 : 17 + sum(nbytes)])
    )


@pytest.mark.root
@pytest.mark.parametrize("registered", [False, True])
def test_written_and_synced_bytes_are_read_back(file: Path, fd: int, registered: bool) -> None:
    expected = bytearray(file.read_bytes())
    expected[1000:1010] = b"0123456789"
    source = bytearray(b"0123456789")
    with Ring(buffers=[source], files=[fd]) if registered else Ring() as ring:
        ring.write(fd, source if registered else bytes(source), 1000, tag=1)
        assert _only(ring) == 10
        ring.fsync(fd, tag=2)
        assert _only(ring) == 0
        buffer = bytearray(_NBYTES)
        ring.read(fd, buffer, 0, tag=3)
        assert _only(ring) == _NBYTES
    assert buffer == expected == file.read_bytes()


def test_a_pipe_that_stays_empty_is_cancelled(ring: Ring, pipe: tuple[int, int]) -> None:
    buffer = bytearray(8)
    ring.read(pipe[0], buffer, 0, tag=10)
    ring.submit()
    ring.cancel(10, tag=11)
    ring.submit()
    assert sorted(ring.wait(2, timeout_s=60)) == [(10, -errno.ECANCELED), (11, 0)]
    with pytest.raises(ValueError, match="no request in flight has the tag 10"):
        ring.cancel(10, tag=12)


def test_an_ended_request_cannot_be_cancelled(ring: Ring, pipe: tuple[int, int]) -> None:
    ring.write(pipe[1], b"x", 0, tag=1)
    ring.submit()
    ring.cancel(1, tag=2)
    ring.submit()
    assert dict(ring.wait(2, timeout_s=60)) == {1: 1, 2: -errno.ENOENT}


def test_errors_are_results(ring: Ring, pipe: tuple[int, int], tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    ring.read(999_999, bytearray(1), 0, tag=1)
    ring.read(pipe[1], bytearray(1), 0, tag=2)
    ring.read(folder, bytearray(1), 0, tag=3)
    # A request that the kernel refuses at once does not hold the others back.
    assert ring.submit() == 3
    done = dict(ring.wait(3, timeout_s=60))
    assert done == {1: -errno.EBADF, 2: -errno.EBADF, 3: -errno.EISDIR}
    os.close(folder)
    failed = Completion(1, -errno.EISDIR)
    assert isinstance(failed.error, IsADirectoryError)
    assert Completion(1, 0).error is None


# ---- waiting


def test_a_wait_ends_after_its_time(ring: Ring, pipe: tuple[int, int]) -> None:
    ring.read(pipe[0], bytearray(8), 0, tag=1)
    ring.submit()
    begin = time.monotonic()
    assert ring.wait(timeout_s=0.12) == []
    assert time.monotonic() - begin >= 0.12
    assert ring.wait(timeout_s=0) == []
    os.write(pipe[1], b"abc")
    assert ring.wait() == [(1, 3)]


def test_a_wait_returns_all_that_came(ring: Ring, pipe: tuple[int, int]) -> None:
    for tag in range(5):
        ring.write(pipe[1], b"x", 0, tag=tag)
    ring.submit()
    assert len(ring.wait(2)) >= 2


def test_a_wait_for_too_many_completions_is_refused(ring: Ring, pipe: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="0 requests were submitted"):
        ring.wait()
    ring.read(pipe[0], bytearray(8), 0, tag=1)
    with pytest.raises(ValueError, match="0 requests were submitted"):
        ring.wait()
    ring.submit()
    with pytest.raises(ValueError, match="1 requests were submitted"):
        ring.wait(2)


@pytest.mark.parametrize("refused", [{"count": 0}, {"timeout_s": -1}, {"timeout_s": float("nan")}])
def test_a_wait_refuses_senseless_arguments(ring: Ring, refused: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        ring.wait(**refused)


def test_other_threads_run_during_a_wait(ring: Ring, pipe: tuple[int, int]) -> None:
    ring.read(pipe[0], bytearray(8), 0, tag=1)
    ring.submit()
    writer = threading.Thread(target=os.write, args=(pipe[1], b"abc"))
    writer.start()
    assert ring.wait() == [(1, 3)]
    writer.join()


@pytest.mark.parametrize("to", ["process", "another thread"])
def test_an_interrupt_ends_a_wait_and_loses_nothing(to: str) -> None:
    code = """
import os, signal, sys, threading, time
from fastio.uring import Ring

def interrupt():
    if sys.argv[1] == "process":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    time.sleep(0.3)
    sent.append(time.monotonic())
    if sys.argv[1] == "process":
        os.kill(os.getpid(), signal.SIGINT)
    else:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

sent = []
read, write = os.pipe()
buffer = bytearray(8)
with Ring() as ring:
    ring.read(read, buffer, 0, tag=1)
    ring.submit()
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        ring.wait()
    except KeyboardInterrupt:
        seconds = time.monotonic() - sent[0]
    thread.join()
    try:
        buffer.append(0)
    except BufferError:
        os.write(write, b"abc")
        assert ring.wait() == [(1, 3)] and buffer[:3] == b"abc"
print(seconds)
"""
    assert float(testbed.run_python(code, to, timeout_s=30).check().stdout) < 1


# ---- memory


@pytest.mark.parametrize("end", ["taken", "closed", "refused"])
def test_a_buffer_is_exported_until_its_request_is_over(pipe: tuple[int, int], end: str) -> None:
    ring = Ring(1)
    buffer, other = bytearray(8), bytearray(8)
    ring.read(pipe[0], buffer, 0, tag=1)
    with pytest.raises(BufferError):
        buffer.append(0)
    if end == "refused":
        with pytest.raises(BlockingIOError):
            ring.read(pipe[0], other, 0, tag=2)
        other.append(0)
    ring.submit()
    with pytest.raises(BufferError):
        buffer.append(0)
    if end == "taken":
        os.write(pipe[1], b"abc")
        ring.wait()
        buffer.append(0)
    ring.close()
    buffer.append(0)


def test_a_buffer_without_another_owner_lives_as_long_as_its_request(
    ring: Ring, pipe: tuple[int, int]
) -> None:
    buffer = np.zeros(8, np.uint8)
    alive = weakref.ref(buffer)
    ring.read(pipe[0], buffer, 0, tag=1)
    del buffer
    ring.submit()
    gc.collect()
    assert alive() is not None
    os.write(pipe[1], b"abc")
    ring.wait()
    gc.collect()
    assert alive() is None


def test_an_mmap_and_a_view_cannot_be_taken_away(ring: Ring, pipe: tuple[int, int]) -> None:
    mapped = _aligned(_PAGE_BYTES)
    ring.read(pipe[0], mapped, 0, tag=1)
    owner = bytearray(8)
    view = memoryview(owner)[2:]
    ring.read(pipe[0], view, 0, tag=2)
    ring.submit()
    with pytest.raises(BufferError):
        mapped.close()
    view.release()  # of this view alone: the ring has one of its own
    with pytest.raises(BufferError):
        owner.append(0)
    ring.close()
    mapped.close()
    owner.append(0)


def test_a_released_view_and_a_closed_mmap_are_refused(ring: Ring, pipe: tuple[int, int]) -> None:
    view = memoryview(bytearray(8))
    view.release()
    mapped = _aligned(_PAGE_BYTES)
    mapped.close()
    for dead in (view, mapped):
        with pytest.raises(ValueError, match=r"released|closed"):
            ring.read(pipe[0], dead, 0, tag=1)
        with pytest.raises(ValueError, match=r"released|closed"):
            Ring(buffers=[dead])


def test_registered_buffers_are_exported_until_the_ring_closes() -> None:
    buffers = [bytearray(8), bytearray(8)]
    with pytest.raises(BufferError, match="read-only"):
        Ring(buffers=[buffers[0], b"x"])
    buffers[0].append(0)
    with Ring(buffers=buffers):
        for buffer in buffers:
            with pytest.raises(BufferError):
                buffer.append(0)
    for buffer in buffers:
        buffer.append(0)


# ---- refusals


@pytest.mark.parametrize(
    ("error", "match", "fd", "buffer", "offset", "more"),
    [
        (BufferError, "read-only", 0, b"x", 0, {}),
        (BufferError, "not contiguous", 0, memoryview(bytearray(8))[::2], 0, {}),
        (TypeError, "bytes-like", 0, "text", 0, {}),
        (TypeError, "integer", "0", bytearray(1), 0, {}),
        (TypeError, "integer", 0, bytearray(1), 0.5, {}),
        (TypeError, "integer", 0, bytearray(1), 0, {"tag": "a"}),
        (ValueError, "descriptor is -1", -1, bytearray(1), 0, {}),
        (ValueError, "offset is -1", 0, bytearray(1), -1, {}),
        (ValueError, "offset is", 0, bytearray(1), 1 << 63, {}),
        (ValueError, "tag is -1", 0, bytearray(1), 0, {"tag": -1}),
    ],
)
def test_senseless_reads_are_refused(
    ring: Ring, error: Any, match: str, fd: Any, buffer: Any, offset: Any, more: Any
) -> None:
    with pytest.raises(error, match=match):
        ring.read(fd, buffer, offset, **{"tag": 1, **more})
    assert ring.submit() == 0


def test_more_than_a_request_moves_is_refused(ring: Ring) -> None:
    with mmap.mmap(-1, 1 << 31, flags=mmap.MAP_PRIVATE) as large:
        with pytest.raises(ValueError, match="a request moves at most"):
            ring.read(0, large, 0, tag=1)
        with pytest.raises(ValueError, match="a request moves at most"):
            ring.readv(0, [large, bytearray(1)], 0, tag=1)
    ring.readv(0, [bytearray(1)] * 1025, 0, tag=1)
    assert _only(ring) == -errno.EINVAL


def test_a_readv_that_is_refused_lets_go_of_all(ring: Ring) -> None:
    buffer = bytearray(8)
    with pytest.raises(BufferError, match="read-only") as caught:
        ring.readv(0, [buffer, b"x"], 0, tag=1)
    buffer.append(0)
    del caught  # its traceback has the frames that had the buffers


def test_a_tag_is_in_use_until_its_completion_is_taken(ring: Ring, pipe: tuple[int, int]) -> None:
    ring.write(pipe[1], b"x", 0, tag=1)
    with pytest.raises(ValueError, match="tag 1 is in use"):
        ring.write(pipe[1], b"x", 0, tag=1)
    ring.submit()
    with pytest.raises(ValueError, match="tag 1 is in use"):
        ring.fsync(pipe[1], tag=1)
    ring.wait()
    ring.write(pipe[1], b"x", 0, tag=1)
    assert _only(ring) == 1


def test_a_full_queue_refuses_and_forgets(pipe: tuple[int, int]) -> None:
    with Ring(3) as ring:
        assert ring.entries == 4
        for tag in range(4):
            ring.write(pipe[1], b"x", 0, tag=tag)
        with pytest.raises(BlockingIOError, match=r"queue is full: submit\(\) first"):
            ring.write(pipe[1], b"x", 0, tag=4)
        assert ring.submit() == 4
        ring.write(pipe[1], b"x", 0, tag=4)
        assert ring.submit() == 1
        assert sorted(ring.wait(5)) == [(tag, 1) for tag in range(5)]


def test_more_in_flight_than_either_queue_holds_all_come(pipe: tuple[int, int]) -> None:
    with Ring(2) as ring:
        for tag in range(100):
            ring.read(pipe[0], bytearray(1), 0, tag=tag)
            assert ring.submit() == 1
        os.write(pipe[1], bytes(100))
        assert sorted(ring.wait(100, timeout_s=60)) == [(tag, 1) for tag in range(100)]


def test_a_file_that_is_not_open_is_not_registered() -> None:
    buffer, files = bytearray(8), open_files()
    with pytest.raises(OSError, match="io_uring_register_files") as caught:
        Ring(buffers=[buffer], files=[999_999])
    assert caught.value.errno == errno.EBADF
    buffer.append(0)
    assert open_files() == files


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (ValueError, {"entries": 0}),
        (ValueError, {"entries": 1 << 31}),
        (TypeError, {"entries": "8"}),
        (TypeError, {"files": ["0"]}),
        (ValueError, {"files": [-1]}),
        (TypeError, {"buffers": ["text"]}),
    ],
)
def test_a_ring_refuses_senseless_arguments(error: Any, arguments: Any) -> None:
    with pytest.raises(error):
        Ring(**arguments)


def test_more_entries_than_the_kernel_gives_are_refused() -> None:
    with pytest.raises(OSError, match=r"io_uring_setup: .* \(too many entries") as got:
        Ring(1 << 20)
    assert got.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("refusal", "exception", "cause"),
    [("EPERM", "PermissionError", "seccomp"), ("ENOSYS", "OSError", "the kernel has no io_uring")],
)
def test_a_refused_ring_says_why(refusal: Any, exception: str, cause: str) -> None:
    result = testbed.run_python("from fastio.uring import Ring; Ring()", seccomp=refusal)
    assert result.exception == exception
    assert result.message is not None
    assert "io_uring_setup" in result.message
    assert cause in result.message


@pytest.mark.root
def test_locked_memory_that_is_refused_is_said() -> None:
    code = """
from fastio.uring import Ring
Ring(buffers=[bytearray(1 << 20)])
"""
    result = testbed.run_python(code, memlock=65536, uid=12345)
    assert result.message is not None
    assert "io_uring_register_buffers" in result.message
    assert "RLIMIT_MEMLOCK" in result.message


def test_without_its_module_the_import_suggests_a_remedy() -> None:
    for missing in ("fastio._uring", "_cffi_backend"):
        code = f"import sys; sys.modules[{missing!r}] = None; import fastio; import fastio.uring"
        result = testbed.run_python(code)
        assert result.exception == "ImportError"
        assert result.message is not None
        assert "liburing-dev" in result.message
        assert missing in result.message


# ---- closing, processes, threads

_CALLS: dict[str, Callable[[Ring], object]] = {
    "read": lambda ring: ring.read(0, bytearray(1), 0, tag=1),
    "readv": lambda ring: ring.readv(0, [bytearray(1)], 0, tag=1),
    "write": lambda ring: ring.write(0, b"x", 0, tag=1),
    "fsync": lambda ring: ring.fsync(0, tag=1),
    "cancel": lambda ring: ring.cancel(1, tag=2),
    "submit": lambda ring: ring.submit(),
    "wait": lambda ring: ring.wait(),
}


def test_the_calls_below_are_all_there_are() -> None:
    public = {name for name in dir(Ring) if not name.startswith("_")}
    assert public - {"close", "closed"} == _CALLS.keys()


@pytest.mark.parametrize("name", _CALLS)
def test_a_closed_ring_refuses(name: str) -> None:
    with Ring(1) as ring:
        pass
    assert ring.closed
    ring.close()
    with pytest.raises(ValueError, match="the ring is closed"):
        _CALLS[name](ring)


@pytest.mark.parametrize("name", [*_CALLS, "close"])
def test_a_second_thread_is_refused(name: str, pipe: tuple[int, int]) -> None:
    with Ring(1) as ring:
        ring.read(pipe[0], bytearray(8), 0, tag=7)
        ring.submit()
        waiting = threading.Thread(target=ring.wait)
        waiting.start()
        deadline = time.monotonic() + 60
        while not ring._in_use and time.monotonic() < deadline:
            time.sleep(0.001)
        with pytest.raises(RuntimeError, match="in use by another thread"):
            _CALLS.get(name, Ring.close)(ring)
        os.write(pipe[1], b"x")
        waiting.join()


def test_threads_may_take_turns(ring: Ring, pipe: tuple[int, int]) -> None:
    def write() -> None:
        ring.write(pipe[1], b"x", 0, tag=1)
        results.append(_only(ring))

    results: list[int] = []
    for _ in range(3):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert results == [1, 1, 1]


def test_a_signal_handler_cannot_make_the_call_that_it_interrupted() -> None:
    code = """
import os, signal
from fastio.uring import Ring

def handle(*_):
    try:
        ring.submit()
    except RuntimeError as error:
        print(error)
    os.write(write, b"x")

read, write = os.pipe()
signal.signal(signal.SIGALRM, handle)
with Ring() as ring:
    ring.read(read, bytearray(8), 0, tag=1)
    ring.submit()
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    assert ring.wait() == [(1, 1)]
"""
    assert "signal handler" in testbed.run_python(code, timeout_s=30).check().stdout


@pytest.mark.parametrize("name", _CALLS)
def test_a_forked_child_is_refused_and_leaves_the_parent_its_ring(
    name: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(100))
    code = """
import os, sys
from fastio.uring import Ring
sys.path.insert(0, sys.argv[3])
from uring.test_ring import _CALLS

buffer = bytearray(100)
fd = os.open(sys.argv[2], os.O_RDONLY)
with Ring() as ring:
    ring.read(fd, buffer, 0, tag=9)
    child = os.fork()
    if child == 0:
        try:
            _CALLS[sys.argv[1]](ring)
        except RuntimeError as error:
            assert "process" in str(error)
            ring.close()
            assert ring.closed
            with Ring() as own:
                own.read(fd, buffer, 0, tag=1)
                own.submit()
                os._exit(0 if own.wait() == [(1, 100)] else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ring.submit() == 1
    assert ring.wait() == [(9, 100)]
    assert buffer == open(sys.argv[2], "rb").read(100)
"""
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (tests, tests.parent)))
    testbed.run_python(code, name, file, tests, env={"PYTHONPATH": path}, timeout_s=60).check()


def test_closing_cancels_requests_in_flight_and_waits_for_them(pipe: tuple[int, int]) -> None:
    ring = Ring(2)
    buffers = [bytearray(8) for _ in range(9)]
    # More than fit into the queue, so that their cancellations do not either.
    for tag, buffer in enumerate(buffers[:-1]):
        ring.read(pipe[0], buffer, 0, tag=tag)
        ring.submit()
    ring.read(pipe[0], buffers[-1], 0, tag=99)  # is dropped
    ring.close()
    os.write(pipe[1], b"abcdefgh")
    for buffer in buffers:
        buffer.append(0)
        assert buffer == bytes(9)


def test_closing_drops_requests_that_are_only_queued(pipe: tuple[int, int]) -> None:
    with Ring() as ring:
        ring.write(pipe[1], b"submitted", 0, tag=1)
        ring.submit()
        ring.write(pipe[1], b"queued", 0, tag=2)
    assert os.read(pipe[0], 100) == b"submitted"


@pytest.mark.root
def test_closing_waits_for_a_disk_that_hangs_and_answers_ctrl_c(
    slow_mount: testbed.SlowMount,
) -> None:
    (slow_mount.source / "file").write_bytes(b"x" * 4096)
    code = """
import os, signal, sys, threading, time
from fastio.uring import Ring

control = sys.argv[2]
def say(what):
    with open(control + ".new", "w") as file:
        file.write(what)
    os.replace(control + ".new", control)

def interrupt():
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)

fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
ring, buffer = Ring(), bytearray(4096)
ring.read(fd, buffer, 0, tag=1)
say("hang")
ring.submit()
threading.Thread(target=interrupt).start()
try:
    ring.close()
except KeyboardInterrupt:
    print("interrupted", ring.closed)
try:
    buffer.append(0)
except BufferError:
    print("kept")
say("0")
ring.close()
buffer.append(0)
"""
    result = testbed.run_python(code, slow_mount.path / "file", slow_mount.control, timeout_s=60)
    assert result.check().stdout == "interrupted False\nkept\n"


def test_a_ring_that_is_dropped_keeps_memory_for_good_and_warns(pipe: tuple[int, int]) -> None:
    files = open_files()
    buffer = bytearray(8)
    ring = Ring(1)
    ring.read(pipe[0], buffer, 0, tag=1)
    ring.submit()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del ring
    with pytest.raises(BufferError):
        buffer.append(0)
    assert open_files() == files


def test_rings_leave_no_descriptor(pipe: tuple[int, int]) -> None:
    def use() -> None:
        with Ring(buffers=[bytearray(4096)], files=pipe) as ring:
            ring.read(pipe[0], bytearray(8), 0, tag=1)
            ring.submit()
        with pytest.raises(OSError, match="io_uring_setup"):
            Ring(1 << 20)

    use()
    files = open_files()
    for _ in range(50):
        use()
    assert open_files() == files


# ---- features of the kernel


def test_features_and_operations_have_names(ring: Ring) -> None:
    assert {"nodrop", "fast_poll"} <= set(ring.features)
    assert set(ring.features) <= {*FEATURES, *map(str, range(32))}
    assert {"nop", "readv", "read", "write", "fsync", "async_cancel"} <= set(ring.operations)
    assert len(set(ring.operations)) == len(ring.operations)


@pytest.mark.parametrize("module", [queue, sys.modules[Ring.__module__]], ids=lambda m: m.__name__)
def test_the_examples_hold(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed


def test_names_and_numbers_are_those_of_liburings_header() -> None:
    if not _HEADER.exists():
        pytest.skip(f"{_HEADER} is not there")
    text = _HEADER.read_text(encoding="utf-8")
    bits = {
        name.lower(): 1 << int(bit)
        for name, bit in re.findall(r"#define IORING_(FEAT_\w+)\s+\(1U << (\d+)\)", text)
    }
    ours = {f"feat_{name}": 1 << bit for bit, name in enumerate(FEATURES)}
    both = ours.keys() & bits.keys()
    assert len(both) > 10
    assert {name: ours[name] for name in both} == {name: bits[name] for name in both}
    listed = re.findall(r"^\tIORING_OP_(\w+),", text, re.MULTILINE)
    operations = [name.lower() for name in listed if name != "LAST"]
    assert len(operations) > 40
    shorter = min(len(operations), len(OPERATIONS))
    assert operations[:shorter] == list(OPERATIONS[:shorter])


def test_an_old_kernel_is_looked_at_instead_of_waited_for(
    ring: Ring, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Old:
        def __getattr__(self, name: str) -> Any:
            assert name != "fastio_wait"
            return getattr(_uring.lib, name)

    monkeypatch.setattr(queue, "lib", Old())
    monkeypatch.setattr(ring._queue, "_timed_wait", False)
    ring.read(pipe[0], bytearray(8), 0, tag=1)
    ring.submit()
    assert ring.wait(timeout_s=0.01) == []
    os.write(pipe[1], b"abc")
    assert ring.wait() == [(1, 3)]


def test_the_module_shows_its_entry_only() -> None:
    testbed.require_tools("nm")
    said = subprocess.run(
        ["nm", "-D", "--defined-only", _uring.__file__], check=True, capture_output=True, text=True
    )
    assert [line.split()[2] for line in said.stdout.splitlines()] == ["PyInit__uring"]
    assert sys.modules["fastio._uring"] is _uring
