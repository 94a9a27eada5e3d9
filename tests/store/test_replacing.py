"""A root that replaces another one: the store is as before, with one root more."""

import contextlib
import itertools
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import testbed
from fastio.storage.folder import Folder
from fastio.store.root import Root
from store.dying import Dying
from store.samples import assert_same, before_each_put, create, shards_of, tensors


def _roots(folder: Path, count: int) -> list[Path]:
    return [folder / f"root{at}" for at in range(count)]


def _lose(roots: list[Path], at: int, way: str) -> Path:
    """A root is lost; the path of the new one."""
    if way == "another path":
        shutil.rmtree(roots[at])
        return roots[at].with_name("new")
    if way == "an empty disk in its place":
        shutil.rmtree(roots[at])
        roots[at].mkdir()
        return roots[at]
    return roots[at].with_name("new")  # it is there


@pytest.mark.parametrize(
    "way", ["another path", "an empty disk in its place", "it can still be read"]
)
@pytest.mark.parametrize("count", [2, 3])
def test_a_root_is_replaced(tmp_path: Path, count: int, way: str) -> None:
    roots = _roots(tmp_path, count)
    with create(tmp_path, count) as store:
        store.save(tensors(1))
    new = _lose(roots, 1, way)
    with fastio.Store.open(roots[0]) as store:
        is_majority = count > 2 or way == "it can still be read"
        if not is_majority:
            with pytest.raises(fastio.ReplicaError, match="needs 2 of the 2 roots"):
                store.replace_root(roots[1], new)
            assert not new.exists() or not any(new.iterdir())
        assert store.replace_root(roots[1], new, force=not is_majority) == 2
        assert set(store.roots) == {*roots, new} - {roots[1]} | {new}
        assert_same(store.load(), tensors(1))
        status = store.status()
        assert (status.degraded, set(status.roots.values())) == (False, {"ok"})
        assert store.save(tensors(2)) == 3
    for lost in {*roots, new} - ({roots[1]} if roots[1] != new else set()):
        away = lost.with_name("away")
        lost.rename(away)
        rest = [root for root in {*roots, new} - {lost} if root.exists() and root != roots[1]]
        with fastio.Store.open(rest or [new]) as store:
            assert_same(store.load(verify="require"), tensors(2))
        away.rename(lost)


def test_a_root_is_replaced_by_its_uuid_and_nothing_else_is_taken_for_one(tmp_path: Path) -> None:
    with create(tmp_path, 3) as store:
        store.save(tensors(1))
        uuid = next(iter(store._opened.members.roots))
        path = store._opened.members.roots[uuid].path
        with pytest.raises(fastio.UsageError, match="is no root of this store"):
            store.replace_root(tmp_path / "other", tmp_path / "new")
        with pytest.raises(fastio.WriteError, match="there is something in it"):
            store.replace_root(path, path)
        assert store.replace_root(uuid, tmp_path / "new") == 2
        assert path not in store.roots
    shutil.rmtree(path)
    assert_same(fastio.load(tmp_path / "new"), tensors(1))


def test_a_mapping_has_the_new_root_in_place_of_the_old_one(tmp_path: Path) -> None:
    placement = {"layers.*": [1], "*": [0]}
    with create(tmp_path, 3, replicas=1, placement=placement) as store:
        store.save(tensors(1))
        count = len(shards_of(tmp_path / "root1"))
        store.replace_root(tmp_path / "root1", tmp_path / "new")
        assert len(shards_of(tmp_path / "new")) == count > 0
        store.save(tensors(2))
        assert len(shards_of(tmp_path / "new")) > count
        assert_same(store.load(), tensors(2))


def test_a_shard_without_a_replica_stops_a_replacement(tmp_path: Path) -> None:
    with create(tmp_path, 3, replicas=1) as store:
        store.save(tensors(1))
    shutil.rmtree(tmp_path / "root1")
    with fastio.Store.open(tmp_path / "root0") as store:
        with pytest.raises(fastio.FastioError, match="no replica"):
            store.replace_root(tmp_path / "root1", tmp_path / "new")
        assert not (tmp_path / "new").exists()
        assert store.generation == 1


def test_a_root_that_was_replaced_comes_back_and_changes_nothing(tmp_path: Path) -> None:
    roots = _roots(tmp_path, 3)
    with create(tmp_path, 3) as store:
        store.save(tensors(1))
    roots[2].rename(tmp_path / "away")
    with fastio.Store.open(roots[:2]) as store:
        store.replace_root(roots[2], tmp_path / "new")
        store.save(tensors(2))
    (tmp_path / "away").rename(roots[2])
    for given in (roots, roots[2:], [roots[2], tmp_path / "new"]):
        with fastio.Store.open(given) as store:
            assert_same(store.load(), tensors(2))
    with fastio.Store.open(roots) as store:
        assert store.save(tensors(3)) == 4
        shutil.rmtree(roots[2])
        assert not fastio.Store.open(roots[0]).status().degraded


@pytest.mark.parametrize("force", [False, True])
def test_a_replacement_that_dies_at_any_step_is_made_again(
    tmp_path: Path, force: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class _Dies(BaseException):
        pass

    count = 2 if force else 3
    for step in itertools.count():
        folder = tmp_path / str(step)
        roots = _roots(folder, count)
        with create(folder, count) as store:
            store.save({"a": np.arange(5), "b": np.arange(100_000)})
        shutil.rmtree(roots[1])
        steps = itertools.count()

        def die(_: Folder, steps: Any = steps, step: int = step) -> None:
            if next(steps) == step:
                raise _Dies

        before_each_put(monkeypatch, die)
        # A dead writer cleans nothing up.
        monkeypatch.setattr(Root, "withdraw", lambda self: None)
        died = False
        with fastio.Store.open(roots[0]) as store:
            try:
                store.replace_root(roots[1], folder / "new", force=force)
            except _Dies:
                died = True
        monkeypatch.undo()
        with fastio.Store.open(roots[0]) as store:
            assert (store.load()["a"] == np.arange(5)).all()
            if (folder / "new") not in store.roots:
                assert store.replace_root(roots[1], folder / "newer", force=force) >= 2
            else:
                assert store.save({"a": np.arange(7)}) == 3
        with fastio.Store.open(roots[0]) as store:
            assert not store.status().degraded
            assert store.save({"a": np.arange(9)}) >= 3
        if not died:
            break
    assert step > 5


@pytest.mark.parametrize("force", [False, True])
def test_generations_of_a_root_that_was_replaced_are_not_in_doubt(
    tmp_path: Path, force: bool
) -> None:
    """The next one followed them: that settles that a majority of the roots then had them."""
    roots = _roots(tmp_path, 2)
    with create(tmp_path, 2) as store:
        store.save(tensors(1))
        store.save(tensors(2))
        if force:
            shutil.rmtree(roots[1])
        store.replace_root(roots[1], tmp_path / "new", force=force)
        assert store.status().in_doubt == ()
        assert [each.decided for each in store.generations()] == [True, True, True]
        (tmp_path / "new").rename(tmp_path / "away")
        assert store.status().in_doubt == (3,)
        assert [each.decided for each in store.generations()] == [False, True, True]


# ---- a present root that has failed


class _Unwritable:
    """Fails every write to one root from a given one on, like a full disk."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.from_put_on = 10**6
        self._count = 0

        def count(storage: Folder) -> None:
            if storage.path == path:
                self._count += 1
                if self._count > self.from_put_on:
                    raise fastio.WriteError(28, "write", storage.path)

        before_each_put(patch, count)


def _read_only(root: Path) -> None:
    """Opening the lock for a write fails, as on a disk that is mounted read-only."""
    _folder_for(root / "lock")


def _folder_for(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_bytes(b"")


def _without_promise_and_records(root: Path) -> None:
    (root / "promise").write_bytes(b"x")
    shutil.rmtree(root / "commits")


UNWRITABLE = {
    "its lock is a folder": _read_only,
    "its promise is a folder": lambda root: _folder_for(root / "promise"),
    "its promise is damaged, and it has no records": _without_promise_and_records,
}


def _replaced_by_force(roots: list[Path], new: Path) -> None:
    with fastio.Store.open(roots[0]) as store:
        with pytest.raises(fastio.ReplicaError):
            store.save(tensors(2))
        with pytest.raises(fastio.ReplicaError, match="needs 2 of the 2 roots"):
            store.replace_root(roots[1], new)
        assert not new.exists()
        generation = store.replace_root(roots[1], new, force=True)
        assert set(store.roots) == {roots[0], new}
        assert not store.status().degraded
        assert_same(store.load(verify="require"), tensors(1))
        assert store.save(tensors(2)) == generation + 1
    roots[0].rename(roots[0].with_name("away"))
    assert_same(fastio.load(new), tensors(2))


@pytest.mark.parametrize("way", UNWRITABLE)
def test_a_root_that_cannot_be_written_to_is_replaced_by_force(tmp_path: Path, way: str) -> None:
    roots = _roots(tmp_path, 2)
    with create(tmp_path, 2) as store:
        store.save(tensors(1))
    UNWRITABLE[way](roots[1])
    _replaced_by_force(roots, tmp_path / "new")


@pytest.mark.parametrize("puts", range(4))
def test_a_root_that_fills_up_at_any_step_is_replaced_by_force(
    tmp_path: Path, puts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = _roots(tmp_path, 2)
    disk = _Unwritable(roots[1], monkeypatch)
    with create(tmp_path, 2) as store:
        store.save(tensors(1))
        disk.from_put_on = disk._count + puts
        assert store.replace_root(roots[1], tmp_path / "new", force=True) == 2
        assert set(store.roots) == {roots[0], tmp_path / "new"}
        assert not store.status().degraded
        assert store.save(tensors(2)) == 3
        assert_same(store.load(), tensors(2))


def test_a_disk_that_is_full_is_replaced_by_force(tmp_path: Path) -> None:
    with testbed.tmpfs_mount(tmp_path, nbytes=2**25) as disk:
        roots = [tmp_path / "root0", disk.path / "root1"]
        with fastio.Store.create(roots, replicas=2) as store:
            store.save(tensors(1))
        with (disk.path / "fill").open("wb", 0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        _replaced_by_force(roots, tmp_path / "new")


def test_a_root_that_hangs_in_writes_is_replaced_by_force(
    tmp_path: Path, tmpfs: testbed.Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is on its own disk: a disk that owes an answer gets no other request."""
    roots = [tmp_path / "root0", tmpfs.path / "hangs" / "root1"]
    shutil.rmtree(tmpfs.path / "hangs", ignore_errors=True)
    with fastio.Store.create(roots, replicas=2) as store:
        store.save(tensors(1))
    go_on = threading.Event()

    def hang(storage: Folder) -> None:
        if storage.path == roots[1]:
            assert go_on.wait(300)

    before_each_put(monkeypatch, hang)
    try:
        options = fastio.Options(root_timeout_s=6)
        with fastio.Store.open(roots[0], options=options) as store:
            assert store.replace_root(roots[1], tmp_path / "new", force=True) == 2
            assert set(store.roots) == {roots[0], tmp_path / "new"}
            assert store.save(tensors(2)) == 3
    finally:
        go_on.set()


def test_force_does_not_lose_shards_only_on_an_unwritable_root(
    tmp_path: Path,
) -> None:
    """It was saved on two roots of three: one is lost, the other one is read-only now."""
    roots = _roots(tmp_path, 3)
    with create(tmp_path, 3, replicas=2) as store:
        store.save(tensors(1))
        roots[0].rename(tmp_path / "away")
        store.save(tensors(2))
    (tmp_path / "away").rename(roots[0])
    shutil.rmtree(roots[1])
    _read_only(roots[2])
    with fastio.Store.open(roots[0]) as store:
        assert_same(store.load(), tensors(2))
        assert store.replace_root(roots[1], tmp_path / "new", force=True) == 3
        assert_same(store.load(), tensors(2))


# ---- a repeated call after a kill


@pytest.mark.parametrize(
    ("way", "count"),
    [
        ("another path", 2),
        ("another path", 3),
        ("an empty disk in its place", 2),
        ("an empty disk in its place", 3),
        ("it can still be read", 2),
        ("it can still be read", 3),
    ],
)
def test_a_replacement_that_was_killed_at_any_step_goes_on_when_it_is_called_again(
    tmp_path: Path, way: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"a": np.arange(5), "b": np.arange(100_000)}
    force = count == 2 and way != "it can still be read"
    replaced: dict[int, tuple[Path, Path]] = {}

    def run(step: int) -> None:
        roots = _roots(tmp_path / str(step), count)
        with create(tmp_path / str(step), count) as store:
            store.save(small)
        new = _lose(roots, 1, way)
        replaced[step] = roots[1], new
        with fastio.Store.open(roots[0]) as store, dying:
            store.replace_root(roots[1], new, force=force)

    def again(step: int) -> None:
        old, new = replaced[step]
        root = tmp_path / str(step) / "root0"
        with fastio.Store.open(root) as store:
            assert store.replace_root(old, new, force=force) in (2, 3)
            assert new in store.roots
            assert not store.status().degraded
            assert_same(store.load(), small)
            store.save({"a": np.arange(7)})
            assert store.verify().ok
            with pytest.raises(fastio.FastioError):
                store.replace_root(old, new, force=force)

    dying = Dying(monkeypatch)
    dying.at_each_step(run, again)


def test_a_repeated_replacement_continues_only_its_own_root(tmp_path: Path) -> None:
    """Not a root that was replaced long ago, nor one of another store."""
    with create(tmp_path, 3) as store:
        store.save(tensors(1))
        store.replace_root(tmp_path / "root2", tmp_path / "new")
        store.save(tensors(2))
        create(tmp_path / "other", 1).close()
        for taken in (tmp_path / "root2", tmp_path / "other" / "root0"):
            with pytest.raises(fastio.WriteError, match="there is something in it"):
                store.replace_root(tmp_path / "new", taken)
            assert (taken / "commits").exists()
        assert not store.status().degraded


@pytest.mark.parametrize("spelled", [str, str.upper, uuid.UUID, lambda text: str(uuid.UUID(text))])
def test_a_root_is_known_by_its_uuid_in_any_spelling(
    tmp_path: Path, spelled: Callable[[str], Any]
) -> None:
    with create(tmp_path, 2) as store:
        store.save(tensors(1))
        (lost,) = (
            u for u, root in store._opened.members.roots.items() if root.path.name == "root1"
        )
        assert store.replace_root(spelled(lost), tmp_path / "new") == 2
        assert set(store.roots) == {tmp_path / "root0", tmp_path / "new"}
        with pytest.raises(fastio.UsageError, match="is no root of this store"):
            store.replace_root(spelled(lost), tmp_path / "newer")
