"""Single steps of a load: plan, checksum, header parse, one block. `make micro` runs them.

They warn of a step that became slower. `python -m bench load` measures whole loads. Each benchmark
checks its answer once, outside the clock.
"""

import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.measure import cache, models
from fastio import Options, _native
from fastio.formats import safetensors

MIB = 2**20
BLOCK_BYTES = 4 * MIB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("micro")


@pytest.mark.parametrize("nbytes", [64 * 1024, MIB, 64 * MIB], ids=["64KiB", "1MiB", "64MiB"])
def test_checksum(benchmark: BenchmarkFixture, nbytes: int) -> None:
    data = np.concatenate([block.copy() for block in models.blocks("BF16", nbytes, seed=1)])
    chunk_bytes = min(nbytes, MIB)
    benchmark.extra_info["bytes"] = nbytes
    digests = benchmark(_native.ALGORITHMS["xxh3_64"].digests, data, chunk_bytes)
    first = _native.xxh3_64(data[:chunk_bytes].tobytes())
    assert len(digests) == 8 * (nbytes // chunk_bytes)
    assert digests[:8] == first.to_bytes(8, "little")


@pytest.mark.parametrize("count", [146, 100_000])
def test_plan(benchmark: BenchmarkFixture, count: int) -> None:
    start, nbytes = 4096, 409_600_000
    edges = start + np.linspace(0, nbytes, count + 1).astype(np.int64)
    regions, blocks = benchmark(
        _native.testing.plan,
        edges[:-1],
        edges[1:],
        start + nbytes,
        grid=(start, MIB),
        alignment=4096,
        block_bytes=BLOCK_BYTES,
        region_bytes=256 * MIB,
    )
    covered = np.zeros(-(-(start + nbytes) // 4096), dtype=bool)
    for _, begin, end in blocks:
        covered[begin // 4096 : -(-end // 4096)] = True
    assert covered[1:].all()
    assert sum(last - first for _, _, first, last in regions) in {count, count - len(regions)}


@pytest.mark.parametrize("name", ["small", "many"])
def test_header_parse(benchmark: BenchmarkFixture, folder: Path, name: str) -> None:
    path = models.make(name, folder)
    file = _native.File(path)
    shard = benchmark(safetensors.locate, file)
    _, tensors = models.MADE[name]
    assert shard.names == [tensor.name for tensor in tensors()]


@pytest.mark.parametrize("state", ["warm", "cold"])
@pytest.mark.parametrize("engine", ["uring", "pread"])
def test_one_block(
    benchmark: BenchmarkFixture, folder: Path, engine: Literal["uring", "pread"], state: str
) -> None:
    if not _native.engine_statuses()[engine]["available"]:
        pytest.skip(f"the engine {engine} is not available here")
    path = folder / "block"
    content = os.urandom(BLOCK_BYTES)
    path.write_bytes(content)
    file = _native.File(path)
    begins, ends = np.array([0], dtype=np.int64), np.array([BLOCK_BYTES], dtype=np.int64)

    options = Options(
        engine=engine,
        cache="bypass" if state == "cold" else "keep",
        mapping="never",
        block_bytes=BLOCK_BYTES,
        lanes=1,
    )

    def prepare() -> None:
        if state == "cold":
            cache.evict(path)
        else:
            cache.populate(path)

    def read() -> _native.Loaded:
        return _native.load([([file], begins, ends, None, False)], options)

    benchmark.extra_info["bytes"] = BLOCK_BYTES
    loaded = benchmark.pedantic(  # type: ignore[no-untyped-call]
        read, setup=prepare, rounds=30, warmup_rounds=2
    )
    (array,) = loaded.numpy(0, [np.dtype(np.uint8)], [(BLOCK_BYTES,)])
    assert array.tobytes() == content
