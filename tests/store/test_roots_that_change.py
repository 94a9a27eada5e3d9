"""A store whose roots are replaced or copied while others write to it or roll it back.

Each of these once lost or mixed data; the protocol's own schedules are in `test_protocol`.
"""

import multiprocessing
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
from fastio.store import replacing
from fastio.store.root import Root
from store.samples import create


class _Dies(BaseException):
    """The writer is gone."""


def _roots(folder: Path, count: int = 3) -> list[Path]:
    return [folder / f"root{at}" for at in range(count)]


def _tensors(seed: int) -> dict[str, Any]:
    return {f"t{at}": np.full(40_000, 10 * seed + at, np.int32) for at in range(6)}


def _made(folder: Path, **options: Any) -> list[Path]:
    folder.mkdir(exist_ok=True)
    with create(folder, 3, **options) as store:
        store.save(_tensors(1))
    return _roots(folder)


def _holds(roots: Any, seed: int) -> bool:
    with fastio.Store.open(roots) as store:
        found = store.load(verify="require")
    expected = _tensors(seed)
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], expected[name]) for name in expected
    )


@contextmanager
def _dying_after(records: int) -> Iterator[None]:
    """A writer dies when that many roots have his record."""
    real, left = Root.put_record, [records]

    def put(self: Root, *arguments: Any, **more: Any) -> None:
        if left[0] == 0:
            raise _Dies
        left[0] -= 1
        real(self, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Root, "put_record", put)
        with pytest.raises(_Dies):
            yield


@pytest.mark.parametrize("records", [1, 2, 3])
def test_a_replacement_in_doubt_is_taken_up_and_nothing_is_placed_on_the_old_root(
    tmp_path: Path, records: int
) -> None:
    """The old root is there and locked, since it still votes, and gets no shard."""
    roots = _made(tmp_path, replicas=1)
    with fastio.Store.open(roots) as store, _dying_after(records):
        store.replace_root(roots[2], tmp_path / "new")
    with fastio.Store.open(roots) as store:
        for seed in range(2, 6):
            assert store.save(_tensors(seed)) == seed + 1
        assert set(store.roots) == {*roots[:2], tmp_path / "new"}
    shutil.rmtree(roots[2])
    assert _holds(roots[0], 5)


def _save(roots: list[Path], begun: Any, seed: int) -> None:
    with fastio.Store.open(roots) as store:
        begun.set()
        store.save(_tensors(seed))


def test_a_writer_that_waits_during_a_replacement_does_not_bring_the_old_root_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He has checked the roots before; his check under the locks decides."""
    roots = _made(tmp_path)
    context: Any = multiprocessing.get_context("fork")
    begun, ended = context.Event(), context.Event()

    def save() -> None:
        _save(roots, begun, 2)
        ended.set()

    child = context.Process(target=save)
    copy = replacing._copy

    def copy_meanwhile(*arguments: Any) -> None:
        child.start()
        assert begun.wait(60)
        assert not ended.wait(0.5)  # it waits for the locks: if not yet, the test shows less
        copy(*arguments)

    monkeypatch.setattr(replacing, "_copy", copy_meanwhile)
    with fastio.Store.open(roots) as store:
        assert store.replace_root(roots[2], tmp_path / "new") == 2
        child.join()
        assert child.exitcode == 0
    shutil.rmtree(roots[2])
    with fastio.Store.open(roots[0]) as store:
        assert store.generation == 3
        assert set(store.roots) == {*roots[:2], tmp_path / "new"}
        assert not store.status().degraded
    assert _holds(tmp_path / "new", 2)


def test_a_rollback_past_a_replacement_is_written_to_the_present_roots(tmp_path: Path) -> None:
    roots = _made(tmp_path)
    with fastio.Store.open(roots) as store:
        store.save(_tensors(2))
        store.replace_root(roots[2], tmp_path / "new")
        shutil.rmtree(roots[2])
        assert store.rollback_to(1) == 4
    with fastio.Store.open(roots[0]) as store:
        assert set(store.roots) == {*roots[:2], tmp_path / "new"}
        assert _holds(roots[1], 1)
        assert store.save(_tensors(3)) == 5
    assert _holds(tmp_path / "new", 3)


def test_a_rollback_to_a_generation_only_on_a_replaced_root_is_refused(tmp_path: Path) -> None:
    roots = _made(tmp_path, replicas=1)
    with fastio.Store.open(roots) as store:
        store.save(_tensors(2))
        store.replace_root(roots[2], tmp_path / "new")
        with pytest.raises(fastio.ConflictError, match="generation 1 is not whole any more"):
            store.rollback_to(1)
    assert _holds(roots[0], 2)


def _replace(store: fastio.Store, folder: Path) -> None:
    store.replace_root(folder / "root2", folder / "new")


@pytest.mark.parametrize(
    "change",
    [
        lambda store, _: store.save(_tensors(5)),
        _replace,
        lambda store, _: store.rollback_to(0),
    ],
    ids=["save", "replace", "rollback"],
)
def test_a_copy_that_lacks_a_root_joins_no_root_of_its_original_when_it_was_written_to(
    tmp_path: Path, change: Callable[[fastio.Store, Path], Any]
) -> None:
    """A new manifest has the paths of the copy's roots, also of one that was not copied."""
    roots = _made(tmp_path / "original")
    copy = _roots(tmp_path / "copy")
    for at in (0, 1):
        shutil.copytree(roots[at], copy[at])
    with fastio.Store.open(copy[0]) as store:
        change(store, tmp_path / "copy")
    for root in (tmp_path / "copy").iterdir():
        with fastio.Store.open(root) as store:
            assert {path.parent for path in store.roots} == {tmp_path / "copy"}
            store.save(_tensors(6))
            assert {path.parent for path in store.roots} == {tmp_path / "copy"}
        assert _holds(root, 6)
    for root in roots:
        assert _holds(root, 1)


@pytest.mark.parametrize("collected", [False, True])
def test_a_copy_of_a_root_that_was_replaced_joins_no_root_of_the_original(
    tmp_path: Path, collected: bool
) -> None:
    """The newest manifest lacks its path; perhaps all others do, too."""
    roots = _made(tmp_path / "original")
    with fastio.Store.open(roots) as store:
        store.replace_root(roots[2], tmp_path / "original" / "new")
    if collected:
        for generation in (0, 1):
            (roots[2] / "commits" / f"{generation:016x}").unlink()
    shutil.copytree(roots[2], tmp_path / "copy" / "root2")
    with fastio.Store.open(tmp_path / "copy" / "root2") as store:
        assert store.roots == ()
        with pytest.raises(fastio.ReplicaError, match="does not join"):
            store.save(_tensors(2))
    assert _holds([tmp_path / "copy" / "root2", roots[0]], 1)
    with fastio.Store.open(roots[2]) as store:
        assert len(store.roots) == (0 if collected else 3)


def test_a_root_that_was_replaced_is_missing_from_no_majority(tmp_path: Path) -> None:
    """The new root and one other are a majority from then on: both have the reported commits."""
    roots = _made(tmp_path)
    roots[1].rename(tmp_path / "away")  # the commit reaches roots 0 and 2, and the new one
    real = Root.put_record

    def put(self: Root, *arguments: Any, **more: Any) -> None:
        if self.path == tmp_path / "new":
            raise fastio.WriteError(5, "write", self.path)
        real(self, *arguments, **more)

    with fastio.Store.open(roots[0]) as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Root, "put_record", put)
        with pytest.raises(fastio.ReplicaError, match="of those from then on"):
            store.replace_root(roots[2], tmp_path / "new")
    (tmp_path / "away").rename(roots[1])
    with fastio.Store.open(roots) as store:
        assert store.save(_tensors(2)) == 3
    shutil.rmtree(roots[0])
    shutil.rmtree(roots[2])
    assert _holds([roots[1], tmp_path / "new"], 2)


def test_a_new_root_that_takes_no_manifest_is_not_one_of_the_store(tmp_path: Path) -> None:
    roots = _made(tmp_path)

    def put(self: Root, *arguments: Any, **more: Any) -> None:
        if self.path == tmp_path / "new":
            raise fastio.WriteError(5, "write", self.path)
        real(self, *arguments, **more)

    real = Root.put_manifest
    with fastio.Store.open(roots) as store:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Root, "put_manifest", put)
            with pytest.raises(fastio.ReplicaError, match="the new root cannot be written to"):
                store.replace_root(roots[2], tmp_path / "new")
        assert not (tmp_path / "new").exists()
        assert store.save(_tensors(2)) == 2
        assert set(store.roots) == set(roots)


def test_force_with_a_majority_is_an_ordinary_replacement(tmp_path: Path) -> None:
    """The new root gets it last: with the first record alone it would be a store by itself."""
    with create(tmp_path, 1) as store:
        store.save(_tensors(1))
        with _dying_after(1):
            store.replace_root(tmp_path / "root0", tmp_path / "new", force=True)
    with fastio.Store.open(tmp_path / "root0") as store:
        assert store.save(_tensors(2)) == 3
    assert _holds(tmp_path / "new", 2)


def test_threads_that_save_while_roots_are_replaced_lose_nothing(tmp_path: Path) -> None:
    roots = _made(tmp_path)
    saved: list[int] = []
    stop = threading.Event()
    errors: list[BaseException] = []

    def save() -> None:
        try:
            with fastio.Store.open(roots[0]) as store:
                while not stop.is_set():
                    saved.append(store.save({"a": np.arange(10)}))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=save)
    thread.start()
    try:
        last = roots[2]
        with fastio.Store.open(roots[0]) as store:
            for at in range(4):
                new = tmp_path / f"new{at}"
                saved.append(store.replace_root(last, new))
                shutil.rmtree(last)
                last = new
    finally:
        stop.set()
        thread.join()
    assert not errors
    assert sorted(saved) == list(range(2, len(saved) + 2))
    with fastio.Store.open(roots[0]) as store:
        assert set(store.roots) == {*roots[:2], last}
        assert not store.status().degraded
