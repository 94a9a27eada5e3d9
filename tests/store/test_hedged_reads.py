"""A late read of a store is asked of another root, and the first answer that verifies counts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import testbed
from fastio import _native
from samples import eventually, native_threads, open_files
from store.damages import flip
from store.samples import CHUNK_BYTES, assert_same, create, shards_of, tensors
from store.ways import WAYS

Faults = Callable[..., None]
_NATIVE = _native.testing


def _options(engine: Any, **more: Any) -> fastio.Options:
    """A late read is hedged, and no disk hangs however long it takes."""
    given = {"block_bytes": CHUNK_BYTES, "hedge_after_s": 0.02, "root_timeout_s": "inf", **more}
    return fastio.Options(engine=engine, **given)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cache", ["bypass", "keep", "auto"])
def test_a_read_that_does_not_return_is_answered_by_another_root(
    roots: list[Path],
    way: str,
    cache: str,
    engine: Any,
    faults: Faults,
    told: list[fastio.Event],
) -> None:
    threads, files = native_threads(), open_files()
    options = _options(engine, cache=cache)
    with fastio.Store.open(roots) as store:
        faults((1, "never", 0))
        assert_same(WAYS[way](store, options), tensors(1))
        assert _NATIVE.abandoned_bytes() > 0, "no read was late"
        # The disk is not avoided: it did not hang.
        faults()
        assert_same(WAYS[way](store, options), tensors(1))
    assert told == []

    _NATIVE.release_held_completions()
    assert eventually(lambda: _NATIVE.abandoned_bytes() == 0)
    assert eventually(lambda: native_threads() <= threads)
    assert eventually(lambda: open_files() <= files)


def test_the_report_counts_hedges_and_has_no_fallback(
    roots: list[Path], engine: Any, faults: Faults
) -> None:
    report = fastio.Report()
    options = _options(engine, cache="bypass")
    with fastio.Store.open(roots) as store:
        faults((0, "never", 0))
        assert_same(store.load(options=options, report=report), tensors(1))
        assert report.hedges_won >= 1
        assert report.reads_hedged >= report.hedges_won
        assert (report.fallbacks, report.events) == ((), ())
        assert "asked of another replica, which was first" in str(report)
        _NATIVE.release_held_completions()
        with store.reader(options=options) as reader:
            faults((0, "never", 0))
            assert_same(dict(reader.stream()), tensors(1))
            assert reader.report.hedges_won >= 1


def test_without_the_option_a_late_read_is_waited_for(
    roots: list[Path], engine: Any, faults: Faults
) -> None:
    report = fastio.Report()
    options = _options(engine, cache="bypass", hedge_after_s=None)
    with fastio.Store.open(roots) as store:
        faults((0, "late", 300))
        assert_same(store.load(options=options, report=report), tensors(1))
    assert (report.reads_hedged, report.hedges_won) == (0, 0)
    assert "late read" not in str(report)


def test_a_hedge_that_brings_damage_is_damage_of_its_replica(
    roots: list[Path], engine: Any, faults: Faults, told: list[fastio.Event]
) -> None:
    """With one root damaged, a late read of the other one is waited for."""
    for shard in shards_of(roots[1]):
        flip(shard, -1)
    options = _options(engine, cache="bypass")
    with fastio.Store.open(roots) as store:
        faults(*[(at, "late", 100) for at in range(6)])
        assert_same(store.load(options=options), tensors(1))
    assert all(str(roots[1]) in event.path for event in told)
    assert eventually(lambda: _NATIVE.abandoned_bytes() == 0)


def test_damage_everywhere_is_an_error_and_no_hedge_hides_it(
    roots: list[Path], engine: Any, faults: Faults
) -> None:
    for root in roots:
        for shard in shards_of(root):
            flip(shard, -1)
    with fastio.Store.open(roots) as store:
        faults(*[(at, "late", 100) for at in range(0, 20, 3)])
        with pytest.raises(fastio.ReplicaError) as caught:
            store.load(options=_options(engine, cache="bypass"))
    assert all("checksum" in reason for reason in caught.value.reasons.values())
    assert eventually(lambda: _NATIVE.abandoned_bytes() == 0)


def test_a_limit_without_room_for_hedges_is_kept_and_told_of(
    roots: list[Path], engine: Any, faults: Faults
) -> None:
    report = fastio.Report()
    limit = sum(np.asarray(tensor).nbytes for tensor in tensors(1).values())
    wide = _options(engine, cache="bypass", memory_limit_bytes=limit + 2**23)
    with fastio.Store.open(roots) as store:
        assert_same(store.load(options=wide, report=report), tensors(1))
        assert report.fallbacks == ()
        while limit < 2**23:  # the least one that is enough without hedges
            narrow = _options(engine, cache="bypass", memory_limit_bytes=limit)
            faults((0, "late", 100))
            try:
                found = dict(store.load(options=narrow, report=report))
            except fastio.MemoryLimitError as error:
                limit = error.asked_bytes
            else:
                break
    assert_same(found, tensors(1))
    assert report.reads_hedged == 0
    assert "no room for hedged reads" in "".join(report.fallbacks)


def test_files_that_are_on_no_root_are_never_hedged(
    tmp_path: Path, engine: Any, faults: Faults
) -> None:
    path = tmp_path / "model.safetensors"
    fastio.save({"a": np.arange(2**18)}, path)
    testbed.evict(path)
    faults((0, "late", 100))
    report = fastio.Report()
    found = fastio.load(path, options=_options(engine, cache="bypass"), report=report)
    assert_same(found, {"a": np.arange(2**18)})
    assert report.reads_hedged == 0


def test_a_store_on_one_disk_has_nobody_else_to_ask(
    tmp_path: Path, engine: Any, faults: Faults
) -> None:
    report = fastio.Report()
    with create(tmp_path / "store", 2) as store:
        store.save(tensors(1))
        faults((0, "late", 100))
        assert_same(store.load(options=_options(engine, cache="bypass"), report=report), tensors(1))
    assert report.reads_hedged == 0
