"""Stores of tests, and the events that are told meanwhile."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastio
import testbed
from store.samples import CHUNK_BYTES, create, tensors


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two roots and two generations, with a copy of it."""
    folder = tmp_path_factory.mktemp("pristine")
    store = create(folder, 2)
    store.save(tensors(1))
    store.save(tensors(2), metadata={"step": "2"})
    store.close()
    shutil.copytree(folder, folder / "copy")
    return folder


@pytest.fixture
def folder(pristine: Path) -> Path:
    """The store, to be damaged, at the paths in its manifests."""
    for path in pristine.iterdir():
        if path.is_symlink():
            path.unlink()
        elif path.name != "copy":
            shutil.rmtree(path)
    for at in range(2):
        shutil.copytree(pristine / "copy" / f"root{at}", pristine / f"root{at}")
    return pristine


@pytest.fixture
def roots(tmp_path: Path, tmpfs: testbed.Mount) -> Iterator[list[Path]]:
    """A store on two disks, each with a replica of everything."""
    with tempfile.TemporaryDirectory(dir=tmpfs.path) as other:
        paths = [tmp_path / "root0", Path(other) / "root1"]
        settings = {"replicas": 2, "shard_bytes": 2**20, "chunk_bytes": CHUNK_BYTES}
        with fastio.Store.create(paths, **settings) as store:  # type: ignore[arg-type]
            store.save(tensors(1))
        yield paths


@pytest.fixture
def told() -> Iterator[list[fastio.Event]]:
    """The events of the test, as `fastio.on_event` tells them."""
    events: list[fastio.Event] = []
    before = fastio.on_event(events.append)
    yield events
    fastio.on_event(before)
