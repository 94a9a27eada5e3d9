"""Loads to devices run on the double of the CUDA driver; no measurement on it is a result."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fastio
from fastio import frameworks
from testbed.double import Double, OnDouble, Stand, build, watched


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Double]:
    path = build(tmp_path_factory.mktemp("double"))
    before = os.environ.get("FASTIO_CUDA_LIBRARY")
    os.environ["FASTIO_CUDA_LIBRARY"] = os.fspath(path)
    yield Double(path)
    if before is None:
        del os.environ["FASTIO_CUDA_LIBRARY"]


@pytest.fixture
def double(library: Double, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    stand = Stand(library)
    named = frameworks._module
    monkeypatch.setattr(
        frameworks, "_module", lambda name: stand if name == "numpy" else named(name)
    )
    monkeypatch.setattr(frameworks, "_of_classes", {OnDouble: stand})
    with watched(library):
        yield library
        gc.collect()


@pytest.fixture(params=["uring", "pread"])
def options(request: pytest.FixtureRequest) -> fastio.Options:
    engines = fastio.engine_report().engines
    if not engines[request.param].available:
        pytest.skip(engines[request.param].reason)
    return fastio.Options(engine=request.param)


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    made: dict[str, np.ndarray] = {
        f"layers.{at}.weight": random.standard_normal((64, 1 + 257 * at)).astype(np.float32)
        for at in range(6)
    }
    made["head.bytes"] = random.integers(0, 256, 3_000_001, np.uint8)
    made["head.flags"] = random.integers(0, 2, 77).astype(bool)
    made["head.wide"] = random.standard_normal(333).astype(np.complex64)
    made["empty"] = np.empty((0, 5), np.int16)
    made["scalar"] = np.float64(1.5)[...]
    return made


@pytest.fixture
def saved(tensors: dict[str, np.ndarray], tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    fastio.save(tensors, path)
    return path
