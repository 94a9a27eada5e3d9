"""fastio waits for a file under another process's lease, and never for a pipe."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fastio

# Takes a write lease on argv[1] and gives it back when another process opens the file.
_HOLDER = """
import fcntl, os, signal, sys
file = os.open(sys.argv[1], os.O_RDWR)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
signal.sigwait([signal.SIGIO])
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
print("asked", flush=True)
"""


@contextlib.contextmanager
def _leased(path: Path) -> Iterator[None]:
    """Another process has a lease on the file, and is asked to give it back."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        if holder.stdout.readline() != "held\n":
            pytest.skip("this filesystem has no leases")
        yield
        assert holder.stdout.readline() == "asked\n"
        assert holder.wait(60) == 0
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    return {"a": np.arange(300_000), "b": np.ones((30, 40), np.float32)}


@pytest.mark.parametrize("known", [False, True])
def test_a_load_waits_for_the_lease(tmp_path: Path, tensors: dict, known: bool) -> None:  # type: ignore[type-arg]
    path = fastio.save(tensors, tmp_path / "model")
    if known:  # the mount, to be local: such files are opened on the caller's own thread
        fastio.load(path)
    with _leased(path):
        assert (fastio.load(path)["a"] == tensors["a"]).all()


def test_every_way_to_open_waits_for_it(tmp_path: Path, tensors: dict) -> None:  # type: ignore[type-arg]
    path = fastio.save(tensors, tmp_path / "model")
    with _leased(path), fastio.open(path) as reader:
        assert (reader["b"][:] == 1).all()
    with _leased(path), fastio.safe_open(path, "np") as file:
        assert (file.get_tensor("b") == 1).all()
    with _leased(path):
        fastio.seal(path, tmp_path / "sealed", force=True)
    into = {"a": np.zeros(300_000, np.int64), "b": np.zeros((30, 40), np.float32)}
    with _leased(path):
        fastio.load_into(path, into)
    assert (into["a"] == tensors["a"]).all()
    folder = fastio.save(tensors, tmp_path / "folder", shard_bytes=1)
    with _leased(folder / "model.safetensors.index.json"):
        assert fastio.load(folder).keys() == tensors.keys()


@pytest.mark.parametrize("kind", ["shards", "manifests", "commits", "fastio-root.json", "lock"])
def test_a_store_waits_for_it(tmp_path: Path, tensors: dict, kind: str) -> None:  # type: ignore[type-arg]
    root = tmp_path / "root"
    with fastio.Store.create([root], replicas=1) as store:
        store.save(tensors)
    place = root / kind
    newest = (
        max(place.iterdir(), key=lambda path: path.stat().st_mtime_ns) if place.is_dir() else place
    )
    with _leased(newest):
        if kind == "lock":
            with fastio.Store.open([root]) as store:
                store.save(tensors)
        else:
            assert fastio.load(root).keys() == tensors.keys()


@pytest.mark.parametrize("way", ["load", "open", "seal", "shards"])
def test_a_pipe_is_refused_at_once(tmp_path: Path, way: str) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    call = fastio.load if way == "shards" else getattr(fastio, way)
    with pytest.raises(fastio.ReadError, match="not a regular file"):
        call([pipe] if way == "shards" else pipe)


def test_a_pipe_among_the_leftovers_of_crashed_saves_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f".model.{'0' * 16}.fastio-tmp")
    fastio.save({"a": np.arange(3)}, tmp_path / "model")
    assert len(fastio.load(tmp_path / "model")) == 1


def test_a_pipe_in_the_place_of_an_index_is_not_waited_for(tmp_path: Path) -> None:
    folder = fastio.save({"a": np.arange(3)}, tmp_path / "folder", shard_bytes=1)
    index = folder / "model.safetensors.index.json"
    index.unlink()
    os.mkfifo(index)
    with pytest.raises(fastio.WriteError, match="pipe"):
        fastio.save({"a": np.arange(3)}, folder, shard_bytes=1)
    shutil.rmtree(folder)
