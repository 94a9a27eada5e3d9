"""The object at the path before and after a save: a file, a symlink, nothing, or a wrong one."""

import errno
import fcntl
import gc
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import fastio
import testbed
from fastio.host.replacement import Replacement
from samples import eventually, open_files
from testbed.targets import refuse_nameless_files

_ARRAY = np.arange(300_000, dtype=np.float32)
_NEW = {"new": _ARRAY}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return fastio.save({"old": np.arange(5)}, tmp_path / "model.safetensors")


def _holds(path: Path, name: str) -> bool:
    return list(fastio.load(path, verify="require")) == [name]


def test_the_new_file_takes_mode_and_owner_of_the_old(old: Path) -> None:
    old.chmod(0o604)
    owned = os.geteuid() == 0
    if owned:
        os.chown(old, 12345, 54321)
    fastio.save(_NEW, old)
    status = old.stat()
    assert stat.S_IMODE(status.st_mode) == 0o604
    assert not owned or (status.st_uid, status.st_gid) == (12345, 54321)
    assert _holds(old, "new")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_every_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        (tmp_path / "usual").touch()
        saved = fastio.save(_NEW, tmp_path / "saved")
        folder = fastio.save(_NEW, tmp_path / "folder", shard_bytes=10)
    finally:
        os.umask(before)
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    for path in (saved, *folder.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == usual


def test_a_symlink_is_replaced_and_not_followed(old: Path, tmp_path: Path) -> None:
    """A hub's cache has links to files with hashes as names."""
    before = old.read_bytes()
    link = tmp_path / "link.safetensors"
    link.symlink_to(old.name)
    fastio.save(_NEW, link)
    assert not link.is_symlink()
    assert _holds(link, "new")
    assert old.read_bytes() == before
    assert stat.S_IMODE(link.stat().st_mode) == stat.S_IMODE(old.stat().st_mode)


def test_a_file_that_was_loaded_can_be_saved_over(old: Path) -> None:
    """A warm file is mapped: its loaded tensors must not change when its name does."""
    mapped = fastio.load(old)
    fastio.save({"old": mapped["old"], "new": _ARRAY}, old)
    np.testing.assert_array_equal(mapped["old"], np.arange(5))
    again = fastio.load(old, verify="require")
    np.testing.assert_array_equal(again["old"], np.arange(5))
    np.testing.assert_array_equal(again["new"], _ARRAY)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (os.mkdir, errno.EISDIR),
        (os.mkfifo, errno.EEXIST),
    ],
    ids=["folder", "pipe"],
)
def test_pipes_and_folders_are_not_replaced(tmp_path: Path, make: Any, code: int) -> None:
    path = tmp_path / "it"
    make(path)
    before = path.lstat()
    with pytest.raises(fastio.WriteError) as raised:
        fastio.save(_NEW, path)
    assert (raised.value.errno, raised.value.path) == (code, str(path))
    assert path.lstat() == before
    assert os.listdir(tmp_path) == ["it"]


def test_a_file_in_the_place_of_a_folder_is_an_error(old: Path) -> None:
    before = old.read_bytes()
    with pytest.raises(fastio.WriteError, match="folder") as raised:
        fastio.save(_NEW, old, shard_bytes=100)
    assert raised.value.errno == errno.ENOTDIR
    assert old.read_bytes() == before


@pytest.mark.root
def test_a_read_only_filesystem_is_an_error(tmp_path: Path) -> None:
    with testbed.tmpfs_mount(tmp_path) as mount:
        path = fastio.save({"old": np.arange(5)}, mount.path / "model.safetensors")
        testbed.requirements.run_tool("mount", "-o", "remount,ro", str(mount.path))
        with pytest.raises(fastio.WriteError) as raised:
            fastio.save(_NEW, path)
        assert (raised.value.errno, raised.value.path) == (errno.EROFS, str(path))
        assert _holds(path, "old")


@pytest.mark.root
def test_a_folder_of_another_user_is_an_error(old: Path) -> None:
    code = """
import sys, numpy, fastio
fastio.save({"new": numpy.arange(3)}, sys.argv[1])
"""
    done = testbed.run_python(code, old, uid=65534)
    assert done.exception == "fastio.errors.WriteError"
    assert "EACCES" in (done.message or "")
    assert _holds(old, "old")


@pytest.mark.root
def test_a_full_disk_is_found_before_any_file_is_written(tmp_path: Path, engine: Any) -> None:
    with testbed.tmpfs_mount(tmp_path, nbytes=2**22) as mount:
        path = fastio.save({"old": np.arange(5)}, mount.path / "model.safetensors")
        for shard_bytes, target in ((None, path), (2**20, mount.path / "folder")):
            with pytest.raises(fastio.WriteError) as raised:
                fastio.save(
                    {f"t{i}": _ARRAY for i in range(5)},
                    target,
                    shard_bytes=shard_bytes,
                    options=fastio.Options(engine=engine),
                )
            assert (raised.value.errno, raised.value.operation) == (errno.ENOSPC, "fallocate")
        assert _holds(path, "old")
        assert os.listdir(mount.path / "folder") == []
        assert sorted(os.listdir(mount.path)) == ["folder", path.name]


def test_leftovers_of_a_crash_are_removed_by_the_next_save(old: Path) -> None:
    leftover = old.parent / f".{old.name}.0123456789abcdef.fastio-tmp"
    others = [
        old.parent / f".{old.name}.0123456789abcdef",
        old.parent / ".other.safetensors.0123456789abcdef.fastio-tmp",
        old.parent / f".{old.name}.0123.fastio-tmp",
    ]
    for path in (leftover, *others):
        path.write_bytes(b"half")
    fastio.save(_NEW, old)
    assert not leftover.exists()
    assert all(path.exists() for path in others)


def test_files_in_use_by_another_writer_are_left_alone(old: Path) -> None:
    temporary = old.parent / f".{old.name}.0123456789abcdef.fastio-tmp"
    with temporary.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fastio.save(_NEW, old)
        assert temporary.exists()
    fastio.save(_NEW, old)
    assert not temporary.exists()


def test_a_file_that_is_on_its_way_is_locked_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_nameless_files(monkeypatch)
    path = tmp_path / "model.safetensors"
    replacement = Replacement(path)
    fastio.save(_NEW, path)  # which looks for leftovers
    assert replacement.temporary.exists()
    replacement.close()
    assert os.listdir(tmp_path) == [path.name]


def test_descriptors_are_closed(old: Path, engine: Any) -> None:
    options = fastio.Options(engine=engine)
    fastio.save(_NEW, old, options=options)
    gc.collect()  # leftovers of other tests
    before = open_files()
    for shard_bytes in (None, 1000):
        target = old if shard_bytes is None else old.parent / "folder"
        fastio.save(_NEW, target, shard_bytes=shard_bytes, options=options)
    with pytest.raises(fastio.WriteError):
        fastio.save(_NEW, old.parent)
    assert eventually(lambda: open_files() <= before)


def test_every_filesystem(storage: Path, engine: Any, cache: Any) -> None:
    tensors = {"a": torch.randn(700, 1000), "b": torch.arange(77)}
    options = fastio.Options(engine=engine, cache=cache)
    for _ in range(2):  # new, and replaced
        path = fastio.save(tensors, storage / "model.safetensors", options=options)
        folder = fastio.save(tensors, storage / "folder", shard_bytes=1000, options=options)
    for source in (path, folder):
        loaded = fastio.load(source, framework="torch", verify="require")
        assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(safetensors.torch.load_file(path)["a"], tensors["a"])
    assert len(os.listdir(folder)) == 3
