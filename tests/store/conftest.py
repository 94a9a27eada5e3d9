"""A store that tests damage, and that each test finds intact."""

import shutil
from pathlib import Path

import pytest

from store.samples import create, tensors


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
