"""A root that can be read and hangs on writes: writers go on without it."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastio
import testbed
from fastio.storage.answering import Answering
from samples import eventually
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


class Freezing:
    """A folder on a filesystem that can be frozen. Timeouts are long before, and short during the
    freeze.

    Parameters
    ----------
    mount : testbed.Mount
    patch : pytest.MonkeyPatch
    """

    def __init__(self, mount: testbed.Mount, patch: pytest.MonkeyPatch) -> None:
        self.folder = mount.path / "store"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self._mount = mount
        self._timeout_s = 60.0
        self._there: list[Answering] = []
        made = Answering.__init__

        def noted(answering: Answering, path: Path, timeout_s: float) -> None:
            is_there = mount.path in path.parents
            made(answering, path, self._timeout_s if is_there else timeout_s)
            if is_there:
                self._there.append(answering)

        patch.setattr(Answering, "__init__", noted)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        with testbed.frozen(self._mount):
            self._wait_for(1.0)
            try:
                yield
            finally:
                self._wait_for(60.0)

    def _wait_for(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        for answering in self._there:
            answering.timeout_s = timeout_s


@pytest.fixture
def freezing(ext4: testbed.Mount, monkeypatch: pytest.MonkeyPatch) -> Freezing:
    return Freezing(ext4, monkeypatch)


@pytest.fixture
def roots(freezing: Freezing, tmp_path: Path) -> list[Path]:
    found = [tmp_path / "root0", tmp_path / "root1", freezing.folder / "root2"]
    with fastio.Store.create(found, replicas=2, shard_bytes=2**18) as store:
        store.save(tensors(1))
        store.save(tensors(2))
    return found


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES.keys())
def test_a_change_goes_on_without_a_root_that_takes_no_writes(
    change: _Change, roots: list[Path], freezing: Freezing, tmp_path: Path
) -> None:
    with fastio.Store.open(roots) as store:
        with freezing.frozen():
            change(store, tmp_path)
            expected = store.load()
        assert_same(store.load(), expected)
    # After the thaw, it is brought up to date.
    with fastio.Store.open(roots[1]) as store:
        assert_same(store.load(), expected)
        assert eventually(lambda: store.verify(repair=True).ok)
        assert store.verify().ok


def test_a_store_of_two_roots_says_which_one_takes_no_writes(
    freezing: Freezing, tmp_path: Path
) -> None:
    with fastio.Store.create([tmp_path / "root0", freezing.folder / "root1"], replicas=2) as store:
        store.save(tensors(1))
        with freezing.frozen(), pytest.raises(fastio.ReplicaError, match="no answer in time"):
            store.save(tensors(2))
        assert_same(store.load(), tensors(1))


def test_a_folder_that_takes_no_writes_becomes_no_root(freezing: Freezing, tmp_path: Path) -> None:
    paths = [tmp_path / "root0", freezing.folder / "root1"]
    with freezing.frozen(), pytest.raises(fastio.ReadError, match="no answer in time"):
        fastio.Store.create(paths, replicas=2)
    with pytest.raises(FileNotFoundError):
        fastio.Store.open(paths[0])

    def is_created() -> bool:
        """Not while the abandoned call is still running."""
        with contextlib.suppress(fastio.ReadError), fastio.Store.create(paths, replicas=2) as store:
            return store.save(tensors(1)) == 1
        return False

    assert eventually(is_created)


def test_a_copy_is_not_adopted_if_a_root_takes_no_writes(
    roots: list[Path], freezing: Freezing
) -> None:
    with freezing.frozen(), pytest.raises(fastio.ReplicaError, match="no answer in time"):
        fastio.Store.adopt(roots, force=True)
    with fastio.Store.open(roots) as store:
        assert_same(store.load(), tensors(2))
