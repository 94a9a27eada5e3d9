"""Each kind of storage in turn: the conformance suite runs for all of them."""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastio.storage import answering, by_address, folder_kind, known
from fastio.storage.kind import Kind, Skeleton
from fastio.storage.protocol import Storage
from storage import objects

SKELETON = Skeleton(("things", "others"), frozenset({"name", "lock"}), "name")

# That these modules are kinds is checked by mypy here.
_FOLDER: Kind = folder_kind
_OBJECTS: Kind = objects

Open = Callable[[], Storage]


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where nothing is yet."""
    if request.getfixturevalue("kind") is objects:
        (tmp_path / "scratch").mkdir()
        objects.BUCKETS["bucket"] = objects.Bucket(tmp_path / "scratch")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(known.modules(), "mem", objects.__name__)
            yield "mem://bucket/some/root"
        objects.BUCKETS.clear()
    else:
        yield str(tmp_path / "root")


@pytest.fixture(params=[_FOLDER, _OBJECTS], ids=["folder", "objects"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of storage."""
    made: Kind = request.param
    return made


@pytest.fixture
def storage(kind: Kind, address: str) -> Iterator[Storage]:
    """A new storage with its folders, and no file."""
    path = known.address_of(address)
    with contextlib.closing(
        kind.make_storage(path, SKELETON, 0o600, answering.of(path, math.inf))
    ) as made:
        yield made


@pytest.fixture
def another(storage: Storage) -> Iterator[Open]:
    """Opens the same storage once more, as another process does."""
    with contextlib.ExitStack() as opened:

        def open_storage() -> Storage:
            asks = answering.Answering(storage.path, math.inf)
            again = by_address.kind_of(storage.path).open_storage(storage.path, asks)
            return opened.enter_context(contextlib.closing(again))

        yield open_storage
