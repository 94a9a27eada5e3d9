"""A store whose writer is killed, or whose power is cut, has the old generation or the new one. So
has each root by itself; and the next writer goes on.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastio
import testbed
from faults import stores
from faults.samples import NEW, NEXT, OLD, Engine, tensors_of

_CHANGE = """
from faults.stores import change
folder, what, engine = argv
change(Path(folder), what, engine)
say("returned")
"""
_AFTER = {"save": NEW, "rollback": OLD, "gc": NEW}


def _prepare(folder: Path, what: str) -> None:
    """A store before the change: with the old tensors, or, before a rollback, with the new ones
    after them.
    """
    for root in stores.roots_in(folder):
        shutil.rmtree(root, ignore_errors=True)
    stores.create(folder)
    if what != "save":
        stores.change(folder, "save", "pread")


def _check(folder: Path, what: str) -> int:
    """The tensors of the newest generation, seen from all roots and from each one."""
    roots = stores.roots_in(folder)
    seen = stores.held(roots)
    allowed = {"save": {OLD, NEW}, "rollback": {OLD, NEW}, "gc": {NEW}}[what]
    assert seen in allowed
    # The other root does not show a record that is on one root only; neither is torn.
    assert {stores.held([root]) for root in roots} <= allowed
    return seen


# Calls that write no shards use no engine.
_CHANGES = [("save", "uring"), ("save", "pread"), ("rollback", "pread"), ("gc", "pread")]


@pytest.mark.parametrize(("what", "engine"), _CHANGES)
def test_a_writer_that_is_killed_at_any_system_call(
    forks: testbed.Forks, tmp_path: Path, what: str, engine: Engine
) -> None:
    seen = []
    for n in itertools.count():
        _prepare(tmp_path, what)
        ended = forks.run(
            _CHANGE,
            tmp_path,
            what,
            engine,
            at=lambda stop, n=n: testbed.KILL if stop.at == n else testbed.GO_ON,  # type: ignore[misc]
        )
        seen.append(_check(tmp_path, what))
        stores.save_next(tmp_path)
        assert stores.held(stores.roots_in(tmp_path)) == NEXT
        stores.change(tmp_path, "gc", engine)
        assert stores.strays(tmp_path) == []
        assert stores.held(stores.roots_in(tmp_path)) == NEXT
        if not ended.killed:
            assert ended.check().said == ["returned"]
            break
    assert seen[-1] == _AFTER[what]
    if what == "save":
        assert seen == sorted(seen)
        assert set(seen) == {OLD, NEW}
    assert len(seen) > 10


@pytest.mark.parametrize("fault", ["pwrite64", "fsync", "fallocate", "linkat", "rename"])
def test_a_call_that_fails_anywhere_is_an_error_and_nothing_is_lost(
    forks: testbed.Forks, tmp_path: Path, engine: Engine, fault: str
) -> None:
    """EIO of each such call of a save, one at a time."""
    for n in itertools.count():
        _prepare(tmp_path, "save")
        count = itertools.count()

        def at(stop: testbed.Stop, count: Iterator[int] = count, n: int = n) -> testbed.Answer:
            if stop.name == fault and next(count) == n:
                return testbed.fail_with(5)
            return testbed.GO_ON

        ended = forks.run(_CHANGE, tmp_path, "save", engine, at=at)
        seen = _check(tmp_path, "save")
        if ended.exception is None:
            assert seen == NEW
        stores.save_next(tmp_path)
        assert stores.held(stores.roots_in(tmp_path)) == NEXT
        if next(count) <= n:  # there are no more of them
            assert ended.check().said == ["returned"]
            break
        raised = (ended.exception or "").rpartition(".")[2]
        assert raised in ("", "WriteError", "ReplicaError"), ended.message
    assert n > 2


@pytest.fixture(params=["ext4", "xfs"])
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[testbed.PowerMount]:
    """A filesystem whose power can be cut."""
    kind: Any = request.param
    with testbed.power_mount(tmp_path_factory.mktemp(kind), kind) as mount:
        yield mount


@pytest.mark.root
@pytest.mark.parametrize(("what", "engine"), _CHANGES)
def test_a_power_cut_at_any_step(
    forks: testbed.Forks, disk: testbed.PowerMount, what: str, engine: Engine
) -> None:
    def cut_at(n: int) -> Callable[[testbed.Stop], testbed.Answer]:
        def at(stop: testbed.Stop) -> testbed.Answer:
            if stop.at < n:
                return testbed.GO_ON
            disk.cut()
            return testbed.KILL

        return at

    seen = []
    for n in itertools.count(0, 3):
        folder = disk.path / f"{what}{n}"
        folder.mkdir()
        _prepare(folder, what)
        ended = forks.run(_CHANGE, folder, what, engine, at=cut_at(n))
        if not ended.killed:
            disk.cut()
        disk.restart()
        seen.append(_check(folder, what))
        stores.save_next(folder)
        assert stores.held(stores.roots_in(folder)) == NEXT
        shutil.rmtree(folder)
        if not ended.killed:
            break
    assert seen[-1] == _AFTER[what], "what was reported was lost"
    assert len(seen) > 5


@pytest.mark.root
def test_a_store_goes_on_without_a_root_whose_disk_fails(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, engine: Engine
) -> None:
    with testbed.failing_mount(tmp_path_factory.mktemp("failing")) as mount:
        roots = [tmp_path / "sound", mount.path / "failing"]
        store = fastio.Store.create(roots, replicas=2, shard_bytes=stores.SHARD_BYTES)
        store.save(tensors_of(OLD))
        shards = sorted((roots[1] / "shards").iterdir())
        mount.fail_from(shards[0])
        options = fastio.Options(engine=engine, cache="bypass")
        with fastio.Store.open(roots[0]) as opened:
            report = fastio.Report()
            found = opened.load(options=options, report=report)
        assert {name: one.tobytes() for name, one in found.items()} == {
            name: one.tobytes() for name, one in tensors_of(OLD).items()
        }
        assert any("failing" in line for line in report.fallbacks)


@pytest.mark.root
def test_a_root_that_is_full_is_found_before_a_byte_is_written(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    with testbed.tmpfs_mount(tmp_path / "small", nbytes=1 << 20) as mount:
        roots = [tmp_path / "large", mount.path / "root"]
        store = fastio.Store.create(roots, replicas=2)
        store.save({"few": tensors_of(OLD)["norm.weight"]})
        with pytest.raises(fastio.ReplicaError, match="ENOSPC") as caught:
            store.save({name: one.repeat(9) for name, one in tensors_of(OLD).items()})
        assert "small" in str(caught.value)
        assert store.generations()[0].number == 1
        assert list(store.load()) == ["few"]
        assert not [path for root in roots for path in root.rglob(".*")]
        store.close()


@pytest.mark.root
def test_a_root_that_is_read_only_can_be_read(tmp_path: Path) -> None:
    import ctypes

    (tmp_path / "disk").mkdir()
    with testbed.tmpfs_mount(tmp_path / "disk") as mount:
        roots = [tmp_path / "root0", mount.path / "root1"]
        store = fastio.Store.create(roots, replicas=2)
        store.save(tensors_of(OLD))
        store.close()
        libc = ctypes.CDLL(None, use_errno=True)
        read_only, remount = 1, 32
        assert libc.mount(None, str(mount.path).encode(), None, read_only | remount, None) == 0
        try:
            assert stores.held(roots) == OLD
            assert stores.held(roots[1:]) == OLD
            with (
                fastio.Store.open(roots) as opened,
                pytest.raises(fastio.ReplicaError, match="EROFS"),
            ):
                opened.save(tensors_of(NEW))
            assert stores.held(roots) == OLD
        finally:
            assert libc.mount(None, str(mount.path).encode(), None, remount, None) == 0
