"""A load takes its tensors' bytes of the device and no more; a failed load frees all."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import fastio
from fastio import _native
from gpu.samples import MIB, ROUNDING_BYTES, assert_same, data_of, nbytes_of, on_cpu, on_gpu
from samples import data_start, flip, write

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed file of 120 tensors of 4 MiB."""
    path = tmp_path_factory.mktemp("many") / "model.safetensors"
    write(path, {f"t{at:03}": ("BF16", (1024, 2048)) for at in range(120)})
    fastio.seal(path)
    return path


class _Peak:
    """The peak of torch's allocator above its previous level."""

    nbytes = 0


@contextmanager
def _peak() -> Iterator[_Peak]:
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before, found = torch.cuda.memory_allocated(), _Peak()
    yield found
    found.nbytes = torch.cuda.max_memory_allocated() - before


def test_a_load_takes_one_percent_beside_its_tensors(many: Path) -> None:
    with _peak() as peak:
        found = on_gpu(many)
    assert peak.nbytes <= 1.01 * nbytes_of(found)
    held = torch.cuda.memory_allocated()
    found.clear()
    gc.collect()
    assert torch.cuda.memory_allocated() < held


def test_parameters_are_filled_where_they_are(tmp_path: Path) -> None:
    made = torch.nn.Sequential(*(torch.nn.Linear(1500, 3001) for _ in range(20)))
    path = tmp_path / "model.safetensors"
    fastio.save(dict(made.state_dict()), path)
    model = torch.nn.Sequential(*(torch.nn.Linear(1500, 3001) for _ in range(20))).cuda()
    targets = dict(model.named_parameters())
    addresses = [tensor.data_ptr() for tensor in targets.values()]
    with _peak() as peak:
        fastio.load_into(path, targets)
    assert peak.nbytes <= 0.01 * nbytes_of(targets)
    assert [tensor.data_ptr() for tensor in targets.values()] == addresses
    assert_same(targets, on_cpu(path))
    assert all(tensor.requires_grad for tensor in targets.values())


def test_tensors_with_gaps_are_filled_and_nothing_between_them(
    tmp_path: Path, options: fastio.Options
) -> None:
    path = write(
        tmp_path / "model",
        {
            "columns": ("F32", (401, 300)),
            "transposed": ("BF16", (513, 777)),
            "channels": ("F16", (5, 7, 31, 33)),
            "step": ("U8", (100_001,)),
            "host": ("F32", (300,)),
        },
    )
    wide = torch.full((401, 640), -1.0, device="cuda:0")
    stepped = torch.full((300_003,), 0xA5, dtype=torch.uint8, device="cuda:0")
    channels = torch.empty((5, 7, 31, 33), dtype=torch.float16, device="cuda:0")
    targets = {
        "columns": wide[:, 5:305],
        "transposed": torch.empty((777, 513), dtype=torch.bfloat16, device="cuda:0").T,
        "channels": channels.to(memory_format=torch.channels_last),
        "step": stepped[::3],
        "host": torch.empty(300),
    }
    with _peak() as peak:
        fastio.load_into(path, targets, options=options)
    assert peak.nbytes <= 0.01 * nbytes_of(targets)
    expected = on_cpu(path)
    for name, tensor in targets.items():
        assert torch.equal(data_of(tensor.contiguous()).cpu(), data_of(expected[name])), name
    assert bool((wide[:, :5] == -1).all())
    assert bool((wide[:, 305:] == -1).all())
    assert bool((stepped[1::3] == 0xA5).all())
    assert bool((stepped[2::3] == 0xA5).all())


def test_a_stream_stays_within_its_window(many: Path) -> None:
    window = 96 * MIB
    expected = on_cpu(many)
    with fastio.open(many, framework="torch") as reader, _peak() as peak:
        names = []
        for name, tensor in reader.stream(device="cuda:0", memory_limit_bytes=window):
            same = torch.equal(data_of(tensor).cpu(), data_of(expected[name]))
            assert same, name
            names.append(name)
            del tensor
        assert names == list(reader)
    assert peak.nbytes <= window + 3 * ROUNDING_BYTES
    gc.collect()


def test_an_abandoned_stream_frees_its_memory(many: Path) -> None:
    before = torch.cuda.memory_allocated()
    with fastio.open(many, framework="torch") as reader:
        stream = reader.stream(device="cuda:0", memory_limit_bytes=96 * MIB)
        next(stream)
        del stream
    gc.collect()
    assert torch.cuda.memory_allocated() == before


def test_damaged_files_are_refused_and_no_memory_is_kept(many: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(many.read_bytes())
    flip(path, data_start(path) + 300 * MIB)
    before = torch.cuda.memory_allocated()
    with pytest.raises(fastio.ChecksumError) as caught:
        on_gpu(path)
    assert caught.value.tensors
    del caught
    gc.collect()
    assert torch.cuda.memory_allocated() == before
    handle = fastio.start_load(path, framework="torch", device="cuda:0")
    with pytest.raises(fastio.ChecksumError):
        handle.wait()
    del handle
    assert_same(on_gpu(many), on_cpu(many))


def test_a_store_with_a_damaged_replica(many: Path, tmp_path: Path) -> None:
    expected = on_cpu(many)
    store = fastio.Store.create([tmp_path / "a", tmp_path / "b"], shard_bytes=64 * MIB)
    store.save(expected)
    for shard in (tmp_path / "a/shards").iterdir():
        flip(shard, shard.stat().st_size - 1)
    report = fastio.Report()
    with fastio.Store.open(tmp_path / "b") as opened:
        found = opened.load(framework="torch", device="cuda:0", report=report)
    assert_same(found, expected)
    assert report.fallbacks


def test_a_device_without_memory_is_a_memory_error_and_the_next_load_works(many: Path) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    before = torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 64 * MIB) / total, 0)
    try:
        with pytest.raises(MemoryError, match="cuda:0 has no memory") as caught:
            on_gpu(many)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
    del caught
    gc.collect()
    assert torch.cuda.memory_allocated() == before
    assert_same(on_gpu(many), on_cpu(many))


def test_a_limit_on_the_device_refuses_before_anything_is_allocated(many: Path) -> None:
    with _peak() as peak, pytest.raises(fastio.MemoryLimitError):
        on_gpu(many, options=fastio.Options(device_memory_limit_bytes=479 * MIB))
    assert peak.nbytes < MIB
    assert_same(
        on_gpu(many, options=fastio.Options(device_memory_limit_bytes=481 * MIB)), on_cpu(many)
    )


@pytest.mark.parametrize("budget", [24 * MIB, 200 * MIB])
def test_pinned_memory_is_bounded_kept_and_given_back(many: Path, budget: int) -> None:
    fastio.trim()
    assert _native.pinned_account()["nbytes"] == 0
    # Eight blocks: one growth step of the pool holds them.
    asked = fastio.Options(pinned_limit_bytes=budget, block_bytes=4 * MIB, lanes=2, queue_depth=4)
    expected = on_cpu(many)
    assert_same(on_gpu(many, options=asked), expected)
    first = _native.pinned_account()
    assert 0 < first["nbytes"] <= budget
    assert first["unpinned_bytes"] == 0, first["refusal"]
    assert first["leased_bytes"] == 0
    assert_same(on_gpu(many, options=asked), expected)
    second = _native.pinned_account()
    assert second["nbytes"] <= budget
    if budget >= 64 * MIB:  # all lanes have their memory: no more is pinned
        assert (second["nbytes"], second["seconds"]) == (first["nbytes"], first["seconds"])
    assert fastio.trim() == second["nbytes"]
    assert _native.pinned_account()["nbytes"] == 0
    assert fastio.trim() == 0
