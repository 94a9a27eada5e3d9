"""Stores that are closed, copied, collected and forked during use; and roots that fail while others
do not.
"""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

import fastio
from samples import flip
from store.samples import assert_same, create, shards_of, tensors


def test_a_bad_replica_is_written_anew_and_not_reused(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    sound = {path: path.read_bytes() for at in (0, 1) for path in shards_of(tmp_path / f"root{at}")}
    bad = [path for path in sound if path.stat().st_size > 2**16][:4]
    for path in bad:
        flip(path, -1)
    report = fastio.Report()
    assert store.save(tensors(1), report=report) == 2
    assert all(path.read_bytes() == data for path, data in sound.items())
    assert report.bytes_reused == sum(len(data) for path, data in sound.items() if path not in bad)
    shutil.rmtree(tmp_path / "root0")
    assert_same(fastio.load(tmp_path / "root1"), tensors(1))


def test_nothing_is_repaired_out_of_a_root(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    shutil.rmtree(tmp_path / "root0" / "shards")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root0" / "shards").symlink_to(tmp_path / "elsewhere")
    report = fastio.Report()
    assert_same(store.load(on_damage="repair", report=report), tensors(1))
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert any("could not be repaired" in line for line in report.fallbacks)


def test_a_store_travels_and_its_locks_do_not(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    with pickle.loads(pickle.dumps(store)) as again:
        assert_same(again.load(), tensors(1))
    assert_same(store.load(), tensors(1))
    for part in (store._opened.members.roots, store._opened.pinned.hold):
        with pytest.raises(TypeError):
            pickle.dumps(part)


def test_a_readers_generation_is_not_collected_when_its_store_moves_on_or_closes(
    tmp_path: Path,
) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    reader = store.reader()
    store.save(tensors(2))
    assert store.gc().in_use == (1,)
    assert_same(reader.load(), tensors(1))
    reader.close()
    del reader
    assert store.gc().generations == (1,)
    with fastio.Store.open(tmp_path / "root0") as other:
        late = other.reader()
    store.save(tensors(3))
    store.gc()
    assert_same(late.load(), tensors(2))


def test_a_child_keeps_its_parents_generation_and_not_the_locks_of_a_writer(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    waiting, go_on = os.pipe()
    children: list[int] = []

    def fork(name: str) -> str:
        if not children:
            child = os.fork()
            if child == 0:
                os.close(go_on)
                os.read(waiting, 1)
                os._exit(0)
            children.append(child)
        return name

    try:
        store.save(tensors(1), partition=fork)  # the child has the writer's locks, and lives
        assert store.save(tensors(2)) == 2
        collected = store.gc()
        assert (collected.generations, collected.in_use) == ((1,), (0,))  # which was open
    finally:
        os.close(go_on)
        for child in children:
            os.waitpid(child, 0)
        os.close(waiting)
    assert store.gc().generations == (0,)


def test_a_store_saves_without_one_unwritable_root(tmp_path: Path) -> None:
    store = create(tmp_path, 3)
    store.save(tensors(1))
    shutil.rmtree(tmp_path / "root0" / "shards")
    report = fastio.Report()
    assert store.save(tensors(2), report=report) == 2
    assert any("root0" in line and "share" in line for line in report.fallbacks)
    assert_same(store.load(), tensors(2))
    store.gc()
    assert_same(store.load(), tensors(2))
    assert "shards is missing" in store.status().roots[str(tmp_path / "root0")]


def test_status_reports_missing_shards(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    assert not store.status().degraded
    shards_of(tmp_path / "root1")[0].unlink()
    status = store.status()
    assert status.degraded
    assert "1 of" in status.roots[str(tmp_path / "root1")]


def test_a_store_whose_roots_are_all_gone_is_not_an_empty_one(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    for at in (0, 1):
        shutil.rmtree(tmp_path / f"root{at}")
    for call in (store.generations, store.status, store.load):
        with pytest.raises((fastio.ReplicaError, FileNotFoundError)):
            call()
    with pytest.raises(fastio.ReplicaError, match="root0"):
        store.save(tensors(2))


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    store.close()
    store.close()
    calls = (
        store.load,
        store.reader,
        lambda: list(store.stream()),
        lambda: store.load_into({}),
        lambda: store.save({}),
        lambda: store.add("a", np.zeros(1)),
        store.generations,
        store.status,
        store.gc,
        lambda: store.rollback_to(1),
        store.__enter__,
    )
    for call in calls:
        with pytest.raises(fastio.UsageError, match="closed"):
            call()


def test_on_damage_raise_minds_a_missing_root(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    store.close()
    (tmp_path / "root1").rename(tmp_path / "away")
    store = fastio.Store.open(tmp_path / "root0")
    assert_same(store.load(), tensors(1))
    with pytest.raises(fastio.ReplicaError, match="root1"):
        store.load(on_damage="raise")
    (tmp_path / "away").rename(tmp_path / "root1")
    report = fastio.Report()
    assert_same(store.load(on_damage="raise", report=report), tensors(1))
    assert report.fallbacks == ()


@pytest.mark.parametrize("generation", ["1", True, -1, 1.0])
def test_a_generation_is_a_number(tmp_path: Path, generation: object) -> None:
    store = create(tmp_path, 1)
    store.save(tensors(1))
    for call in (
        lambda: store.load(generation=generation),  # type: ignore[call-overload]
        lambda: store.rollback_to(generation),  # type: ignore[arg-type]
        lambda: fastio.Store.open(tmp_path / "root0", generation=generation),  # type: ignore[arg-type]
        lambda: fastio.Store.open(tmp_path / "root0", min_generation=generation),  # type: ignore[arg-type]
    ):
        with pytest.raises((TypeError, ValueError), match="generation"):
            call()
