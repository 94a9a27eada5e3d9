"""A root has a wrong object in the place of a file or a folder. It is skipped. Writers, status and
verification name the object and the remedy.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import fastio
from store.samples import assert_same, create, tensors

_FOLDERS = ("shards", "manifests", "commits")
_FILES = ("fastio-root.json", "promise", "lock", "verified")


def _link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "kept")


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def _file(path: Path) -> None:
    path.write_bytes(b"no folder")


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "full").touch()


_STANDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "file": (_file, "a file is in its place"),
    "pipe": (os.mkfifo, "a pipe is in its place"),
    "link": (_link, "symlink"),
    "loop": (_link_to_itself, "symlink"),
    "folder": (_folder, "a folder is in its place"),
}
_CASES = [
    (name, kind)
    for names, but in ((_FOLDERS, "folder"), (_FILES, "file"))
    for name in names
    for kind in _STANDS
    if kind != but
]
# A save replaces such objects by a new promise, and needs no note.
_SAVED = {("promise", kind) for kind in ("pipe", "link", "loop")}


def _misplace(root: Path, name: str, kind: str) -> str:
    path = root / name
    path.rename(root.parent / "kept")
    _STANDS[kind][0](path)
    return _STANDS[kind][1]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _create(folder: Path, roots: int) -> fastio.Store:
    store = create(folder, roots, replicas=2)
    store.save(tensors(1))
    assert store.verify(repair=True).ok
    return store


@pytest.mark.parametrize(("name", "kind"), _CASES)
def test_a_needed_root_is_named_with_the_remedy(tmp_path: Path, name: str, kind: str) -> None:
    store = _create(tmp_path, 2)
    says = _misplace(tmp_path / "root0", name, kind)
    assert says in store.status().roots[str(tmp_path / "root0")]
    assert store.status().degraded
    found = store.verify()
    assert not found.ok
    assert any(str(tmp_path / "root0") in event.path for event in found.damaged)
    if name == "verified" or (name, kind) in _SAVED:
        assert store.save(tensors(2)) == 2
        return
    for opened in (store, fastio.Store.open(tmp_path / "root1")):
        with pytest.raises(fastio.ReplicaError, match=r"store.verify\(repair=True\)") as raised:
            opened.save(tensors(2))
        (reason,) = raised.value.reasons.values()
        assert set(raised.value.reasons) == {str(tmp_path / "root0")}
        assert f"root0/{name}: " in reason
        assert says in reason
        assert_same(opened.load(), tensors(1))


@pytest.mark.parametrize(("name", "kind"), _CASES)
def test_other_roots_go_on_without_it_and_restore_its_files(
    tmp_path: Path, name: str, kind: str
) -> None:
    store = _create(tmp_path, 3)
    _misplace(tmp_path / "root0", name, kind)
    assert store.save(tensors(2)) == 2
    assert store.rollback_to(1) == 3
    assert_same(store.load(), tensors(1))
    store.gc()
    found = store.verify(repair=True)
    assert_same(store.load(), tensors(1))
    if not found.ok:
        assert "remove that" in str(found)
        _remove(tmp_path / "root0" / name)
        assert store.verify(repair=True).ok
    assert not store.status().degraded
    shutil.rmtree(tmp_path / "root1")
    assert_same(fastio.load(tmp_path / "root0"), tensors(1))


def test_a_manifest_in_whose_place_a_folder_stands_is_mended_once_that_is_empty(
    tmp_path: Path,
) -> None:
    store = _create(tmp_path, 2)
    path = max((tmp_path / "root0" / "manifests").iterdir(), key=lambda path: path.stat().st_size)
    path.unlink()
    _folder(path)
    assert "a folder is in its place" in store.status().roots[str(tmp_path / "root0")]
    found = store.verify(repair=True)
    assert not found.ok
    assert "a folder is in its place" in str(found)
    assert "no root has it" not in str(found)
    (path / "full").unlink()
    assert store.verify(repair=True).ok
    assert path.is_file()


def test_a_root_that_became_another_one_gets_no_writes_for_the_old_one(tmp_path: Path) -> None:
    """A store that is adopted while it is open elsewhere."""
    create(tmp_path / "original", 2).save(tensors(1))
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    roots = [tmp_path / "copy" / f"root{at}" for at in range(2)]
    before = fastio.Store.open(roots)
    adopted = fastio.Store.adopt(roots)
    with pytest.raises(fastio.FastioError, match="is of another store"):
        before.save(tensors(2))
    assert adopted.save(tensors(3)) == 3
    assert adopted.verify().ok
