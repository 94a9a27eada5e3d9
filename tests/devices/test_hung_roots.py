"""Loads to devices do not wait for a root that hangs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import fastio
import testbed
from fastio import _native
from samples import eventually
from testbed.double import Double, OnDouble

_EVERY = [(at, "never", 0) for at in range(10_000)]


@pytest.fixture
def store(tensors: dict[str, Any], tmp_path: Path, tmpfs: testbed.Mount) -> Iterator[fastio.Store]:
    """On two disks, each with a replica of everything."""
    with tempfile.TemporaryDirectory(dir=tmpfs.path) as other:
        roots = [tmp_path / "root0", Path(other) / "root1"]
        with fastio.Store.create(roots, replicas=2, shard_bytes=2**20, chunk_bytes=2**16) as made:
            made.save(tensors)
            yield made


@pytest.fixture
def impatient(options: fastio.Options) -> fastio.Options:
    return fastio.Options(
        engine=options.engine, cache="bypass", block_bytes=2**16, root_timeout_s=1.5
    )


def _assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        held = found[name].numpy() if isinstance(found[name], OnDouble) else found[name]
        assert held.tobytes() == tensor.tobytes(), name


def _now(store: fastio.Store, options: fastio.Options) -> dict[str, Any]:
    return store.load(device="cuda:0", options=options)


def _later(store: fastio.Store, options: fastio.Options) -> dict[str, Any]:
    return store.start_load(device="cuda:0", options=options).wait()


def _queued(store: fastio.Store, options: fastio.Options) -> dict[str, Any]:
    handle = store.start_load(device="cuda:0", options=options)
    tensors = handle.queued()
    handle.wait()  # until the copies are done: the host checks them
    return tensors


def _unattended(store: fastio.Store, options: fastio.Options) -> dict[str, Any]:
    """No call waits for it while the disk hangs; the test asks `done` only."""
    handle = store.start_load(device="cuda:0", options=options)
    assert eventually(handle.done)
    return handle.wait()


def _spread(store: fastio.Store, options: fastio.Options) -> dict[str, Any]:
    return store.load(device_map={"layers": "cuda:0", "head": "cuda:1", "": "cpu"}, options=options)


def _stream(store: fastio.Store, options: fastio.Options) -> dict[str, Any]:
    return dict(store.stream(device="cuda:0", options=options, memory_limit_bytes=2**20))


_WAYS = {
    "now": _now,
    "later": _later,
    "queued": _queued,
    "unattended": _unattended,
    "spread": _spread,
    "stream": _stream,
}


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("nth", [0, 7])
def test_blocks_of_a_hung_disk_are_read_from_another_root(
    double: Double,
    store: fastio.Store,
    tensors: dict[str, Any],
    impatient: fastio.Options,
    faults: Callable[..., None],
    way: str,
    nth: int,
) -> None:
    leased = _native.pinned_account()["leased_bytes"]
    faults((nth, "never", 0))
    _assert_same(_WAYS[way](store, impatient), tensors)
    # Its pinned memory stays out of the pool until the read returns.
    assert _native.pinned_account()["leased_bytes"] > leased
    _native.testing.release_held_completions()
    assert eventually(lambda: _native.pinned_account()["leased_bytes"] == leased)


@pytest.mark.parametrize("way", _WAYS)
def test_a_late_read_is_answered_by_another_root(
    double: Double,
    store: fastio.Store,
    tensors: dict[str, Any],
    options: fastio.Options,
    faults: Callable[..., None],
    way: str,
) -> None:
    """With `Options.hedge_after_s`, also where no disk ever counts as hanging."""
    leased = _native.pinned_account()["leased_bytes"]
    hedging = fastio.Options(
        engine=options.engine,
        cache="bypass",
        block_bytes=2**16,
        root_timeout_s="inf",
        hedge_after_s=0.02,
    )
    faults((3, "never", 0))
    _assert_same(_WAYS[way](store, hedging), tensors)
    assert _native.pinned_account()["leased_bytes"] > leased
    _native.testing.release_held_completions()
    assert eventually(lambda: _native.pinned_account()["leased_bytes"] == leased)


@pytest.mark.parametrize("way", _WAYS)
def test_if_every_disk_hangs_each_replica_is_named(
    double: Double,
    store: fastio.Store,
    impatient: fastio.Options,
    faults: Callable[..., None],
    way: str,
) -> None:
    faults(*_EVERY)
    with pytest.raises(fastio.ReplicaError) as caught:
        _WAYS[way](store, impatient)
    assert len(caught.value.reasons) == 2
    assert all("no answer" in reason for reason in caught.value.reasons.values())
    _native.testing.release_held_completions()
    assert eventually(lambda: _native.pinned_account()["leased_bytes"] == 0)


def test_a_limit_of_pinned_memory_that_is_full_of_lost_reads_is_an_error(
    double: Double,
    store: fastio.Store,
    tensors: dict[str, Any],
    impatient: fastio.Options,
    faults: Callable[..., None],
) -> None:
    tight = fastio.Options(
        engine=impatient.engine,
        cache="bypass",
        block_bytes=2**16,
        root_timeout_s=1.5,
        pinned_limit_bytes=2**16,
    )
    _native.trim_pinned()
    faults((0, "never", 0))
    begin = time.monotonic()
    with pytest.raises(fastio.MemoryLimitError) as caught:
        _now(store, tight)
    assert caught.value.held_bytes > 0
    assert time.monotonic() - begin < 30
    _native.testing.release_held_completions()
    assert eventually(lambda: _native.pinned_account()["leased_bytes"] == 0)
    _assert_same(_now(store, tight), tensors)
