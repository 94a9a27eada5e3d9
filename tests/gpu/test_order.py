"""A load is ordered behind the caller's stream: memory in use by queued kernels stays intact."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import fastio
from gpu.samples import MIB, assert_same, data_of, on_cpu, on_gpu
from samples import write

pytestmark = pytest.mark.gpu

# A load asks for one byte more: so its size is that of the memory just returned to the allocator.
_NBYTES = 64 * MIB - 1
_CYCLES = 1_500_000_000  # the better part of a second, at the clocks that GPUs have


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tensor: loaded, it is one range, just returned to the allocator."""
    made = tmp_path_factory.mktemp("order") / "model.safetensors"
    write(made, {"t": ("U8", (_NBYTES,))})
    fastio.seal(made)
    return made


def _copied_late(pattern: int) -> tuple[torch.Tensor, int]:
    """Freed memory, and a copy of it that is still queued on the current stream."""
    used = torch.full((_NBYTES,), pattern, dtype=torch.uint8, device="cuda:0")
    copy = torch.empty_like(used)
    torch.cuda._sleep(_CYCLES)
    copy.copy_(used)
    return copy, used.data_ptr()


def _assert_behind(copy: torch.Tensor, address: int, found: dict[str, torch.Tensor]) -> None:
    assert found["t"].data_ptr() == address, "the allocator had other memory: this shows nothing"
    torch.cuda.synchronize()
    assert bool((copy == 0x5A).all())


def test_memory_that_the_current_stream_still_reads_is_not_overwritten(path: Path) -> None:
    copy, address = _copied_late(0x5A)
    found = on_gpu(path)
    _assert_behind(copy, address, found)
    assert_same(found, on_cpu(path))


def test_the_current_stream_need_not_be_the_default_one(path: Path) -> None:
    with torch.cuda.stream(torch.cuda.Stream()):
        copy, address = _copied_late(0x5A)
        found = on_gpu(path)
        same = torch.equal(data_of(found["t"]), data_of(on_cpu(path)["t"]).cuda())
    assert same
    _assert_behind(copy, address, found)


class _Foreign:
    """A stream of another library."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._stream.cuda_stream


@pytest.mark.parametrize(
    "named", [lambda stream: stream, lambda stream: stream.cuda_stream, _Foreign]
)
def test_a_stream_that_is_given_comes_first(path: Path, named: Callable[[Any], Any]) -> None:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        copy, address = _copied_late(0x5A)
    found = on_gpu(path, stream=named(stream))
    _assert_behind(copy, address, found)
    assert_same(found, on_cpu(path))


@pytest.mark.parametrize("handle", [0, 1])
def test_the_default_stream_can_be_given_by_its_handles(path: Path, handle: int) -> None:
    copy, address = _copied_late(0x5A)
    found = on_gpu(path, stream=handle)
    _assert_behind(copy, address, found)
    assert_same(found, on_cpu(path))


def test_a_given_stream_takes_no_memory_that_another_still_reads(path: Path) -> None:
    copy, _ = _copied_late(0x5A)  # on the current stream, which the load does not wait for
    found = on_gpu(path, stream=torch.cuda.Stream())
    assert_same(found, on_cpu(path))
    torch.cuda.synchronize()
    assert bool((copy == 0x5A).all())


def test_a_load_goes_on_alone_behind_a_busy_stream(path: Path) -> None:
    copy, address = _copied_late(0x5A)
    handle = fastio.start_load(path, framework="torch", device="cuda:0")
    assert not handle.done()
    found = handle.wait()
    # Right after, on the caller's stream, without a synchronization.
    total = found["t"].sum(dtype=torch.int64)
    assert handle.done()
    assert handle.wait() is found
    assert int(total) == int(on_cpu(path)["t"].sum(dtype=torch.int64))
    _assert_behind(copy, address, found)
    assert_same(found, on_cpu(path))


def test_work_enqueued_behind_the_copies_needs_no_host_wait(path: Path) -> None:
    copy, address = _copied_late(0x5A)
    handle = fastio.start_load(path, framework="torch", device="cuda:0")
    other = torch.cuda.Stream()
    other.wait_event(handle.event)  # type: ignore[arg-type]
    found = handle.queued()
    assert not handle.done()
    with torch.cuda.stream(other):
        total = int(found["t"].sum(dtype=torch.int64))  # read on this stream, too
    assert total == int(on_cpu(path)["t"].sum(dtype=torch.int64))
    assert handle.wait() is found
    _assert_behind(copy, address, found)
    assert_same(found, on_cpu(path))


def test_a_handle_that_is_dropped_leaves_nothing(path: Path) -> None:
    before = torch.cuda.memory_allocated()
    torch.cuda._sleep(_CYCLES)
    handle = fastio.start_load(path, framework="torch", device="cuda:0")
    assert torch.cuda.memory_allocated() > before
    del handle
    gc.collect()
    assert torch.cuda.memory_allocated() == before
    assert_same(on_gpu(path), on_cpu(path))


def test_load_into_runs_after_earlier_work_of_the_stream(path: Path) -> None:
    target = torch.empty(_NBYTES, dtype=torch.uint8, device="cuda:0")
    torch.cuda._sleep(_CYCLES)
    target.fill_(0xA5)
    fastio.load_into(path, {"t": target})
    doubled = target.to(torch.int16) * 2  # right after, on the caller's stream
    expected = on_cpu(path)
    assert_same({"t": target}, expected)
    assert torch.equal(doubled.cpu(), expected["t"].to(torch.int16) * 2)


def test_threads_load_at_once_each_on_its_stream(path: Path, sealed: Path) -> None:
    expected = [on_cpu(path), on_cpu(sealed)]
    asked = fastio.Options(pinned_limit_bytes=48 * MIB)

    def load(at: int) -> tuple[int, dict[str, torch.Tensor]]:
        with torch.cuda.stream(torch.cuda.Stream()):
            found = on_gpu((path, sealed)[at % 2], options=asked)
            torch.cuda.current_stream().synchronize()
        return at, found

    with ThreadPoolExecutor(2) as pool:
        for at, found in pool.map(load, range(12)):
            assert_same(found, expected[at % 2])
            del found
