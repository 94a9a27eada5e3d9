"""Damage that a load misses is found and repaired, so that the other root can be lost."""

import errno
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
from fastio import _native
from fastio.store import locks, verify
from fastio.store.commit import Session
from fastio.store.documents import Verified
from fastio.store.replicas import read_all
from fastio.store.root import Root
from store.damages import FAULTS, damage_data, each_manifest, each_record, each_shard, flip
from store.samples import CHUNK_BYTES, assert_same, create, shards_of, tensors
from testbed import run_python, tmpfs_mount

_PAGE = Path(__file__).parents[2] / "docs/stores.md"


def _to_a_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _to_a_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _to_a_symlink(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.with_name("elsewhere"))


# Of small files that a load does not need, or finds on another root.
_SMALL: dict[str, Callable[[Path], Any]] = {
    "lock a folder": lambda root: _to_a_folder(root / "lock"),
    "lock a pipe": lambda root: _to_a_pipe(root / "lock"),
    "lock a symlink": lambda root: _to_a_symlink(root / "lock"),
    "promise damaged": lambda root: flip(root / "promise", 30),
    "promise empty": lambda root: (root / "promise").write_bytes(b""),
    "promise a folder": lambda root: _to_a_folder(root / "promise"),
    "promise a pipe": lambda root: _to_a_pipe(root / "promise"),
    "manifests folders": lambda root: each_manifest(root, _to_a_folder),
    "manifests folder missing": lambda root: shutil.rmtree(root / "manifests"),
    "records folders": lambda root: each_record(root, _to_a_folder),
    "one old record missing": lambda root: (root / "commits" / f"{1:016x}").unlink(),
    "one old manifest damaged": lambda root: flip(_manifest_of(root, 1), 50),
}
_ALL = {**FAULTS, **_SMALL}
# Only a person can know that a root exists, and which one; a person set the symlink.
_NOT_MENDED = {
    "missing root",
    "empty root",
    "root of another store",
    "shards folder a symlink",
}
# Only a read of the shards shows these.
_UNSEEN_BY_STATUS = {"data damaged", "chunks swapped", "headers damaged"}


def _manifest_of(root: Path, generation: int) -> Path:
    opened = Root.open(root)
    digest = opened.records()[generation].manifest
    opened.close()
    return root / "manifests" / f"{digest}.json"


def _open(folder: Path) -> fastio.Store:
    return fastio.Store.open([folder / "root0", folder / "root1"])


def test_a_sound_store_is_whole_and_says_when_that_was_seen(folder: Path) -> None:
    with _open(folder) as store:
        before = store.status()
        assert set(before.verified_at_s.values()) == {None}
        assert "never verified whole" in str(before)
        found = store.verify()
        assert found.ok
        assert not found.damaged
        assert set(found.roots.values()) == {"whole"}
        shards = [path for root in (0, 1) for path in shards_of(folder / f"root{root}")]
        assert found.nbytes == sum(path.stat().st_size for path in shards)
        after = store.status()
        assert not after.degraded
        assert all(at is not None for at in after.verified_at_s.values())
        assert "verified whole on 20" in str(after)
    noted = folder / "root0" / "verified"
    document = Verified.decode(noted.read_bytes(), str(noted))
    assert document.nbytes == found.nbytes // 2
    assert document.generations == 3
    assert stat.S_IMODE(noted.stat().st_mode) == 0o600


@pytest.mark.parametrize("root", [0, 1])
@pytest.mark.parametrize("fault", _ALL)
def test_damage_is_repaired_so_that_the_other_root_can_be_lost(
    folder: Path, fault: str, root: int
) -> None:
    _ALL[fault](folder / f"root{root}")
    with _open(folder) as store:
        assert store.status().degraded == (fault not in _UNSEEN_BY_STATUS)
        found = store.verify()
        assert not found.ok
        assert all(f"root{root}" in event.path for event in found.damaged)
        assert not found.repaired
        mended = store.verify(repair=True)
        if fault in _NOT_MENDED:
            assert not mended.ok
            assert any("could not be mended" in event.remedy for event in mended.damaged)
            return
        assert mended.ok, str(mended)
        assert {event.path for event in mended.repaired} == {event.path for event in mended.damaged}
        again = store.verify()
        assert again.ok
        assert not again.damaged
        assert not store.status().degraded, str(store.status())
    assert not list((folder / f"root{root}").rglob(".*"))
    other = folder / f"root{1 - root}"
    shutil.rmtree(other)
    with fastio.Store.open(folder / f"root{root}") as store:
        assert_same(store.load(), tensors(2))
        assert_same(store.load(generation=1), tensors(1))


def test_every_damaged_chunk_of_every_generation_is_listed(folder: Path) -> None:
    expected: dict[str, set[int]] = {}
    for root in (0, 1):
        for at, shard in enumerate(shards_of(folder / f"root{root}")):
            size = shard.stat().st_size
            start = 8 + int.from_bytes(shard.read_bytes()[:8], "little")
            for chunk in range(-(-(size - start) // CHUNK_BYTES)):
                if (chunk + at) % 2 == root:
                    flip(shard, start + chunk * CHUNK_BYTES)
                    expected.setdefault(str(shard), set()).add(start + chunk * CHUNK_BYTES)
    with _open(folder) as store:
        found = store.verify()
        listed = {
            event.path: {at for begin, end in event.ranges for at in range(begin, end, CHUNK_BYTES)}
            for event in found.damaged
        }
        assert listed == expected
        assert all(event.tensors for event in found.damaged)
        assert store.verify(repair=True).ok  # each chunk is sound in one of the replicas
        assert store.verify().ok


def test_chunks_without_a_sound_replica_are_reported_and_the_rest_is_repaired(folder: Path) -> None:
    lost, *others = shards_of(folder / "root0")
    for root in (0, 1):
        damage_data(folder / f"root{root}" / "shards" / lost.name)
    damage_data(others[0])
    with _open(folder) as store:
        found = store.verify(repair=True)
        assert not found.ok
        left = {event.path for event in found.damaged} - {event.path for event in found.repaired}
        assert left == {str(folder / f"root{root}" / "shards" / lost.name) for root in (0, 1)}
        assert {event.path for event in found.repaired} == {str(others[0])}
        for event in found.damaged:
            if event.path in left:
                assert "could not be mended" in event.remedy
                assert "is damaged at byte" in event.remedy
        assert all(at is None for at in store.status().verified_at_s.values())


def test_reads_that_fail_are_findings(tmp_path: Path) -> None:
    store = create(tmp_path, 1, shard_bytes=2**30)
    store.save({"a": np.arange(8 * CHUNK_BYTES // 8)})
    options = fastio.Options(lanes=1, block_bytes=4 * CHUNK_BYTES)
    # The header, the first block, and each of its chunks alone.
    faults = [(at, "error", errno.EIO) for at in (1, 2, 4)]
    _native.testing.set_completion_faults(faults)
    try:
        found = store.verify(options=options)
    finally:
        _native.testing.set_completion_faults([])
    (event,) = found.damaged
    assert "Input/output error" in event.cause
    assert event.count is not None
    assert 1 <= event.count <= 4
    assert event.tensors == ("a",)
    assert store.verify().ok


def test_a_chunk_that_is_sound_in_a_second_read_is_a_note(tmp_path: Path) -> None:
    store = create(tmp_path, 1, shard_bytes=2**30)
    store.save({"a": np.arange(8 * CHUNK_BYTES // 8)})
    _native.testing.set_completion_faults([(1, "flip", 5)])
    try:
        found = store.verify(options=fastio.Options(lanes=1, block_bytes=CHUNK_BYTES))
    finally:
        _native.testing.set_completion_faults([])
    assert found.ok
    assert not found.damaged
    assert any("read again" in note for note in found.notes)


def test_damage_that_the_page_cache_hides_is_found(folder: Path) -> None:
    """The disk is compared, whatever the page cache holds."""
    shard = shards_of(folder / "root1")[0]
    sound = shard.read_bytes()
    damage_data(shard)
    fd = os.open(shard, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    with _open(folder) as store:
        assert not store.verify().ok
    shard.write_bytes(sound)


def test_manifests_are_mended_in_place_while_somebody_reads(folder: Path) -> None:
    path = _manifest_of(folder / "root1", 2)
    inode = path.stat().st_ino
    with _open(folder) as store, store.reader() as reader:
        flip(path, 99)
        assert store.verify(repair=True).ok
        assert path.stat().st_ino == inode
        assert reader["flags"][...].tobytes() == np.asarray(tensors(2)["flags"]).tobytes()


def test_a_promise_is_not_mended_while_a_root_is_away(folder: Path) -> None:
    flip(folder / "root1" / "promise", 30)
    shutil.rmtree(folder / "root0")
    with fastio.Store.open(folder / "root1") as store:
        found = store.verify(repair=True)
    assert not found.ok
    (event,) = [event for event in found.damaged if event.path.endswith("promise")]
    assert "all roots can be reached" in event.remedy


def test_a_writer_that_keeps_its_lock_is_named_as_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = Session.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "wait_s", 0.05)
    (folder / "root1" / "commits" / f"{1:016x}").unlink()
    root = Root.open(folder / "root0")
    held = locks.lock(root)
    assert held is not None
    try:
        with _open(folder) as store:
            found = store.verify(repair=True)
    finally:
        held.close()
        root.close()
    assert not found.ok
    (event,) = found.damaged
    assert "somebody else is writing to this store" in event.remedy


def test_a_root_that_was_away_is_brought_up_to_date(tmp_path: Path) -> None:
    store = create(tmp_path, 3, replicas=2)
    store.save(tensors(1))
    (tmp_path / "root2").rename(tmp_path / "away")
    store.save(tensors(2))
    (tmp_path / "away").rename(tmp_path / "root2")
    status = store.status()
    assert status.degraded
    assert "lags" in status.roots[str(tmp_path / "root2")]
    assert not store.verify().ok
    assert store.verify(repair=True).ok
    assert store.status().roots[str(tmp_path / "root2")] == "ok"


def test_nothing_is_collected_while_it_is_verified(folder: Path) -> None:
    collected = []

    def collect(event: fastio.Event) -> None:
        raise AssertionError(event)

    before = fastio.on_event(collect)
    try:
        with _open(folder) as store, _open(folder) as other:

            def slowly(*arguments: Any) -> Any:
                collected.append(other.gc(keep=1))
                return read_all(*arguments)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("fastio.store.replicas.read_all", slowly)
                assert store.verify().ok
    finally:
        fastio.on_event(before)
    assert collected[0].generations == ()
    assert set(collected[0].in_use) == {0, 1}


def test_files_that_no_generation_names_are_counted_and_not_read(folder: Path) -> None:
    stray = folder / "root0" / "shards" / "stray.0123456789abcdef.safetensors"
    stray.write_bytes(b"x" * 1000)
    with _open(folder) as store:
        found = store.verify()
    assert found.ok
    assert (found.strays, found.stray_bytes) == (1, 1000)
    assert "no generation names: 1 file, 1.0 kB; they were not read" in str(found)


def test_a_read_only_root_is_verified_and_status_says_so(tmp_path: Path) -> None:
    with tmpfs_mount(tmp_path) as mount:
        store = create(mount.path, 2)
        store.save(tensors(1))
        subprocess.run(["mount", "-o", "remount,ro", mount.path], check=True)
        try:
            status = store.status()
            assert status.degraded
            assert all("read-only" in state for state in status.roots.values())
            found = store.verify()
            assert found.ok
            assert sum("could not be noted" in note for note in found.notes) == 2
        finally:
            subprocess.run(["mount", "-o", "remount,rw", mount.path], check=True)


def test_a_full_root_is_reported(tmp_path: Path) -> None:
    with tmpfs_mount(tmp_path, nbytes=32 * 2**20) as mount:
        store = create(mount.path, 1)
        store.save(tensors(1))
        filler = os.open(mount.path / "filler", os.O_CREAT | os.O_WRONLY)
        with pytest.raises(OSError, match="No space left"):
            os.posix_fallocate(filler, 0, 2**40)
        left = os.fstatvfs(filler)
        os.posix_fallocate(filler, 0, left.f_bavail * left.f_frsize)
        os.close(filler)
        status = store.status()
        assert status.degraded
        (state,) = status.roots.values()
        assert "is full" in state
        assert str(status).count("0 B free") == 1, str(status)


def test_a_filesystem_that_does_not_tell_its_size_is_not_full(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fstatvfs

    def unknown(fd: int) -> os.statvfs_result:
        fields = list(real(fd))
        for at in (2, 3, 4, 5, 6, 7):  # blocks and inodes, in all and free
            fields[at] = 0
        return os.statvfs_result(fields)

    with _open(folder) as store:
        monkeypatch.setattr(os, "fstatvfs", unknown)
        status = store.status()
    assert not status.degraded
    assert status.free_bytes == {}


def test_a_load_that_repairs_names_the_unchecked_files(folder: Path) -> None:
    report = fastio.Report()
    with _open(folder) as store:
        store.load(on_damage="repair", report=report, options=fastio.Options(cache="bypass"))
        shards = store._opened.pinned.encoded.manifest.shards
        assert report.replicas_unread == len(shards)
        total = 2 * sum(shard.nbytes for shard in shards)
        assert report.bytes_unread == total - report.bytes_read > 0
        assert "not looked at" in str(report)
        assert "not looked at" in report.line()
        store.load(report=report)
        assert not report.replicas_unread


def test_listeners_receive_one_event_a_file(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    each_shard(folder / "root1", damage_data)
    told: list[fastio.Event] = []
    before = fastio.on_event(told.append)
    try:
        with _open(folder) as store:
            found = store.verify(repair=True)
    finally:
        fastio.on_event(before)
    damage = [event for event in told if event.kind == "damage"]
    assert damage == list(found.damaged)
    assert [event for event in told if event.kind == "repair"] == list(found.repaired)
    assert len(caplog.records) < 10


def test_arguments_are_checked_and_a_closed_store_is_refused(folder: Path) -> None:
    store = _open(folder)
    with pytest.raises(TypeError):
        store.verify(options=3)  # type: ignore[arg-type]
    store.close()
    with pytest.raises(fastio.UsageError):
        store.verify()


_CHILD = """
import sys
import fastio, fastio.store.store
def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))
store = fastio.Store.open(sys.argv[1:])
store.status()
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
found = store.verify(options=fastio.Options(lanes=8, queue_depth=64))
assert found.ok, found
print(status("VmHWM") - before, found.nbytes)
"""


@pytest.mark.parametrize("roots", [1, 2])
def test_memory_is_bounded_whatever_the_size(tmp_path: Path, roots: int) -> None:
    store = fastio.Store.create([tmp_path / f"root{at}" for at in range(roots)], replicas=roots)
    data = np.random.default_rng(1).integers(0, 256, 300 * 2**20, np.uint8)
    store.save({"a": data, "b": data[: 100 * 2**20]})
    store.close()
    said = run_python(_CHILD, *(str(tmp_path / f"root{at}") for at in range(roots))).check().stdout
    peak, nbytes = map(int, said.split())
    assert nbytes > roots * 400 * 2**20
    assert peak <= 128 * 2**20


def test_the_drill_of_the_documentation(tmp_path: Path) -> None:
    """Its blocks unchanged, with folders of this test in place of the disks."""
    blocks = re.findall(r"```python\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    made = next(block for block in blocks if "Store.create" in block)
    drill = next(block for block in blocks if "dd if=/dev/urandom" in block)
    torch = pytest.importorskip("torch")

    class Model:
        def state_dict(self) -> dict[str, Any]:
            random = torch.Generator().manual_seed(3)
            return {"w": torch.rand((1024, 1024, 2), generator=random), "b": torch.arange(10)}

    names: dict[str, Any] = {"fastio": fastio, "Path": Path, "os": os, "shutil": shutil}
    names["model"] = Model()
    shown: list[str] = []
    names["print"] = lambda value: shown.append(str(value))
    for block in (made, drill):
        code = block.replace("/nvme", f"{tmp_path}/nvme")
        exec(compile(code, str(_PAGE), "exec"), names)
    first, mended, status = shown
    assert "NOT OK" in first
    assert "1 file damaged" in first
    assert "1 mended" in mended
    assert status.count(": ok") == 2
    assert status.count("verified whole on") == 2
    for name, tensor in Model().state_dict().items():
        assert torch.equal(names["tensors"][name], tensor)


@pytest.mark.parametrize("saves_first", [False, True])
@pytest.mark.parametrize("backed_up_at", [2, 3])
def test_a_root_restored_from_an_old_backup_lags_and_brings_no_collected_generation_back(
    tmp_path: Path, backed_up_at: int, saves_first: bool
) -> None:
    roots = [tmp_path / "root0", tmp_path / "root1"]
    with create(tmp_path) as store:
        for generation in (1, 2, 3):
            store.save(tensors(generation))
            if generation == backed_up_at:
                shutil.copytree(roots[1], tmp_path / "backup")
        store.gc()
        store.save(tensors(4))
    shutil.rmtree(roots[1])
    shutil.copytree(tmp_path / "backup", roots[1])
    with fastio.Store.open(roots) as store:
        if saves_first and backed_up_at == 2:
            store.save(tensors(4))
        status = store.status()
        assert status.roots[str(roots[0])] == "ok"
        assert "this root lags" in status.roots[str(roots[1])]
        found = store.verify(repair=True)
        assert found.ok
        assert all("root1" in event.path for event in found.repaired)
        newest = store.generation
        assert [each.number for each in store.generations()] == [*range(newest, 2, -1)]
        for _ in range(2):
            assert not store.status().degraded
            assert store.verify().ok
        assert_same(store.load(), tensors(4))
    names = sorted(path.name for path in (roots[0] / "commits").iterdir())
    assert names == [f"{generation:016x}" for generation in range(3, newest + 1)]
    shutil.rmtree(roots[0])
    assert_same(fastio.load(roots[1]), tensors(4))


def test_shards_only_on_a_root_restored_from_a_backup_are_kept(tmp_path: Path) -> None:
    """The other root replaced one that had it."""
    with create(tmp_path) as store:
        store.save(tensors(1))
        shutil.copytree(tmp_path / "root0", tmp_path / "backup")
        store.replace_root(tmp_path / "root1", tmp_path / "new")
        store.save(tensors(3))
    shutil.rmtree(tmp_path / "root0")
    (tmp_path / "backup").rename(tmp_path / "root0")
    with fastio.Store.open([tmp_path / "root0", tmp_path / "new"]) as store:
        assert store.verify(repair=True).ok
        assert [each.number for each in store.generations()] == [3, 2, 1]
        assert_same(store.load(generation=1), tensors(1))
        assert not store.status().degraded


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("when", ["before shards are read", "before it is mended", "at the end"])
@pytest.mark.parametrize("lost", [None, "record", "manifest", "shards", "promise", "lock"])
def test_a_root_that_leaves_during_its_verification_is_reported(
    tmp_path: Path, lost: str | None, when: str, repair: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one replaces it, and does not count as verified."""
    with create(tmp_path, 3) as store:
        store.save(tensors(1))
        store.save(tensors(2))
    root = tmp_path / "root1"
    if lost == "record":
        sorted((root / "commits").iterdir())[1].unlink()
    elif lost == "manifest":
        each_manifest(root, Path.unlink)
    elif lost == "shards":
        each_shard(root, damage_data)
    elif lost is not None:
        (root / lost).unlink()
        (root / lost).mkdir()
    method = {
        "before shards are read": "read",
        "before it is mended": "mend" if repair else "result",
        "at the end": "_look_again" if repair else "result",
    }[when]
    real = getattr(verify._Run, method)

    def leaves(run: Any, *arguments: Any) -> Any:
        with fastio.Store.open(tmp_path / "root0") as other:
            other.replace_root(root, tmp_path / "new")
        root.rename(tmp_path / "away")
        store._opened.members.look_again()
        return real(run, *arguments)

    monkeypatch.setattr(verify._Run, method, leaves)
    with fastio.Store.open(tmp_path / "root0") as store:
        found = store.verify(repair=repair)
        assert str(tmp_path / "new") not in found.roots
        assert not (tmp_path / "new" / "verified").exists()
        monkeypatch.undo()
        if repair and when == "before it is mended" and lost is not None:
            (left,) = {event.remedy.split(":")[0] for event in found.damaged}
            assert left == "could not be mended"
            assert any("has left this store" in event.remedy for event in found.damaged)
    with fastio.Store.open(tmp_path / "root0") as store:
        assert store.verify(repair=True).ok
        assert not store.status().degraded
