"""A root that is read and hangs whoever changes something on it: writers go on without it."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastio
import testbed
from fastio.store.answering import Answering
from load.samples import eventually
from store.samples import assert_same, tensors

pytestmark = pytest.mark.root

_Change = Callable[[fastio.Store, Path], Any]
_CHANGES: dict[str, _Change] = {
    "save": lambda store, _: store.save(tensors(3)),
    "gc": lambda store, _: store.gc(keep=1),
    "rollback": lambda store, _: store.rollback_to(1),
    "repair": lambda store, _: store.verify(repair=True),
    "replace": lambda store, folder: store.replace_root(folder / "root0", folder / "new"),
}


@pytest.fixture
def hanging(ext4: testbed.Mount, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the filesystem that freezes. Only what is there is given up soon."""
    folder = ext4.path / "store"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    made = Answering.__init__

    def impatient(answering: Answering, path: Path, timeout_s: float) -> None:
        made(answering, path, 1.0 if ext4.path in path.parents else timeout_s)

    monkeypatch.setattr(Answering, "__init__", impatient)
    return folder


@pytest.fixture
def roots(hanging: Path, tmp_path: Path) -> list[Path]:
    found = [tmp_path / "root0", tmp_path / "root1", hanging / "root2"]
    with fastio.Store.create(found, replicas=2, shard_bytes=2**18) as store:
        store.save(tensors(1))
        store.save(tensors(2))
    return found


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES.keys())
def test_a_change_goes_on_without_a_root_that_takes_no_writes(
    change: _Change, roots: list[Path], ext4: testbed.Mount, tmp_path: Path
) -> None:
    with fastio.Store.open(roots) as store:
        with testbed.frozen(ext4):
            change(store, tmp_path)
            expected = store.load()
        assert_same(store.load(), expected)
    # When it answers again, it is brought up to the others.
    with fastio.Store.open(roots[1]) as store:
        assert_same(store.load(), expected)
        assert eventually(lambda: store.verify(repair=True).ok)
        assert store.verify().ok


def test_a_store_of_two_roots_says_which_one_takes_no_writes(
    hanging: Path, ext4: testbed.Mount, tmp_path: Path
) -> None:
    with fastio.Store.create([tmp_path / "root0", hanging / "root1"], replicas=2) as store:
        store.save(tensors(1))
        with testbed.frozen(ext4), pytest.raises(fastio.ReplicaError, match="no answer in time"):
            store.save(tensors(2))
        assert_same(store.load(), tensors(1))


def test_a_folder_that_takes_no_writes_becomes_no_root(
    hanging: Path, ext4: testbed.Mount, tmp_path: Path
) -> None:
    paths = [tmp_path / "root0", hanging / "root1"]
    with testbed.frozen(ext4), pytest.raises(fastio.ReadError, match="no answer in time"):
        fastio.Store.create(paths, replicas=2)
    with pytest.raises(FileNotFoundError):
        fastio.Store.open(paths[0])

    def is_created() -> bool:
        """Not while the call that was left is still under way."""
        with contextlib.suppress(fastio.ReadError), fastio.Store.create(paths, replicas=2) as store:
            return store.save(tensors(1)) == 1
        return False

    assert eventually(is_created)


def test_a_copy_is_not_adopted_where_a_root_takes_no_writes(
    roots: list[Path], ext4: testbed.Mount
) -> None:
    with testbed.frozen(ext4), pytest.raises(fastio.ReplicaError, match="no answer in time"):
        fastio.Store.adopt(roots, force=True)
    with fastio.Store.open(roots) as store:
        assert_same(store.load(), tensors(2))
