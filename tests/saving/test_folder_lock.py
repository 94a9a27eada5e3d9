"""The lock of a folder during a save: only a save holds it, and each wait for it ends."""

import fcntl
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
from fastio.host import flocks
from fastio.saving import folder, folder_lock

_TENSORS = {f"t{at}": np.arange(1000) for at in range(4)}


@contextmanager
def _child() -> Iterator[None]:
    """A child made by fork that only lives."""
    waiting, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(waiting, 1)
        os._exit(0)
    try:
        yield
    finally:
        os.close(go)
        os.waitpid(child, 0)
        os.close(waiting)


def _is_locked(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def test_a_child_that_is_forked_while_a_folder_is_locked_does_not_keep_it(tmp_path: Path) -> None:
    with folder_lock.locked(tmp_path), _child():
        assert _is_locked(tmp_path)
    with folder_lock.locked(tmp_path):
        child = _child()
        child.__enter__()
    assert not _is_locked(tmp_path)
    fastio.save(_TENSORS, tmp_path, shard_bytes=8000)
    child.__exit__(None, None, None)


def test_a_child_of_a_process_that_is_killed_does_not_keep_the_folder(tmp_path: Path) -> None:
    """No call releases the lock by name then."""
    forked, told = os.pipe()
    lives, ends = os.pipe()
    parent = os.fork()
    if parent == 0:
        os.close(ends)
        with folder_lock.locked(tmp_path):
            if os.fork() == 0:
                os.read(lives, 1)
                os._exit(0)
            os.write(told, b"x")
            signal.pause()
    os.read(forked, 1)
    assert _is_locked(tmp_path)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert not _is_locked(tmp_path)
    for fd in (forked, told, lives, ends):
        os.close(fd)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_child_that_is_forked_while_a_file_is_written_does_not_keep_it(
    tmp_path: Path, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save in place to the same file would be refused."""
    from fastio.saving import pace

    path = tmp_path / "model.safetensors"
    fastio.save(_TENSORS, path)
    children: list[Any] = []
    real = pace.write_data

    def write_data(*arguments: Any, **more: Any) -> Any:
        children.append(_child())
        children[-1].__enter__()
        return real(*arguments, **more)

    monkeypatch.setattr(pace, "write_data", write_data)
    fastio.save(_TENSORS, path, options=fastio.Options(in_place=in_place))
    monkeypatch.undo()
    assert children
    assert not _is_locked(path)
    fastio.save(_TENSORS, path, options=fastio.Options(in_place=True))
    for child in children:
        child.__exit__(None, None, None)


def test_a_wait_for_a_folder_is_reported_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flocks, "WAIT_S", 0.3)
    monkeypatch.setattr(flocks, "_TOLD_AFTER_S", 0.1)
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    refused = pytest.raises(fastio.WriteError, match=r"waited .* lock of the folder")
    with caplog.at_level(logging.WARNING, "fastio"), refused as caught:
        fastio.save(_TENSORS, tmp_path, shard_bytes=8000)
    assert f"process {os.getpid()}" in str(caught.value)
    assert any("waiting for the lock of the folder" in line for line in caplog.messages)
    os.close(fd)
    fastio.save(_TENSORS, tmp_path, shard_bytes=8000)
    assert sorted(fastio.load(tmp_path)) == sorted(_TENSORS)
    assert folder.INDEX in os.listdir(tmp_path)
