"""Every public class has a repr of one short line in every state."""

import concurrent.futures
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import testbed
from fastio.display.values import cut, one_line
from fastio.dropin.safe_open import SafeSlice
from fastio.store.collect import Collected
from fastio.store.status import Generation, Status
from samples import in_threads

_LONG = "a" * 100


def _classes() -> list[type]:
    found = [getattr(fastio, name) for name in fastio.__all__]
    found += [Collected, Generation, SafeSlice, Status]
    try:
        from fastio import uring

        found += [getattr(uring, name) for name in uring.__all__]
    except ImportError:  # built without liburing
        pass
    return [kind for kind in dict.fromkeys(found) if isinstance(kind, type)]


def _assert_short(thing: object) -> str:
    shown = repr(thing)
    assert 0 < len(shown) <= 120, shown
    assert shown.isprintable(), shown
    assert " object at 0x" not in shown
    return shown


@pytest.mark.parametrize("kind", _classes(), ids=lambda kind: kind.__name__)
def test_an_object_that_is_half_made_has_a_repr(kind: Any) -> None:
    try:
        made = kind.__new__(kind)
    except TypeError as error:  # a tuple, a struct, a MemoryError
        pytest.skip(f"it cannot be half made: {error}")
    _assert_short(made)


def _errors() -> list[BaseException]:
    path = Path("/", *["folder"] * 60, "model\n.safetensors")
    return [
        fastio.FormatError(path, "x" * 500, offset=7, expected="y"),
        fastio.ChecksumError(path, chunk=1, offset=2, nbytes=3, expected="a", found="b"),
        fastio.ReadError(5, "preadv2", path, 4096),
        fastio.WriteError(28, "pwritev2", path, detail="z" * 300),
        fastio.DeviceError("cuda:0", "cuMemAlloc", 2, "no memory " * 40),
        fastio.ReplicaError(path, "no copy", {f"root{i}": "gone" for i in range(60)}),
        fastio.ConflictError(path, "somebody else writes"),
        fastio.StaleError(path, 1, 2),
        fastio.TensorNotFoundError("n" * 500, str(path), ("a", "b")),
        fastio.UsageError("u" * 500),
        fastio.SelectionError("out of range"),
        fastio.DtypeError("no such dtype"),
        fastio.MemoryLimitError(10**12, 10**9),
        fastio.FastioError(),
    ]


@pytest.mark.parametrize("error", _errors(), ids=lambda error: type(error).__name__)
def test_an_error_has_a_short_repr_and_a_whole_message(error: BaseException) -> None:
    shown = _assert_short(error)
    assert shown.startswith(f"{type(error).__name__}(")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / _LONG / _LONG
    folder.mkdir(parents=True)
    tensors = {"t": np.zeros((3, 5)), _LONG * 3 + "\n": np.zeros((1,) * 40)}
    return fastio.save(tensors, folder / "model.safetensors")


def test_readers_have_a_repr_at_each_stage(path: Path) -> None:
    reader = fastio.open(path)
    assert _assert_short(reader).endswith("model.safetensors>")
    views = list(reader.values())
    shown = [_assert_short(view) for view in (*views, *map(reader.info, reader))]
    assert "<fastio.TensorView 't' [3, 5] float64>" in shown
    reader.close()
    assert "closed" in _assert_short(reader)
    assert [_assert_short(view) for view in views] == shown[:2]
    file = fastio.safe_open(path, framework="np")
    assert "safe_open" in _assert_short(file)
    parts = [file.get_slice(name) for name in file.offset_keys()]
    assert "<fastio.SafeSlice 't' [3, 5] F64>" in map(_assert_short, parts)
    with file:
        pass
    assert "closed" in _assert_short(file)
    with pytest.raises(FileNotFoundError):
        fastio.open(path.with_name("nowhere"))


def test_saves_have_a_repr_at_each_stage(path: Path) -> None:
    handle = fastio.start_save({"t": np.zeros(3)}, path)
    assert "SaveHandle" in _assert_short(handle)
    handle.result()
    assert _assert_short(handle).endswith("saved>")
    failing = fastio.SaveHandle(path)
    assert "waiting" in _assert_short(failing)
    failing.set_running_or_notify_cancel()
    assert "saving" in _assert_short(failing)
    failing.set_exception(fastio.WriteError(28, "write", path))
    assert "failed" in _assert_short(failing)
    cancelled = fastio.SaveHandle(path)
    assert cancelled.cancel()
    assert "cancelled" in _assert_short(cancelled)
    assert isinstance(failing.exception(), fastio.WriteError)
    assert isinstance(handle, concurrent.futures.Future)


def test_a_handle_has_a_repr_while_another_thread_holds_its_lock(path: Path) -> None:
    handle = fastio.SaveHandle(path)
    with handle._condition:
        (shown,) = in_threads(1, lambda _: repr(handle))
    assert "waiting" in shown


def test_a_store_has_a_repr_of_its_state(tmp_path: Path) -> None:
    store = fastio.Store.create([tmp_path / "a", tmp_path / "b"])
    assert "generation 0" in _assert_short(store)
    store.save({"t": np.zeros(3)})
    store.save({"t": np.ones(3)})
    assert "generation 2" in _assert_short(store)
    for thing in (*store.generations(), store.status(), store.gc()):
        assert _assert_short(thing).startswith("<fastio.store.")
    store.close()
    assert "closed" in _assert_short(store)


def test_a_ring_has_a_repr_of_its_requests_in_flight(tmp_path: Path) -> None:
    uring = pytest.importorskip("fastio.uring", reason="built without liburing")
    try:
        ring = uring.Ring(4)
    except OSError as error:
        pytest.skip(f"no ring here: {error}")
    (tmp_path / "file").write_bytes(b"x" * 10)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    with ring:
        assert _assert_short(ring) == "<fastio.uring.Ring of 4 entries, 0 requests on the way>"
        ring.read(fd, bytearray(10), 0, tag=1)
        assert "1 request on" in _assert_short(ring)
        ring.submit()
        (completion,) = ring.wait()
        assert _assert_short(completion) == "Completion(tag=1, result=10)"
        child = os.fork()
        if child == 0:
            os._exit("another process" not in repr(ring))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(fd)
    assert _assert_short(ring) == "<fastio.uring.Ring, closed>"


def test_options_show_differences_from_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert repr(fastio.Options()) == "fastio.Options()"
    shown = repr(fastio.Options(cache="bypass", block_bytes=2**20))
    assert shown == "fastio.Options(cache='bypass', block_bytes=1048576)"
    assert eval(shown) == fastio.Options(cache="bypass", block_bytes=2**20)
    monkeypatch.setenv("FASTIO_QUEUE_DEPTH", "3")
    assert repr(fastio.Options()) == "fastio.Options(queue_depth=3)"
    _assert_short(
        fastio.Options(
            engine="pread",
            cache="keep",
            mapping="never",
            block_bytes=2**29,
            memory_limit_bytes=2**50,
            pinned_limit_bytes=2**50,
            huge_pages="off",
        )
    )


def test_reports_and_events_are_short(path: Path) -> None:
    report = fastio.Report()
    fastio.load(path, report=report, options=fastio.Options(cache="bypass"))
    host = fastio.engine_report()
    for thing in (report, *report.lane_times, fastio.LaneTimes(), host, *host.engines.values()):
        assert _assert_short(thing).startswith("<fastio.")
    for cause in ("is missing", "x" * 1000):
        event = fastio.Event("fallback", str(path), cause, "taken from another replica")
        assert _assert_short(event).startswith("<fastio.Event fallback: ")


def test_a_repr_reads_nothing_and_opens_nothing(path: Path) -> None:
    code = """
import sys
import numpy as np
import fastio, fastio.store.store
tensors = {"t": np.zeros(3)}
store = fastio.Store.create([sys.argv[1] + ".a", sys.argv[1] + ".b"])
store.save(tensors)
reader, file = fastio.open(sys.argv[1]), fastio.safe_open(sys.argv[1], framework="np")
of_store = store.reader()
things = [reader, file, store, of_store, reader["t"], of_store["t"], file.get_slice("t"),
          reader.report, reader.info("t"), of_store.info("t"), fastio.SaveHandle(sys.argv[1])]
def watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") or event.startswith("socket"):
        raise RuntimeError(f"{event} {arguments}")
sys.addaudithook(watch)
for thing in things:
    print("in no state" in repr(thing))
"""
    assert set(testbed.run_python(code, path).check().stdout.split()) == {"False"}


def test_text_that_is_cut_keeps_both_ends_and_fits() -> None:
    assert cut("short", 10) == "short"
    assert cut("a" * 50 + "z" * 50, 11) == "aaaaa…zzzzz"
    assert cut("a\nb\x1b[1m", 20) == "a\\nb\\x1b[1m"
    assert len(cut("\n" * 500, 20)) <= 20
    assert cut("\udcff", 20) == "\\udcff"


def test_a_repr_shows_its_own_failure() -> None:
    class Broken:
        @one_line
        def __repr__(self) -> str:
            raise RuntimeError

    assert repr(Broken()) == "<fastio.Broken, in no state to be described>"
