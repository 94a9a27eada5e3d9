"""A load into host memory that start_load began runs beside its caller, with the same result."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastio
from samples import CHUNK_BYTES, expected_bytes, flip, same_bytes, write_model
from testbed import run_python


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    return fastio.seal(write_model(tmp_path / "model"))


@pytest.mark.parametrize("cache", ["bypass", "keep"])
@pytest.mark.parametrize("engine", ["uring", "pread"])
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_a_started_load_brings_the_same_tensors_as_load(
    sealed: Path, framework: Any, engine: Any, cache: Any
) -> None:
    report = fastio.Report()
    options = fastio.Options(engine=engine, cache=cache, mapping="never")
    handle = fastio.start_load(sealed, framework=framework, options=options, report=report)
    tensors = handle.wait()
    assert handle.done()
    assert handle.wait() is tensors
    assert list(tensors) == list(fastio.load(sealed))
    assert same_bytes(tensors, expected_bytes(sealed))
    assert (report.tensors, report.files, report.unverified) == (len(tensors), 1, ())
    assert report.chunks_verified > 0
    assert report.engine == engine


def test_names_come_in_the_order_in_which_they_were_asked_for(sealed: Path) -> None:
    handle = fastio.start_load(sealed, names=["mask", "embed.weight"])
    assert list(handle.queued()) == ["mask", "embed.weight"]


def test_memory_is_congruent_to_the_file(sealed: Path) -> None:
    """So that O_DIRECT reads straight into it."""
    tensors = fastio.start_load(sealed).wait()
    with fastio.open(sealed) as reader:
        offsets = {name: view.info.offset for name, view in reader.items() if view.nbytes > 2**16}
    assert len(offsets) == 4
    for name, offset in offsets.items():
        assert (tensors[name].ctypes.data - offset) % 4096 == 0, name


def test_damage_is_raised_by_wait(sealed: Path) -> None:
    flip(sealed, os.path.getsize(sealed) - 5)
    report = fastio.Report()
    handle = fastio.start_load(sealed, report=report, options=fastio.Options(mapping="never"))
    with pytest.raises(fastio.ChecksumError) as caught:
        handle.wait()
    assert caught.value.path == os.fspath(sealed)
    assert caught.value.tensors == ("head.weight",)
    assert report.tensors == 0


def test_bad_arguments_are_refused_at_the_call(sealed: Path) -> None:
    with pytest.raises(fastio.TensorNotFoundError):
        fastio.start_load(sealed, names=["nothing"])
    with pytest.raises(FileNotFoundError):
        fastio.start_load(sealed.with_name("nowhere"))
    with pytest.raises(fastio.MemoryLimitError):
        fastio.start_load(sealed, options=fastio.Options(memory_limit_bytes=CHUNK_BYTES))


def test_a_handle_that_is_dropped_cancels_its_load(
    sealed: Path, faults: Callable[..., None]
) -> None:
    faults((1, "never", 0))
    options = fastio.Options(cache="bypass", lanes=1, queue_depth=1, block_bytes=CHUNK_BYTES)
    handle = fastio.start_load(sealed, options=options)
    time.sleep(0.05)
    assert not handle.done()
    before = time.monotonic()
    del handle
    gc.collect()
    assert time.monotonic() - before < 30
    faults()


def test_the_interpreter_ends_without_it(sealed: Path) -> None:
    code = """
import sys, fastio
handle = fastio.start_load(sys.argv[1])
"""
    assert run_python(code, sealed).check().stderr == ""


def test_a_store_starts_a_load(tmp_path: Path, sealed: Path) -> None:
    tensors = fastio.load(sealed)
    with fastio.Store.create([tmp_path / "root0", tmp_path / "root1"]) as store:
        store.save(tensors)
        handle = store.start_load(names=["mask"])
    assert handle.wait()["mask"].tobytes() == tensors["mask"].tobytes()
