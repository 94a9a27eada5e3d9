"""A power cut during a save leaves the old checkpoint or the new one; after `save` has returned,
the new one.
"""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastio
import testbed
from faults.samples import (
    NEW,
    NOTHING,
    OLD,
    Engine,
    Shape,
    held,
    in_few_writes,
    place,
    save,
)

pytestmark = pytest.mark.root

_SAVE = """
path, seed, shape, engine, *more = argv
save(path, seed, shape, in_few_writes(engine), **dict(more))
say("returned")
"""


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[testbed.PowerMount]:
    """A filesystem whose power can be cut."""
    kind: Any = request.param
    with testbed.power_mount(tmp_path_factory.mktemp(kind), kind) as mount:
        yield mount


@pytest.fixture
def path(disk: testbed.PowerMount, shape: Shape, tmp_path: Path) -> Path:
    """The path of a checkpoint, in a folder that is on the disk."""
    folder = disk.path / tmp_path.name
    folder.mkdir()
    _sync(disk.path)
    return place(folder, shape)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _go_back_to(before: int, path: Path, shape: Shape) -> None:
    """Put the old checkpoint on the disk, or nothing."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if before != NOTHING:
        save(path, before, shape, in_few_writes("pread"))
    _sync(path.parent)


def _cut_at(disk: testbed.PowerMount, n: int) -> Callable[[testbed.Stop], testbed.Answer]:
    """Cut the power at the n-th call of a process, which then ends too."""

    def at(stop: testbed.Stop) -> testbed.Answer:
        if stop.at < n:
            return testbed.GO_ON
        disk.cut()
        return testbed.KILL

    return at


@pytest.mark.parametrize("before", [OLD, NOTHING], ids=["replacing", "fresh"])
def test_a_power_cut_at_any_step_leaves_the_old_or_the_new_one(
    forks: testbed.Forks,
    disk: testbed.PowerMount,
    path: Path,
    shape: Shape,
    engine: Engine,
    before: int,
) -> None:
    left = []
    _go_back_to(before, path, shape)
    for n in itertools.count():
        ended = forks.run(_SAVE, path, NEW, shape, engine, at=_cut_at(disk, n))
        if not ended.killed:
            break
        disk.restart()
        left.append(held(path))
        if left[-1] == NEW or before == NOTHING:  # leftovers would be there as well
            _go_back_to(before, path, shape)
    assert ended.check().said == ["returned"]
    disk.cut()
    disk.restart()
    assert held(path) == NEW
    # Up to some step the old one, from there on the new one; the last step may make the change.
    left.append(NEW)
    assert left == sorted(left)
    assert set(left) == {before, NEW}
    assert len(left) > len(ended.stops)


_WITHOUT = {
    "of the file": """
finish = fastio.saving.writing.FileWriter.finish
fastio.saving.writing.FileWriter.finish = lambda self, *, durable: finish(self, durable=False)
""",
    "of the index": """
fill = fastio.saving.folder._fill
fastio.saving.folder._fill = lambda index, text, *, durable: fill(index, text, durable=False)
""",
    "of the folder": """
from fastio.host import replacement
def sync_folder(*_, blamed): pass
replacement.sync_folder = sync_folder
""",
}


@pytest.mark.parametrize("without", ["of the file", "of the folder"])
@pytest.mark.parametrize("before", [OLD, NOTHING], ids=["replacing", "fresh"])
def test_without_an_fsync_a_power_cut_loses_the_save(
    forks: testbed.Forks,
    disk: testbed.PowerMount,
    path: Path,
    shape: Shape,
    engine: Engine,
    before: int,
    without: str,
) -> None:
    _go_back_to(before, path, shape)
    ended = forks.run(_WITHOUT[without] + _SAVE, path, NEW, shape, engine).check()
    assert ended.said == ["returned"]
    if without == "of the folder":
        disk.cut()
        disk.restart()
        assert held(path) == before
        return
    disk.cut()
    disk.restart()
    with pytest.raises((fastio.FormatError, fastio.ChecksumError)):
        held(path)


@pytest.mark.parametrize("shape", ["folder"])
def test_without_the_fsync_of_an_index_a_power_cut_loses_the_save(
    forks: testbed.Forks, disk: testbed.PowerMount, path: Path, shape: Shape, engine: Engine
) -> None:
    _go_back_to(OLD, path, shape)
    forks.run(_WITHOUT["of the index"] + _SAVE, path, NEW, shape, engine).check()
    disk.cut()
    disk.restart()
    with pytest.raises(fastio.FormatError):
        held(path)


# The parts of a file that reach the disk before the power cut if no call waits for it: the names,
# and either all bytes or only those of the page cache.
_REACHED = {"names": 0, "header": 4096, "half": 200_000, "all": 1 << 30}


@pytest.mark.parametrize("reached", list(_REACHED))
@pytest.mark.parametrize("cache", ["bypass", "keep"])
def test_a_save_that_is_not_durable_never_leaves_a_wrong_file_that_loads(
    forks: testbed.Forks,
    disk: testbed.PowerMount,
    path: Path,
    shape: Shape,
    engine: Engine,
    cache: str,
    reached: str,
) -> None:
    _go_back_to(OLD, path, shape)
    forks.run(
        """
path, seed, shape, engine, cache, nbytes = argv
save(path, seed, shape, in_few_writes(engine, cache=cache), durable=False)
libc = ctypes.CDLL(None)
for file in [path] if shape == "file" else [os.path.join(path, name) for name in os.listdir(path)]:
    fd = os.open(file, os.O_RDONLY)
    if nbytes:
        libc.sync_file_range(fd, ctypes.c_long(0), ctypes.c_long(nbytes), 7)
    os.close(fd)
folder = os.open(os.path.dirname(path) if shape == "file" else path, os.O_RDONLY)
os.fsync(folder)
""",
        path,
        NEW,
        shape,
        engine,
        cache,
        _REACHED[reached],
    ).check()
    disk.cut()
    disk.restart()
    try:
        seed = held(path)  # raises AssertionError for a checkpoint that loads and is wrong
    except (fastio.FormatError, fastio.ChecksumError):
        return
    assert seed in (OLD, NEW)
