"""Collection keeps the generations in use by readers, and the last readable one.

It needs no free space, and leaves files that it cannot remove.
"""

import contextlib
import errno
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import testbed
from fastio.storage.folder import Folder
from fastio.store.collect import Collected
from fastio.store.layout import COMMITS
from fastio.store.root import Root
from store.samples import create, shards_of
from testbed.mounts import unmount
from testbed.requirements import require_root, run_tool_or_skip

_COUNT = 5


def _tensors(seed: int) -> dict[str, Any]:
    return {f"t{at}": np.full(100_000, 10 * seed + at, np.int32) for at in range(_COUNT)}


def _seed_of(found: Any) -> int:
    """The seed of the loaded or read tensors; each value is checked."""
    seeds = set()
    for at in range(_COUNT):
        values = np.unique(found[f"t{at}"][...])
        assert len(values) == 1
        seeds.add((int(values[0]) - at) // 10)
    (seed,) = seeds
    return seed


def _roots(folder: Path, count: int = 2) -> list[Path]:
    return [folder / f"root{at}" for at in range(count)]


def _save_and_collect(roots: list[Path], seed: int) -> Collected:
    with fastio.Store.open(roots) as other:
        other.save(_tensors(seed))
        return other.gc(keep=1)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


# ---- generations in use


def test_a_rewritten_record_keeps_a_generation_in_use_from_collection(tmp_path: Path) -> None:
    """A root comes back, and the next writer writes the record of the generation in use under his
    ballot.
    """
    roots = _roots(tmp_path, 3)
    create(tmp_path, 3).close()
    roots[2].rename(tmp_path / "away")
    with fastio.Store.open(roots[:2]) as store:
        store.save(_tensors(1))
    with fastio.Store.open(roots[:2]) as store, store.reader() as reader:
        before = (roots[0] / "commits" / f"{1:016x}").stat().st_ino
        (tmp_path / "away").rename(roots[2])
        assert _save_and_collect(roots, 2).in_use == (1,)
        assert (roots[0] / "commits" / f"{1:016x}").stat().st_ino != before
        assert _seed_of(reader) == 1
    assert _save_and_collect(roots, 3).generations == (2, 1)


@pytest.mark.usefixtures("no_collector")
def test_collection_does_not_wait_for_a_root_without_the_generation(tmp_path: Path) -> None:
    """A root comes back without the generation in use; the collector does not wait for it."""
    roots = _roots(tmp_path, 3)
    create(tmp_path, 3).close()
    roots[2].rename(tmp_path / "away")
    with fastio.Store.open(roots[:2]) as store:
        store.save(_tensors(1))
    (tmp_path / "away").rename(roots[2])
    with fastio.Store.open(roots) as store:
        store.save(_tensors(2))
        assert store.gc(keep=1).generations == (1, 0)


def test_removed_records_keep_a_generation_in_use_from_collection(tmp_path: Path) -> None:
    roots = _roots(tmp_path)
    with create(tmp_path) as store:
        store.save(_tensors(1))
    reader = fastio.open(roots[0])
    with fastio.Store.open(roots) as store:
        store.save(_tensors(2))
    for root in roots:
        (root / "commits" / f"{1:016x}").unlink()
    assert _save_and_collect(roots, 3).generations == (2, 0)
    assert _seed_of(reader) == 1
    reader.close()
    assert _save_and_collect(roots, 4).nbytes > 2 * 2 * sum(t.nbytes for t in _tensors(0).values())


def test_a_root_that_comes_back_while_it_is_read_is_held_as_well(tmp_path: Path) -> None:
    """The reader had one root; the other two come back, and the one leaves. The collector then sees
    no lock of the first root.
    """
    roots = _roots(tmp_path, 3)
    with create(tmp_path, 3) as store:
        store.save(_tensors(1))
    for root in roots[1:]:
        root.rename(root.with_suffix(".away"))
    with fastio.Store.open(roots[:1]) as store:
        for root in roots[1:]:
            root.with_suffix(".away").rename(root)
        reader = store.reader()  # which looks again for missing roots
        roots[0].rename(tmp_path / "gone")
        assert _save_and_collect(roots[1:], 2).in_use == (1,)
        assert _seed_of(reader) == 1
        reader.close()


@pytest.mark.parametrize("closed_by", ["parent", "child"])
def test_a_generation_in_use_by_a_forked_child_is_not_collected(
    tmp_path: Path, closed_by: str
) -> None:
    roots = _roots(tmp_path)
    with create(tmp_path) as store:
        store.save(_tensors(1))
    reader = fastio.open(roots[0])
    _seed_of({"t0": reader["t0"], **_tensors(1)})
    closed, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        os.close(go[1])  # so that it ends with its parent at the latest
        try:
            if closed_by == "child":
                reader.close()
            os.write(closed[1], b"x")
            os.read(go[0], 1)
            status = 0 if closed_by == "child" or _seed_of(reader) == 1 else 2
        finally:
            os._exit(status)
    os.read(closed[0], 1)
    if closed_by == "parent":
        reader.close()
    assert _save_and_collect(roots, 2).in_use == (1,)
    os.write(go[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    if closed_by == "child":
        assert _seed_of(reader) == 1
        reader.close()
    assert _save_and_collect(roots, 3).generations == (2, 1)
    for fd in (*closed, *go):
        os.close(fd)


def test_a_manifest_that_two_generations_have_stays_while_one_of_them_does(tmp_path: Path) -> None:
    """As after a rollback: the older generation is gone, and its shards remain."""
    roots = _roots(tmp_path)
    with create(tmp_path) as store:
        store.save(_tensors(1))
        store.save(_tensors(2))
        assert store.rollback_to(1) == 3
        collected = store.gc(keep=1)
        assert (collected.generations, collected.in_use) == ((2, 1, 0), ())
        assert _seed_of(store.load()) == 1
    assert _seed_of(fastio.load(roots[1])) == 1


# ---- the last readable generation


def _write_to_one_root(roots: list[Path], seed: int, last: str) -> None:
    """A writer dies right before his record reaches the last root: the commit was not reported."""
    child = os.fork()
    if child == 0:
        real = Root.put_record

        def put_record(self: Root, *arguments: Any, **more: Any) -> None:
            if self.uuid == last:
                os._exit(0)
            real(self, *arguments, **more)

        try:
            Root.put_record = put_record  # type: ignore[method-assign]
            # Steps are taken on this thread.
            with fastio.Store.open(roots) as store:
                store.save(_tensors(seed))
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_unreported_partial_generation_never_replaces_a_whole_one(
    tmp_path: Path,
) -> None:
    """A writer dies before his second record. The root without it is restored from an older backup,
    and so lacks his shards. Readers, writers and collectors pass it over alike.
    """
    roots = _roots(tmp_path)
    with create(tmp_path, 2, replicas=1, shard_bytes=2**18) as store:
        store.save(_tensors(1))
        last, late = max((uuid, root.path) for uuid, root in store._opened.members.roots.items())
    shutil.copytree(late, tmp_path / "backup")
    _write_to_one_root(roots, 2, last)
    shutil.rmtree(late)
    (tmp_path / "backup").rename(late)
    for _ in range(2):
        with fastio.Store.open(roots) as store:
            assert store.generation == 1
            assert _seed_of(store.load()) == 1
            with pytest.raises(fastio.ConflictError, match="has no generation 2"):
                store.load(generation=2)
            store.gc(keep=1)
    with fastio.Store.open(roots) as store:
        assert store.save(_tensors(3)) == 2
        store.gc(keep=1)
        assert _seed_of(store.load()) == 3


def _zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("lose", [Path.unlink, _zeroed, _cut])
def test_a_reported_generation_without_its_shards_does_not_count_as_kept(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    """The newest generation has no sound shard; the one before is the last readable one."""
    roots = _roots(tmp_path)
    with create(tmp_path) as store:
        store.save(_tensors(1))
        before = {path.name for root in roots for path in shards_of(root)}
        store.save(_tensors(2))
        for root in roots:
            for path in shards_of(root):
                if path.name not in before:
                    lose(path)
        assert store.gc(keep=1).generations == (0,)
        assert _seed_of(store.load(generation=1)) == 1


def test_a_generation_in_doubt_does_not_count_as_kept(tmp_path: Path) -> None:
    """It is on one root of three; that root's loss would take it, and the one before as well."""
    roots = _roots(tmp_path, 3)
    with create(tmp_path, 3, replicas=3) as store:
        store.save(_tensors(1))
        first, second, _ = sorted(store._opened.members.roots)
    child = os.fork()
    if child == 0:
        try:
            _write_to_one_root(roots, 2, second)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    with fastio.Store.open(roots) as store:
        assert store.generation == 2  # it is whole, and so it is read
        holder = store._opened.members.roots[first].path
        assert store.gc(keep=1).generations == (0,)
    shutil.rmtree(holder)
    with fastio.Store.open([root for root in roots if root.exists()]) as store:
        assert (store.generation, _seed_of(store.load())) == (1, 1)


# ---- failures that collection tolerates


@pytest.mark.root
def test_a_disk_without_any_space_is_collected(tmp_path: Path) -> None:
    with (
        testbed.tmpfs_mount(_made(tmp_path / "a"), nbytes=16 << 20) as first,
        testbed.tmpfs_mount(_made(tmp_path / "b"), nbytes=16 << 20) as second,
    ):
        roots = [first.path / "root0", second.path / "root1"]
        with fastio.Store.create(roots, replicas=2) as store:
            for seed in range(3):
                store.save(_tensors(seed))
            for mount in (first, second):
                _fill(mount.path / "fill")
            with pytest.raises(fastio.ReplicaError, match="ENOSPC"):
                store.save(_tensors(9))
            assert set(store.status().free_bytes.values()) == {0}
            assert store.gc(keep=1).generations == (2, 1, 0)
            assert _seed_of(store.load()) == 2
            assert store.save(_tensors(4)) == 4


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _a_symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere")


@pytest.mark.parametrize("change", [_a_folder, _a_pipe, _a_symlink])
@pytest.mark.parametrize("what", ["record", "manifest", "shard", "leftover"])
def test_a_file_that_cannot_be_removed_does_not_stop_collection(
    tmp_path: Path, change: Callable[[Path], None], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    roots = _roots(tmp_path, 3)
    with create(tmp_path, 3) as store:
        store.save(_tensors(1))
        old = {path.name for root in roots for path in shards_of(root)}
        for seed in (2, 3):
            store.save(_tensors(seed))
        root = Path(store._opened.members.roots[min(store._opened.members.roots)].path)
        digest = next(
            one.record.manifest
            for one in store._opened.members.standings()
            if one.record.generation == 1
        )
        path = {
            "record": root / "commits" / f"{1:016x}",
            "manifest": root / "manifests" / f"{digest}.json",
            "shard": next(path for path in shards_of(root) if path.name in old),
            "leftover": root / "shards" / ".new.0123456789abcdef.fastio-tmp",
        }[what]
        path.touch()
        change(path)
        for _ in range(2):
            store.save(_tensors(4))
            store.gc(keep=1)
        assert _seed_of(store.load()) == 4
        for each in roots:
            assert not old.intersection(other.name for other in shards_of(each) if other != path)
        assert len(store.generations()) == 1


def test_files_of_a_record_that_cannot_be_removed_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One root fails to remove a record, as if another user owned its folder."""
    remove = Folder.remove

    def refused(storage: Folder, sub: str, name: str) -> None:
        if sub == COMMITS and name == f"{1:016x}" and storage.path.name == "root0":
            raise fastio.WriteError(errno.EACCES, "unlink", storage.path / sub / name)
        remove(storage, sub, name)

    with create(tmp_path, 2) as store:
        for seed in (1, 2, 3):
            store.save(_tensors(seed))
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "remove", refused)
            assert store.gc(keep=1).generations == (2, 0)
        numbers = [each.number for each in store.generations()]
        assert numbers == [3, 1]
        assert _seed_of(store.load(generation=1)) == 1
        assert store.verify().ok
        assert store.gc(keep=1).generations == (1,)
        assert len(store.generations()) == 1


@pytest.mark.root
def test_a_filesystem_that_does_not_say_how_large_it_is_holds_a_store(tmp_path: Path) -> None:
    """ramfs reports 0 blocks, like some network filesystems."""
    require_root("mounts a ramfs")
    folder = _made(tmp_path / "mnt")
    run_tool_or_skip("mount", "-t", "ramfs", "ramfs", str(folder))
    try:
        with fastio.Store.create([folder / "root0"], replicas=1) as store:
            assert store.save(_tensors(1)) == 1
            assert _seed_of(store.load()) == 1
            assert store.status().free_bytes == {}
            assert not store.status().degraded
    finally:
        unmount(folder)
