"""Several callers create a store on the same folders at once: one succeeds, and the others get an
error.
"""

import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
from fastio.storage.folder import Folder
from fastio.store.root import Root
from samples import in_threads
from store.dying import Dying
from store.samples import before_each_put

_COUNT = 4


def _make(roots: list[Path], seed: int) -> int | None:
    """The seed, if this caller's creation was reported."""
    try:
        store = fastio.Store.create(roots, replicas=2)
    except (fastio.WriteError, fastio.ReplicaError, fastio.ConflictError):
        return None
    with store:
        store.save({"a": np.full(1000, seed)})
    return seed


def _makers(folders: list[list[Path]], apart: str) -> list[int]:
    """The caller whose creation was reported, of one for each choice of folders."""
    if apart == "threads":
        made = in_threads(len(folders), lambda at: _make(folders[at], at))
    else:
        context: Any = multiprocessing.get_context("fork")
        begin, ends = context.Barrier(len(folders)), context.Queue()

        def run(at: int) -> None:
            begin.wait()
            made: int | str | None = None
            try:
                made = _make(folders[at], at)
            except BaseException as error:
                made = repr(error)
            ends.put(made)

        children = [context.Process(target=run, args=(at,)) for at in range(len(folders))]
        for child in children:
            child.start()
        made = [ends.get(timeout=300) for _ in children]
        for child in children:
            child.join()
    assert all(at is None or isinstance(at, int) for at in made), made
    return [at for at in made if at is not None]


@pytest.mark.parametrize("apart", ["threads", "processes"])
def test_one_of_several_concurrent_creations_succeeds(tmp_path: Path, apart: str) -> None:
    for attempt in range(5):
        roots = [tmp_path / str(attempt) / name for name in "AB"]
        (winner,) = _makers([roots] * _COUNT, apart)
        for root in roots:
            assert fastio.load(root)["a"][0] == winner
        with fastio.Store.open(roots) as store:
            assert not store.status().degraded
            store.save({"a": np.full(1000, 9)})


@pytest.mark.parametrize("apart", ["threads", "processes"])
def test_a_creation_that_fails_on_one_folder_leaves_no_files_on_the_others(
    tmp_path: Path, apart: str
) -> None:
    """Each shares one folder with the next one, and asks for them in another order."""
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        choices = [[folder / "A", folder / "B"], [folder / "C", folder / "B"]]
        (winner,) = _makers(choices, apart)
        for root in choices[winner]:
            assert fastio.load(root)["a"][0] == winner
        (left,) = [root for root in choices[1 - winner] if root not in choices[winner]]
        assert not left.exists()
        assert _make([left, folder / "D"], 7) == 7


@pytest.mark.parametrize("apart", ["threads", "processes"])
def test_no_two_creations_that_share_a_folder_both_succeed(tmp_path: Path, apart: str) -> None:
    """A caller that fails has met another one; an unreported store can be created afterwards."""
    for attempt in range(3):
        folders = [tmp_path / str(attempt) / str(at) for at in range(_COUNT)]
        choices = [[folders[at], folders[(at + 1) % _COUNT]] for at in range(_COUNT)]
        winners = _makers(choices, apart)
        assert winners
        taken = [root for winner in winners for root in choices[winner]]
        assert len(taken) == len(set(taken))
        for winner in winners:
            for root in choices[winner]:
                assert fastio.load(root)["a"][0] == winner
        left = [root for root in folders if root not in taken]
        if len(left) > 1:
            assert _make(left, 7) == 7


@pytest.mark.parametrize("step", range(8))
def test_a_failed_creation_removes_its_files(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "B").mkdir()
    count = iter(range(100))

    def fail(storage: Folder) -> None:
        if next(count) == step:
            raise fastio.WriteError(28, "write", storage.path)

    before_each_put(monkeypatch, fail)
    roots = [tmp_path / "A", tmp_path / "B"]
    with pytest.raises((fastio.WriteError, fastio.ReplicaError), match="ENOSPC"):
        fastio.Store.create(roots, replicas=2)
    assert next(count) > step
    monkeypatch.undo()
    assert not (tmp_path / "A").exists()
    assert list((tmp_path / "B").iterdir()) == []
    assert _make(roots, 3) == 3


def test_a_creation_that_was_killed_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = [tmp_path / "A", tmp_path / "B"]
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Root, "put_manifest", lambda *_, **__: os._exit(0))
        try:
            fastio.Store.create(roots)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert _make(roots, 3) == 3


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_creation_that_was_killed_at_any_step_can_be_made_again(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the empty generation is on a majority, the store exists, and the call reports it."""

    def roots(step: int) -> list[Path]:
        return [tmp_path / f"{step}-{at}" for at in range(count)]

    def run(step: int) -> None:
        with dying:
            fastio.Store.create(roots(step), replicas=1)

    def again(step: int) -> None:
        try:
            store = fastio.Store.create(roots(step), replicas=1)
        except fastio.WriteError as error:
            there.append(str(error))
            store = fastio.Store.open(roots(step))
        with store:
            assert store.save({"a": np.arange(9)}) == 1
            assert not store.status().degraded
            assert store.verify().ok
        with pytest.raises(fastio.WriteError, match="there is something in it"):
            fastio.Store.create(roots(step), replicas=1)

    there: list[str] = []
    dying = Dying(monkeypatch)
    dying.at_each_step(run, again)
    assert len(there) < 6
    assert all("a root of a store, which fastio.Store.open opens" in each for each in there)


def test_a_waiter_for_a_removed_lock_takes_the_new_store(tmp_path: Path) -> None:
    """A waiting caller takes the new store, and does not write beside its owner."""
    roots = [tmp_path / "A", tmp_path / "B"]
    with fastio.Store.create(roots, replicas=2) as store:
        inside, go = threading.Event(), threading.Event()

        def slow(name: str) -> str:
            inside.set()
            assert go.wait(60)
            return name

        first = threading.Thread(
            target=store.save, args=({"a": np.ones(5)},), kwargs={"partition": slow}
        )
        first.start()
        assert inside.wait(60)
        go.set()
        with fastio.Store.open(roots) as other:
            other.save({"a": np.zeros(5)})
            for root in roots:
                (root / "lock").unlink()
            other.save({"a": np.full(5, 2.0)})
        first.join()
    assert (fastio.load(roots[0])["a"] == 2).all() or (fastio.load(roots[0])["a"] == 1).all()


@pytest.mark.parametrize("below", ["shards", "shards/deep/er", "other", "link"])
def test_a_root_inside_a_root_of_a_store_is_refused(tmp_path: Path, below: str) -> None:
    root = tmp_path / "root"
    fastio.Store.create([root], replicas=1).close()
    (tmp_path / "elsewhere").symlink_to(root / "shards")
    inside = (tmp_path / "elsewhere" if below == "link" else root / below) / "new"
    with pytest.raises(fastio.WriteError, match="which is a root of a store") as raised:
        fastio.Store.create([tmp_path / "sound", inside])
    assert f"inside {root}" in str(raised.value)
    assert not inside.parent.exists() or not any(inside.parent.iterdir())
    assert not (tmp_path / "sound").exists()
    with fastio.Store.create([tmp_path / "a", tmp_path / "b"]) as store:
        with pytest.raises(fastio.WriteError, match="which is a root of a store"):
            store.replace_root(tmp_path / "a", inside)
        assert not store.status().degraded
