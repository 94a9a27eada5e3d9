"""Tensors reach a device as they were saved, verified before the copy, or not at all."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
from fastio import _native
from fastio.errors import DeviceError
from samples import flip
from testbed import evict
from testbed.double import Double, Memory, OnDouble, tensor_like


def _assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        held = found[name].numpy() if isinstance(found[name], OnDouble) else found[name]
        assert held.tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize("cache", ["bypass", "keep", "auto"])
def test_loaded_tensors_equal_the_saved_ones(
    double: Double, saved: Path, tensors: dict[str, Any], cache: Any, options: fastio.Options
) -> None:
    report = fastio.Report()
    asked = fastio.Options(engine=options.engine, cache=cache)
    found: Any = fastio.load(saved, device="cuda:0", options=asked, report=report)
    _assert_same(found, tensors)
    assert {tensor.ordinal for tensor in found.values()} == {0}
    assert report.tensors == len(tensors)
    assert report.chunks_verified > 0
    assert report.nbytes == sum(tensor.nbytes for tensor in tensors.values())
    assert report.seconds > 0


def test_tensors_begin_where_they_can_be_used(double: Double, saved: Path) -> None:
    found: Any = fastio.load(saved, device="cuda")
    for name, tensor in found.items():
        assert tensor.address % 16 == 0, name


def test_many_small_tensors_are_copied_together(double: Double, tmp_path: Path) -> None:
    tensors = {f"{at:04}": np.full(64, at, np.float32) for at in range(2000)}
    path = tmp_path / "small"
    fastio.save(tensors, path)
    double.clear()
    _assert_same(fastio.load(path, device="cuda"), tensors)
    assert double.copies_executed() <= 2


@pytest.mark.parametrize("align", [1, 2, 4, 8])
def test_a_file_whose_tensors_lie_anywhere(double: Double, tmp_path: Path, align: int) -> None:
    random = np.random.default_rng(align)
    tensors = {"a": random.integers(0, 256, 17 * align, np.uint8)}
    tensors |= {f"{at}": random.integers(0, 256, 1 + 2 * at, np.uint8) for at in range(50)}
    tensors["z"] = random.standard_normal(100)
    import safetensors.numpy

    path = tmp_path / "foreign"
    safetensors.numpy.save_file(tensors, path)
    found: Any = fastio.load(path, device="cuda")
    _assert_same(found, tensors)
    assert all(tensor.address % 16 == 0 for tensor in found.values())


def test_names_are_loaded_in_their_order(
    double: Double, saved: Path, tensors: dict[str, Any]
) -> None:
    names = ["scalar", "layers.3.weight", "empty"]
    found: Any = fastio.load(saved, device="cuda:1", names=names)
    assert list(found) == names
    _assert_same(found, {name: tensors[name] for name in names})


def test_a_map_spreads_a_model_over_devices_and_the_host(
    double: Double, saved: Path, tensors: dict[str, Any]
) -> None:
    places = {"layers.1": "cuda:1", "layers": "cuda:0", "head": "cpu", "": "cuda:1"}
    found: Any = fastio.load(saved, device_map=places)
    _assert_same(found, tensors)
    for name, tensor in found.items():
        where = tensor.ordinal if isinstance(tensor, OnDouble) else -1
        expected = 1 if name.startswith("layers.1.") else 0 if name.startswith("layers.") else 1
        assert where == (-1 if name.startswith("head.") else expected), name
    assert isinstance(found["head.bytes"], np.ndarray)
    assert found["head.bytes"].flags.writeable


def test_a_map_without_a_place_for_a_tensor_is_refused(double: Double, saved: Path) -> None:
    with pytest.raises(fastio.UsageError, match=r"no place for tensor 'empty'"):
        fastio.load(saved, device_map={"layers": 0, "head": 1, "scalar": 0})
    with pytest.raises(fastio.UsageError, match="cannot both"):
        fastio.load(saved, device="cuda", device_map={"": 0})
    with pytest.raises(TypeError, match="must be a mapping"):
        fastio.load(saved, device_map=["cuda"])  # type: ignore[call-overload]


def test_the_callers_stream_comes_first(
    double: Double, saved: Path, tensors: dict[str, Any]
) -> None:
    stream = double.make_stream(0)
    double.hold_stream(stream)
    handle = fastio.start_load(saved, device="cuda:0", stream=stream)
    time.sleep(0.2)
    assert double.copies_executed() == 0
    assert not handle.done()
    double.release_stream(stream)
    _assert_same(handle.wait(), tensors)
    assert handle.done()
    assert handle.wait() is handle.wait()


@pytest.mark.parametrize("by", ["handle", "event"])
def test_work_enqueued_behind_the_copies_needs_no_host_wait(
    double: Double, saved: Path, tensors: dict[str, Any], by: str
) -> None:
    first, behind = double.make_stream(0), double.make_stream(0)
    flag = Memory(double, 0, 1)
    double.hold_stream(first)
    report = fastio.Report()
    handle = fastio.start_load(saved, device="cuda:0", stream=first, report=report)
    if by == "handle":
        found = handle.queued(stream=behind)
    else:
        handle.event.wait(behind)
    double.fill(behind, flag.address, 0x11, 1)
    time.sleep(0.1)
    assert double.copies_executed() == 0
    assert flag.bytes() != b"\x11"
    assert not handle.done()
    assert not handle.event.query()
    double.release_stream(first)
    while flag.bytes() != b"\x11":
        time.sleep(0.001)
    if by == "event":
        found = handle.wait()
    _assert_same(found, tensors)
    handle.event.synchronize()
    assert handle.done()
    assert handle.event.query()
    assert handle.queued() is handle.wait() is found
    assert report.tensors == len(tensors)


def test_tensors_with_copies_in_flight_outlive_their_handle(
    double: Double, saved: Path, tensors: dict[str, Any]
) -> None:
    stream = double.make_stream(0)
    double.hold_stream(stream)
    found = fastio.start_load(saved, device="cuda:0", stream=stream).queued()
    gc.collect()
    assert double.copies_pending() > 0
    double.release_stream(stream)
    while double.copies_pending():
        time.sleep(0.001)
    _assert_same(found, tensors)


def test_the_callers_stream_goes_on_behind_the_copies(double: Double, saved: Path) -> None:
    first, other = double.make_stream(0), double.make_stream(0)
    flag = Memory(double, 0, 1)
    double.hold_stream(first)
    handle = fastio.start_load(saved, device="cuda:0", stream=first)
    found = handle.queued(stream=other)
    double.set_delay(20_000, 5)  # a copy is late, a kernel may not be
    double.fill(first, flag.address, 0x11, 1)
    double.release_stream(first)
    while flag.bytes() != b"\x11":
        time.sleep(0.001)
    assert double.copies_pending() == 0
    assert found


def test_no_tensor_is_queued_of_a_load_that_fails(double: Double, saved: Path) -> None:
    flip(saved, -1)
    report = fastio.Report()
    handle = fastio.start_load(saved, device="cuda", report=report)
    for come_so_far in (handle.queued, handle.event.wait, handle.wait, handle.event.synchronize):
        with pytest.raises(fastio.ChecksumError):
            come_so_far()
    assert handle.done()
    assert report.tensors == 0


def test_a_stream_that_nothing_can_be_put_behind(double: Double, saved: Path) -> None:
    handle = fastio.start_load(saved, device_map={"layers": 0, "": 1})
    with pytest.raises(fastio.UsageError, match="this one has 2"):
        handle.queued(stream=double.make_stream(0))
    assert handle.queued() is handle.wait()
    alone = fastio.start_load(saved, device="cuda")
    assert alone.wait()
    double.fail_call("cuStreamWaitEvent", 1, 700)
    with pytest.raises(DeviceError, match="cuStreamWaitEvent"):
        alone.queued()


def test_a_handle_that_is_dropped_leaves_nothing(double: Double, saved: Path) -> None:
    stream = double.make_stream(0)
    double.hold_stream(stream)
    before = double.device_bytes()
    handle = fastio.start_load(saved, device="cuda:0", stream=stream)
    assert double.device_bytes() > before
    double.release_stream(stream)
    del handle
    gc.collect()
    assert double.device_bytes() == before
    assert _native.pinned_account()["leased_bytes"] == 0


def test_memory_outlives_the_copies_in_flight_to_it(double: Double, saved: Path) -> None:
    double.set_delay(100_000, 1)
    asked = fastio.Options(block_bytes=2**18, lanes=1, queue_depth=2)
    handle = fastio.start_load(saved, device="cuda", options=asked)
    while not double.copies_pending():
        time.sleep(0.001)
    del handle
    gc.collect()
    assert double.copies_pending() == 0
    assert double.device_bytes() == 0


def test_pinned_memory_is_bounded_kept_and_given_back(
    double: Double, saved: Path, tensors: dict[str, Any]
) -> None:
    limit = 3 * 2**20
    asked = fastio.Options(pinned_limit_bytes=limit, block_bytes=2**20)
    _assert_same(fastio.load(saved, device="cuda", options=asked), tensors)
    assert 0 < double.pinned_bytes() <= limit
    pinned = double.calls(b"cuMemHostRegister")
    _assert_same(fastio.load(saved, device="cuda", options=asked), tensors)
    assert double.calls(b"cuMemHostRegister") == pinned
    held = double.pinned_bytes()
    assert fastio.trim() == held
    assert double.pinned_bytes() == 0
    assert fastio.trim() == 0


def test_a_load_over_the_limits_fails_before_it_starts(double: Double, saved: Path) -> None:
    for asked in (
        fastio.Options(pinned_limit_bytes=2**16),
        fastio.Options(memory_limit_bytes=2**16),
        fastio.Options(device_memory_limit_bytes=2**20),
    ):
        with pytest.raises(fastio.MemoryLimitError):
            fastio.load(saved, device="cuda", options=asked)
        assert double.copies_executed() == 0
        assert double.device_bytes() == 0


def test_a_device_without_memory_is_an_error_and_no_memory_is_kept(
    double: Double, saved: Path, tensors: dict[str, Any]
) -> None:
    double.set_device_bytes(2**20)
    with pytest.raises(MemoryError, match="cuda:0 has no memory"):
        fastio.load(saved, device="cuda")
    double.set_device_bytes(2**40)
    gc.collect()
    assert double.device_bytes() == 0
    _assert_same(fastio.load(saved, device="cuda"), tensors)


def test_memory_that_cannot_be_registered_is_the_drivers(
    double: Double, saved: Path, tensors: dict[str, Any]
) -> None:
    double.refuse_registration(801)
    _assert_same(fastio.load(saved, device="cuda"), tensors)
    assert double.calls(b"cuMemHostAlloc") > 0
    assert double.pinned_bytes() > 0


@pytest.mark.parametrize("call", ["cuMemcpyHtoDAsync", "cuEventRecord", "cuEventQuery"])
@pytest.mark.parametrize("lost", [False, True])
def test_a_device_that_fails_midway_returns_no_tensor(
    double: Double, saved: Path, tensors: dict[str, Any], call: str, lost: bool
) -> None:
    asked = fastio.Options(block_bytes=2**18, lanes=2)
    double.fail_call(call, 3, 700, lost=lost)
    with pytest.raises(DeviceError, match="CUDA_ERROR_ILLEGAL_ADDRESS") as caught:
        fastio.load(saved, device="cuda", options=asked)
    assert caught.value.device == "cuda:0"
    assert caught.value.code == 700
    del caught
    gc.collect()
    assert double.device_bytes() == 0
    assert _native.pinned_account()["leased_bytes"] == 0
    if lost:  # it no longer unpins anything, and neither does its driver
        fastio.trim()
        double.reset()
    else:
        _assert_same(fastio.load(saved, device="cuda", options=asked), tensors)


def test_ctrl_c_during_a_copy_frees_all_memory(
    double: Double, saved: Path, tensors: dict[str, Any]
) -> None:
    asked = fastio.Options(block_bytes=2**18, lanes=1, queue_depth=2)
    stream = double.default_stream(0)
    double.hold_stream(stream)

    def interrupt() -> None:
        while not double.copies_pending():
            time.sleep(0.001)
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.2)  # the call returns only when the memory is no longer written
        double.release_stream(stream)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        fastio.load(saved, device="cuda", options=asked)
    interrupting.join()
    assert double.copies_pending() == 0
    gc.collect()
    assert double.device_bytes() == 0
    _assert_same(fastio.load(saved, device="cuda", options=asked), tensors)


def test_damage_is_found_before_the_copy(double: Double, saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-100] ^= 1
    saved.write_bytes(data)
    with pytest.raises(fastio.ChecksumError) as caught:
        fastio.load(saved, device="cuda")
    assert caught.value.tensors
    del caught
    gc.collect()
    assert double.device_bytes() == 0


def test_a_file_that_is_cut_short_is_an_error(double: Double, saved: Path) -> None:
    with fastio.open(saved) as reader:
        with saved.open("r+b") as file:
            file.truncate(saved.stat().st_size // 2)
        with pytest.raises(fastio.ReadError):
            reader.load(device="cuda")
    gc.collect()
    assert double.device_bytes() == 0


def test_an_unknown_device_is_refused(double: Double, saved: Path) -> None:
    with pytest.raises(DeviceError, match="no such device"):
        fastio.load(saved, device="cuda:7")


def test_tensors_that_exist_are_filled(
    double: Double, saved: Path, tensors: dict[str, Any], options: fastio.Options
) -> None:
    targets: dict[str, Any] = {
        name: tensor_like(double, tensor, ordinal=len(name) % 2) for name, tensor in tensors.items()
    }
    targets["head.bytes"] = np.zeros_like(tensors["head.bytes"])
    fastio.load_into(saved, targets, options=options)
    _assert_same(targets, tensors)


def test_a_tensor_with_gaps_is_filled_run_by_run(double: Double, tmp_path: Path) -> None:
    rows = np.arange(40 * 30, dtype=np.float32).reshape(40, 30)
    path = tmp_path / "rows"
    fastio.save({"rows": rows}, path)
    wide = tensor_like(double, np.zeros((40, 64), np.float32))
    part = OnDouble(double, 0, wide.owner, wide.address, "F32", (40, 30), (256, 4))
    fastio.load_into(path, {"rows": part})
    held = wide.numpy()
    assert held[:, :30].tobytes() == rows.tobytes()
    assert (held[:, 30:].view(np.uint8) == 0xDB).all()


def test_a_stream_of_tensors_holds_a_window_of_the_device(
    double: Double, saved: Path, tensors: dict[str, Any]
) -> None:
    seen = {}
    window = 2**20
    largest = max(tensor.nbytes for tensor in tensors.values())
    with fastio.open(saved) as reader:
        for name, tensor in reader.stream(device="cuda:1", memory_limit_bytes=window):
            assert double.device_bytes() <= 2 * largest + window
            seen[name] = tensor.numpy()
            del tensor
        assert list(seen) == list(reader)
    _assert_same(seen, tensors)


def test_a_stream_comes_as_far_as_the_damage(double: Double, saved: Path) -> None:
    seen: list[str] = []

    def take() -> None:
        for name, _ in reader.stream(device="cuda"):
            seen.append(name)

    with fastio.open(saved) as reader:
        names = list(reader)
        damaged = reader.info("head.bytes")
        with saved.open("r+b") as file:
            file.seek(damaged.offset + damaged.nbytes - 1)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([last ^ 1]))
        with pytest.raises(fastio.ChecksumError) as caught:
            take()
    assert "head.bytes" in caught.value.tensors
    assert seen == names[: names.index("head.bytes")]
    assert len(seen) > 5
    del caught
    gc.collect()


def _store_with_a_bad_replica(tensors: dict[str, Any], folder: Path) -> fastio.Store:
    store = fastio.Store.create([folder / "a", folder / "b"], shard_bytes=2**20)
    store.save(tensors)
    for shard in (folder / "a/shards").iterdir():
        flip(shard, -1)
    return store


def test_a_handle_of_a_store_outlives_it_and_repairs(
    double: Double, tensors: dict[str, Any], tmp_path: Path
) -> None:
    stream = double.make_stream(0)
    double.hold_stream(stream)
    report = fastio.Report()
    with _store_with_a_bad_replica(tensors, tmp_path) as store:
        handle = store.start_load(device="cuda", stream=stream, on_damage="repair", report=report)
    assert not handle.done()
    double.release_stream(stream)
    _assert_same(handle.wait(), tensors)
    assert report.fallbacks
    # The bad shards among those that were read.
    assert any(
        shard.read_bytes() == (tmp_path / "b/shards" / shard.name).read_bytes()
        for shard in (tmp_path / "a/shards").iterdir()
    )


def test_a_store_with_a_bad_replica_loads_to_a_device(
    double: Double, tensors: dict[str, Any], tmp_path: Path
) -> None:
    _store_with_a_bad_replica(tensors, tmp_path).close()
    report = fastio.Report()
    with fastio.Store.open(tmp_path / "b") as opened:
        _assert_same(opened.load(device="cuda", report=report), tensors)
        _assert_same(dict(opened.stream(device="cuda:1")), tensors)
    assert report.fallbacks
    _assert_same(fastio.load(tmp_path / "b", device_map={"": 1, "layers": 0}), tensors)


def test_a_cold_file_is_read_past_the_cache(
    double: Double, saved: Path, tensors: dict[str, Any], options: fastio.Options
) -> None:
    evict(saved)
    report = fastio.Report()
    _assert_same(
        fastio.load(saved, device="cuda", options=options, report=report),
        tensors,
    )
    assert report.nbytes == sum(tensor.nbytes for tensor in tensors.values())


def test_two_threads_load_to_two_devices(
    double: Double, saved: Path, tensors: dict[str, Any]
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    asked = fastio.Options(pinned_limit_bytes=2**21, block_bytes=2**19)

    def load(at: int) -> Any:
        return fastio.load(saved, device=f"cuda:{at % 2}", options=asked)

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(load, range(8)):
            _assert_same(found, tensors)
    assert double.pinned_bytes() <= 2**21


def test_numpy_refuses_devices(saved: Path) -> None:
    with pytest.raises(fastio.UsageError, match="numpy has its arrays on the CPU"):
        fastio.load(saved, device="cuda")
    with pytest.raises(fastio.UsageError, match="stream="):
        fastio.load(saved, stream=3)


def test_torch_without_a_device_says_so(saved: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has an accelerator")
    built = "without CUDA" if torch.version.cuda is None else "with CUDA, but finds no"
    with pytest.raises(RuntimeError, match=f"torch has no CUDA here: .* is built {built}"):
        fastio.load(saved, framework="torch", device="cuda")
    with pytest.raises(fastio.UsageError, match="a tensor there has no values"):
        fastio.load(saved, framework="torch", device="meta")
    with pytest.raises(fastio.UsageError, match="stream= is for CUDA"):
        fastio.load(saved, framework="torch", stream=3)
    for number in (0, 3):
        with pytest.raises(RuntimeError, match=f"device={number}: torch has no accelerator here"):
            fastio.load(saved, framework="torch", device=number)
    with pytest.raises(RuntimeError, match="device='xpu': torch has no such device here"):
        fastio.load(saved, framework="torch", device="xpu")


def test_an_accelerator_that_is_not_cuda_is_refused(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    with pytest.raises(fastio.UsageError, match="load to the CPU, then move"):
        fastio.load(saved, framework="torch", device="xpu")
    with pytest.raises(fastio.UsageError, match="load to the CPU, then move"):
        fastio.load(saved, framework="torch", device_map={"": "xpu"})
    with (
        fastio.open(saved, framework="torch") as reader,
        pytest.raises(fastio.UsageError, match="load to the CPU, then move"),
    ):
        reader.load(device="xpu")


def test_a_stream_is_an_object_that_says_so_or_a_handle() -> None:
    pytest.importorskip("torch")
    from fastio.frameworks.torch_devices import _stream_handle

    class Says:
        def __init__(self, said: object) -> None:
            self.said = said

        def __cuda_stream__(self) -> object:
            return self.said

    assert _stream_handle(Says((0, 5))) == _stream_handle(np.int64(5)) == _stream_handle(5) == 5
    for stream in (Says((0, "x")), Says(5), Says((0, -1)), -1, True, "7", 1.5, object()):
        with pytest.raises(fastio.UsageError, match="expected an object with __cuda_stream__"):
            _stream_handle(stream)
