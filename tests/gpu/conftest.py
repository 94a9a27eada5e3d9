"""Each test here begins and ends with a device that holds no memory of another test."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import fastio
from fastio import _native
from gpu.samples import MODEL
from samples import eventually, write


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    yield
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert eventually(lambda: _native.pinned_account()["leased_bytes"] == 0)
    assert torch.cuda.memory_allocated() == before


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed file of about 13 MB in the shapes of `MODEL`; read-only."""
    path = write(tmp_path_factory.mktemp("sealed") / "model.safetensors", MODEL)
    fastio.seal(path)
    return path


@pytest.fixture(params=["uring", "pread"])
def options(request: pytest.FixtureRequest) -> fastio.Options:
    """Each engine in turn."""
    engines = fastio.engine_report().engines
    if not engines[request.param].available:
        pytest.skip(engines[request.param].reason)
    return fastio.Options(engine=request.param)
