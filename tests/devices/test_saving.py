"""Tensors on devices are saved like those on the host, without a second copy of the model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
from fastio import _native
from fastio.errors import DeviceError
from testbed.double import Double, tensor_of


@pytest.fixture
def there(double: Double, tensors: dict[str, Any]) -> dict[str, Any]:
    """On two devices, and some on the host."""
    return {
        name: tensor if at % 3 == 2 else tensor_of(double, tensor, at % 3)
        for at, (name, tensor) in enumerate(tensors.items())
    }


def _assert_saved(path: Path, tensors: dict[str, Any]) -> None:
    found = fastio.load(path, verify="require")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].tobytes() == tensor.tobytes(), name
        assert found[name].shape == tensor.shape, name


def test_the_file_is_that_of_tensors_on_the_host(
    there: dict[str, Any], tensors: dict[str, Any], tmp_path: Path, options: fastio.Options
) -> None:
    fastio.save(there, tmp_path / "there", options=options)
    fastio.save(tensors, tmp_path / "here", options=options)
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()


def test_pinned_memory_is_bounded(
    double: Double, there: dict[str, Any], tensors: dict[str, Any], tmp_path: Path
) -> None:
    limit = 2 * 2**20
    asked = fastio.Options(pinned_limit_bytes=limit)
    fastio.save(there, tmp_path / "model", options=asked, chunk_bytes=2**16)
    assert 0 < double.pinned_bytes() <= limit
    _assert_saved(tmp_path / "model", tensors)
    with pytest.raises(fastio.MemoryLimitError):
        fastio.save(there, tmp_path / "other", options=fastio.Options(pinned_limit_bytes=2**15))
    assert not (tmp_path / "other").exists()


def test_work_on_the_callers_stream_comes_first(double: Double, tmp_path: Path) -> None:
    tensor = tensor_of(double, np.zeros(100_000, np.uint8))
    stream = double.default_stream(0)
    double.hold_stream(stream)
    double.fill(stream, tensor.address, 7, 100_000)
    handle = fastio.start_save({"a": tensor}, tmp_path / "model", snapshot="borrow")
    time.sleep(0.2)
    assert double.bytes_out() == 0
    double.release_stream(stream)
    handle.result()
    assert (fastio.load(tmp_path / "model")["a"] == 7).all()


def test_tensors_are_copied_before_the_save_goes_on(
    double: Double, there: dict[str, Any], tensors: dict[str, Any], tmp_path: Path
) -> None:
    handle = fastio.start_save(there, tmp_path / "model", snapshot="copy")
    for tensor in there.values():
        if not isinstance(tensor, np.ndarray) and tensor.owner is not None:
            double.write(tensor.address, bytes(tensor.numpy().nbytes), tensor.numpy().nbytes)
    handle.result()
    device = {n: t for n, t in tensors.items() if not isinstance(there[n], np.ndarray)}
    found = fastio.load(tmp_path / "model")
    for name, tensor in device.items():
        assert found[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize("call", ["cuMemcpyDtoHAsync", "cuStreamSynchronize"])
def test_a_device_that_fails_leaves_the_old_file(
    double: Double, there: dict[str, Any], tensors: dict[str, Any], tmp_path: Path, call: str
) -> None:
    path = tmp_path / "model"
    fastio.save({"old": np.arange(10)}, path)
    before = path.read_bytes()
    double.fail_call(call, 2, 719)
    with pytest.raises(DeviceError, match="CUDA_ERROR_LAUNCH_FAILED") as caught:
        fastio.save(there, path)
    del caught
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert _native.pinned_account()["leased_bytes"] == 0
    fastio.save(there, path)
    _assert_saved(path, tensors)


def test_a_store_takes_tensors_from_devices(
    double: Double, there: dict[str, Any], tensors: dict[str, Any], tmp_path: Path
) -> None:
    roots = [tmp_path / "a", tmp_path / "b"]
    with fastio.Store.create(roots, shard_bytes=2**18, chunk_bytes=2**16) as store:
        store.save(there)
        found = store.load(verify="require")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].tobytes() == tensor.tobytes(), name
