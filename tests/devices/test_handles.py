"""A handle tells the truth after interrupts, threads, forks and bad streams."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
from fastio import _native
from fastio.display.values import cut
from fastio.errors import DeviceError
from samples import flip
from testbed.double import Double, OnDouble


def _small(nbytes: int = 2**20) -> fastio.Options:
    return fastio.Options(pinned_limit_bytes=nbytes, block_bytes=nbytes, lanes=1, queue_depth=1)


def _interrupted(double: Double, come_so_far: Any, stream: int) -> None:
    waits = threading.Event()

    def interrupt() -> None:
        waits.wait()
        while not double.copies_pending():
            time.sleep(0.001)
        time.sleep(0.4)  # for it to be in the core
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.1)
        double.release_stream(stream)

    def come() -> None:
        waits.set()
        come_so_far()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        come()
    thread.join()


@pytest.mark.parametrize("first", ["queued", "wait"])
def test_tensors_of_an_interrupted_load_are_not_returned_later(
    double: Double, saved: Path, first: str
) -> None:
    stream = double.make_stream(0)
    double.hold_stream(stream)
    handle = fastio.start_load(saved, device="cuda:0", stream=stream, options=_small())
    _interrupted(double, getattr(handle, first), stream)
    for come_so_far in (handle.wait, handle.queued, handle.event.synchronize):
        with pytest.raises(fastio.ReadError, match="it was cancelled") as caught:
            come_so_far()
        assert caught.value.path == os.fspath(saved)
    assert handle.done()
    del caught
    gc.collect()
    assert double.device_bytes() == 0


def test_a_thread_that_waits_learns_that_another_was_interrupted(
    double: Double, saved: Path
) -> None:
    stream = double.make_stream(0)
    double.hold_stream(stream)
    handle = fastio.start_load(saved, device="cuda:0", stream=stream, options=_small())
    met: list[BaseException] = []

    def wait() -> None:
        try:
            handle.wait()
        except fastio.ReadError as error:
            met.append(error)

    other = threading.Thread(target=wait)
    other.start()
    _interrupted(double, handle.queued, stream)
    other.join()
    assert len(met) == 1


def test_a_progress_bar_that_fails_gives_the_load_up(double: Double, saved: Path) -> None:
    def fails(done: int, total: int) -> None:
        raise BrokenPipeError

    stream = double.make_stream(0)
    double.hold_stream(stream)
    handle = fastio.start_load(saved, device="cuda:0", stream=stream, options=_small())
    timer = threading.Timer(0.2, double.release_stream, [stream])
    timer.start()
    with pytest.raises(BrokenPipeError):
        handle._load.wait(fails)
    timer.join()
    with pytest.raises(fastio.ReadError, match="cancelled"):
        handle.wait()


def test_an_interrupt_after_all_was_queued_takes_nothing_away(
    double: Double, saved: Path, tensors: dict[str, Any]
) -> None:
    stream = double.make_stream(0)
    double.hold_stream(stream)
    handle = fastio.start_load(saved, device="cuda:0", stream=stream)
    found = handle.queued()
    _interrupted(double, handle.wait, stream)
    assert handle.wait() is found
    for name, tensor in tensors.items():
        assert found[name].numpy().tobytes() == tensor.tobytes()


def test_a_load_that_failed_keeps_no_memory(double: Double, saved: Path) -> None:
    flip(saved, -1)
    handle = fastio.start_load(saved, device="cuda")
    assert double.device_bytes() > 0
    with pytest.raises(fastio.ChecksumError):
        handle.queued()
    gc.collect()
    assert double.device_bytes() == 0
    with pytest.raises(fastio.ChecksumError):
        handle.wait()


def test_threads_have_the_same_tensors_and_one_account(double: Double, saved: Path) -> None:
    alone = fastio.Report()
    fastio.load(saved, device="cuda", report=alone)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            report = fastio.Report()
            handle = fastio.start_load(saved, device="cuda", report=report)
            barrier = threading.Barrier(6)
            found: list[Any] = []

            def take(
                handle: fastio.LoadHandle = handle,
                barrier: threading.Barrier = barrier,
                found: list[Any] = found,
                at: int = 0,
            ) -> None:
                barrier.wait()
                found.append(handle.queued() if at % 2 else handle.wait())

            threads = [threading.Thread(target=take, kwargs={"at": at}) for at in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len({id(each) for each in found}) == 1
            assert len(found) == 6
            assert report.chunks_verified == alone.chunks_verified
    finally:
        sys.setswitchinterval(before)


def test_a_bad_stream_later_leaves_the_report_as_it_is(double: Double, saved: Path) -> None:
    report = fastio.Report()
    handle = fastio.start_load(saved, device="cuda", report=report)
    found = handle.wait()
    double.fail_call("cuStreamWaitEvent", 1, 400)
    with pytest.raises(DeviceError):
        handle.queued(stream=double.make_stream(0))
    assert report.tensors == len(found)
    assert handle.wait() is found


class _At(int):
    """A stream that says its device, as torch's do."""

    device: str


def _stream_on(double: Double, ordinal: int) -> _At:
    stream = _At(double.make_stream(ordinal))
    stream.device = f"cuda:{ordinal}"
    return stream


def test_a_stream_of_any_device_may_wait_for_any_load(double: Double, saved: Path) -> None:
    other = _stream_on(double, 1)
    one = fastio.start_load(saved, device="cuda:0")
    one.event.wait(other)
    assert one.wait()
    spread = fastio.start_load(saved, device_map={"layers": 0, "": 1})
    spread.event.wait(other)
    spread.event.wait(_stream_on(double, 0))
    assert spread.queued() is spread.wait()


def test_memory_is_known_to_be_used_on_the_streams_that_wait(double: Double, saved: Path) -> None:
    behind = double.make_stream(0)
    handle = fastio.start_load(saved, device="cuda")
    found: Any = handle.queued(stream=behind)
    held = {id(tensor.owner): tensor.owner for tensor in found.values() if tensor.owner is not None}
    assert held
    assert all(behind in memory.streams for memory in held.values())
    assert handle.wait() is found


def test_a_forked_child_leaves_the_driver_alone(double: Double, saved: Path) -> None:
    handle = fastio.start_load(saved, device="cuda")
    handle.wait()
    calls = [b"cuInit", b"cuCtxPushCurrent", b"cuEventDestroy", b"cuDevicePrimaryCtxRelease"]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            handle._load = None  # type: ignore[assignment]
            gc.collect()
            made = sum(double.calls(name) for name in calls)  # the double counts anew in a child
            status = 0 if made == 0 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_hosts_limit_holds_for_tensors_that_a_map_leaves_there(
    double: Double, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    fastio.save({"g": np.zeros(10), "c": np.zeros(2**20, np.uint8)}, path)
    asked = fastio.Options(memory_limit_bytes=2**19, block_bytes=2**16)
    with pytest.raises(fastio.MemoryLimitError) as caught:
        fastio.load(path, device_map={"g": 0, "": "cpu"}, options=asked)
    assert caught.value.asked_bytes >= 2**20
    assert double.copies_executed() == 0


def test_a_stream_of_tensors_keeps_to_the_devices_limit(double: Double, tmp_path: Path) -> None:
    path = tmp_path / "model"
    fastio.save({f"{at}": np.full(2**18, at, np.uint8) for at in range(12)}, path)
    limit = 2**20
    asked = fastio.Options(device_memory_limit_bytes=limit)
    with fastio.open(path, options=asked) as reader:
        for window in (None, 2**30):
            seen = 0
            for name, tensor in reader.stream(device="cuda", memory_limit_bytes=window):
                assert isinstance(tensor, OnDouble)
                assert double.device_bytes() <= limit + 2**18  # and the memory that was taken
                assert (tensor.numpy() == int(name)).all()
                seen += 1
                del tensor
            assert seen == 12
        with pytest.raises(ValueError, match="memory_limit_bytes=0"):
            next(iter(reader.stream(device="cuda", memory_limit_bytes=0)))
    assert _native.pinned_account()["leased_bytes"] == 0


def test_a_handle_says_how_far_it_is(double: Double, saved: Path) -> None:
    stream = double.make_stream(0)
    double.hold_stream(stream)
    handle = fastio.start_load(saved, device="cuda:0", stream=stream, options=_small())
    assert repr(handle) == cut(f"<fastio.LoadHandle of {saved}, loading>", 120)
    assert repr(handle.event) == cut(f"<fastio.LoadEvent of {saved}, loading>", 120)
    child = os.fork()
    if child == 0:
        os._exit(not repr(handle).startswith("<fastio.LoadHandle"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    double.release_stream(stream)
    handle.wait()
    assert repr(handle) == cut(f"<fastio.LoadHandle of {saved}, loaded>", 120)


def test_a_handle_that_failed_says_so(double: Double, saved: Path) -> None:
    flip(saved, -1)
    handle = fastio.start_load(saved, device="cuda:0")
    with pytest.raises(fastio.ChecksumError):
        handle.wait()
    assert repr(handle) == cut(f"<fastio.LoadHandle of {saved}, failed>", 120)


def test_progress_of_a_load_to_a_device_is_shown(
    double: Double, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = fastio.Report()
    fastio.load(saved, device="cuda:0", progress=True, report=report)
    fastio.start_load(saved, device="cuda:0").wait(progress=True)
    for line in capsys.readouterr().err.splitlines():
        done, total = line.split()[1].split("/")
        assert done == total != "0"
    with fastio.open(saved) as reader:
        assert len(dict(reader.stream(device="cuda:0"))) == len(reader)
        counted = reader.report
    assert counted.nbytes == report.nbytes
    assert counted.seconds > 0
