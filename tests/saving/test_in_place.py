"""Options(in_place=True): the existing file stays, and its bytes are overwritten."""

import errno
import gc
import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import fastio.numpy
import testbed
from fastio.saving.writing import FileWriter
from testbed.requirements import run_tool_or_skip

_OLD = {"old": np.arange(100_000, dtype=np.float32)}
_NEW: dict[str, Any] = {"a": np.arange(50_001, dtype=np.float32), "b": np.arange(7, dtype=np.int8)}
_IN_PLACE = fastio.Options(in_place=True)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return fastio.save(_OLD, tmp_path / "model.safetensors")


def _assert_holds(path: Path, tensors: dict[str, Any]) -> None:
    found = fastio.load(path, verify="require", options=fastio.Options(mapping="never"))
    assert sorted(found) == sorted(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_it_stays_the_same_file_under_each_of_its_names(old: Path, engine: Any, cache: Any) -> None:
    old.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(old, 12345, 54321)
    other = old.with_name("other.safetensors")
    other.hardlink_to(old)
    before = old.stat()
    options = fastio.Options(in_place=True, engine=engine, cache=cache)
    for tensors in (_NEW, _OLD, _NEW):  # shorter, and longer
        report = fastio.Report()
        fastio.save(tensors, old, options=options, report=report)
        assert report.fallbacks == ()
        for path in (old, other):
            _assert_holds(path, tensors)
    after = old.stat()
    for name in ("st_ino", "st_mode", "st_uid", "st_gid", "st_nlink"):
        assert getattr(after, name) == getattr(before, name)
    assert sorted(os.listdir(old.parent)) == [old.name, other.name]


def test_a_symlink_is_followed(old: Path) -> None:
    link = old.with_name("link.safetensors")
    link.symlink_to(old.name)
    fastio.save(_NEW, link, options=_IN_PLACE)
    assert link.is_symlink()
    _assert_holds(old, _NEW)


def test_without_an_old_file_a_new_one_is_made_as_usual(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    dangling = tmp_path / "link.safetensors"
    dangling.symlink_to("gone")
    for target in (path, dangling):
        fastio.save(_NEW, target, options=_IN_PLACE)
        _assert_holds(target, _NEW)
        assert not target.is_symlink()
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.root
def test_a_file_that_is_a_mount_of_its_own(old: Path) -> None:
    """Like single files mounted into a container: no other file can take that name."""
    target = old.with_name("mounted.safetensors")
    target.write_bytes(b"")
    run_tool_or_skip("mount", "--bind", str(old), str(target))
    try:
        with pytest.raises(fastio.WriteError, match="in_place=True") as raised:
            fastio.save(_NEW, target)
        assert (raised.value.errno, raised.value.operation) == (errno.EBUSY, "rename")
        assert "something is mounted on this file" in (raised.value.detail or "")
        _assert_holds(target, _OLD)
        fastio.save(_NEW, target, options=_IN_PLACE)
        _assert_holds(old, _NEW)
    finally:
        subprocess.run(["umount", target], check=True)
    assert sorted(os.listdir(old.parent)) == [old.name, target.name]


@pytest.mark.root
def test_a_file_that_may_be_written_in_a_folder_that_may_not(old: Path) -> None:
    old.chmod(0o666)
    code = """
import sys, numpy, fastio
fastio.save({"new": numpy.arange(3)}, sys.argv[1])
"""
    refused = testbed.run_python(code, old, uid=1500)
    assert refused.exception == "fastio.errors.WriteError"
    assert "its folder may not be written to; Options(in_place=True)" in (refused.message or "")
    testbed.run_python(code, old, uid=1500, env={"FASTIO_IN_PLACE": "1"}).check()
    assert list(fastio.load(old, verify="require")) == ["new"]
    old.chmod(0o444)
    refused = testbed.run_python(code, old, uid=1500, env={"FASTIO_IN_PLACE": "1"})
    assert "EACCES" in (refused.message or "")
    assert list(fastio.load(old, verify="require")) == ["new"]


def test_the_variable_applies_to_calls_without_options(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTIO_IN_PLACE", "true")
    before = old.stat().st_ino
    fastio.numpy.save_file(_NEW, old)
    _assert_holds(old, _NEW)
    assert old.stat().st_ino == before


def test_tensors_that_are_a_mapping_of_the_file_are_not_lost(old: Path) -> None:
    """A mapping of a truncated file is a SIGBUS."""
    report = fastio.Report()
    with testbed.kept_warm(old):
        mapped = fastio.load(old, report=report)
    if not report.bytes_mapped:
        pytest.skip("files are not mapped here")
    with pytest.raises(fastio.WriteError, match="mapping='never'") as raised:
        fastio.save(mapped, old, options=_IN_PLACE)
    assert raised.value.errno == errno.EBUSY
    np.testing.assert_array_equal(mapped["old"], _OLD["old"])
    del mapped, raised  # the error holds the tensors of the save
    gc.collect()
    fastio.save(_NEW, old, options=_IN_PLACE)
    _assert_holds(old, _NEW)


def _interrupt(monkeypatch: pytest.MonkeyPatch, handler: Callable[[], None]) -> None:
    """Run a call in the middle of the next save, on its thread, as a handler is."""
    real = FileWriter.write_data

    def interrupted(self: Any, **more: Any) -> Any:
        monkeypatch.setattr(FileWriter, "write_data", real)
        handler()
        return real(self, **more)

    monkeypatch.setattr(FileWriter, "write_data", interrupted)


_OVERTAKES = "this thread is in the middle of writing it in place"


@pytest.mark.parametrize("options", [_IN_PLACE, None], ids=["in place", "beside it"])
@pytest.mark.parametrize("save", [fastio.save, fastio.start_save])
def test_a_handler_cannot_save_to_a_file_that_its_thread_writes_in_place(
    old: Path, monkeypatch: pytest.MonkeyPatch, options: fastio.Options | None, save: Any
) -> None:
    """The file would have parts of both."""

    def handler() -> None:
        with pytest.raises(fastio.WriteError, match=_OVERTAKES) as raised:
            save(_OLD, old, options=options)
        assert raised.value.errno == errno.EBUSY

    _interrupt(monkeypatch, handler)
    fastio.save(_NEW, old, options=_IN_PLACE)
    _assert_holds(old, _NEW)
    assert os.listdir(old.parent) == [old.name]


def test_a_handler_cannot_wait_for_a_save_queued_behind_a_save_in_place(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles = []

    def handler() -> None:
        other = threading.Thread(target=lambda: handles.append(fastio.start_save(_OLD, old)))
        other.start()
        other.join()
        with pytest.raises(fastio.WriteError, match=_OVERTAKES):
            handles[0].result()

    _interrupt(monkeypatch, handler)
    fastio.save(_NEW, old, options=_IN_PLACE)
    handles[0].result(60)
    _assert_holds(old, _OLD)


def test_one_save_at_a_time_writes_into_a_file(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have several names, whose saves take no turns."""
    other = old.with_name("other.safetensors")
    other.hardlink_to(old)

    def handler() -> None:
        with pytest.raises(fastio.WriteError, match="another save is writing into it") as raised:
            fastio.save(_OLD, other, options=_IN_PLACE)
        assert raised.value.errno == errno.EBUSY

    _interrupt(monkeypatch, handler)
    fastio.save(_NEW, old, options=_IN_PLACE)
    _assert_holds(old, _NEW)
    fastio.save(_OLD, other, options=_IN_PLACE)
    _assert_holds(old, _OLD)


def test_a_forked_child_holds_no_file_up(old: Path) -> None:
    """It has the descriptors of its parent."""
    code = """
import os, signal, sys
import numpy, fastio
from fastio.saving.writing import FileWriter

def interrupted(self, real=FileWriter.write_data, **more):
    children.append(os.fork())
    if children[-1] == 0:
        signal.pause()
    return real(self, **more)

children, options = [], fastio.Options(in_place=True)
FileWriter.write_data = interrupted
try:
    for mark in (1, 2):
        fastio.save({"a": numpy.full(100, mark)}, sys.argv[1], options=options)
finally:
    for child in children:
        os.kill(child, signal.SIGKILL)
"""
    testbed.run_python(code, old).check()
    _assert_holds(old, {"a": np.full(100, 2)})


def test_in_the_background_a_snapshot_is_written(old: Path) -> None:
    tensors = {"a": np.zeros(100_000)}
    handle = fastio.start_save(tensors, old, options=_IN_PLACE)
    tensors["a"][:] = 1
    handle.result()
    _assert_holds(old, {"a": np.zeros(100_000)})


@pytest.mark.root
def test_a_full_disk_is_found_while_the_old_file_is_whole(tmp_path: Path) -> None:
    with testbed.tmpfs_mount(tmp_path, nbytes=2**22) as mount:
        path = fastio.save(_OLD, mount.path / "model.safetensors")
        with pytest.raises(fastio.WriteError) as raised:
            fastio.save({"large": np.zeros(2**20)}, path, options=_IN_PLACE)
        assert (raised.value.errno, raised.value.operation) == (errno.ENOSPC, "reserve")
        _assert_holds(path, _OLD)
        # The old file's space is free for the new one.
        larger = {"larger": np.zeros(2**22 - 2**16, np.uint8)}
        fastio.save(larger, path, options=_IN_PLACE)
        _assert_holds(path, larger)


def test_pipes_and_folders_are_refused_in_place_too(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(fastio.WriteError):
            fastio.save(_NEW, path, options=_IN_PLACE)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_shards_get_names_of_their_own_and_the_index_is_written_into(tmp_path: Path) -> None:
    """Also if the old shards have the names of new ones in an empty folder."""
    fastio.save(_NEW, tmp_path, shard_bytes=100_000)
    index = tmp_path / "model.safetensors.index.json"
    before = index.stat().st_ino
    for tensors in (_NEW, _OLD, _NEW):
        fastio.save(tensors, tmp_path, shard_bytes=100_000, options=_IN_PLACE)
        _assert_holds(tmp_path, tensors)
        assert index.stat().st_ino == before
