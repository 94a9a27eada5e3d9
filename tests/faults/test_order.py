"""The order of a save's calls: a power cut on these filesystems does not reveal it."""

from pathlib import Path

import pytest

import testbed
from faults.samples import (
    INDEX,
    NEW,
    OLD,
    Engine,
    Shape,
    one_by_one,
    place,
    save,
)

_SAVE = """
path, seed, shape, engine, beginning, durable = argv
if beginning == "named":
    refuse_nameless()
save(path, seed, shape, in_few_writes(engine, cache="keep"), durable=durable)
"""


def _go_on(_: testbed.Stop) -> testbed.Answer:
    return testbed.GO_ON


def _steps(stops: list[testbed.Stop], folder: Path) -> list[str]:
    """The calls in short: many writes in a row are one, and each names its kind of file."""
    steps = []
    for stop in stops:
        name = {"linkat": "link", "renameat2": "exchange", "unlinkat": "unlink"}.get(
            stop.name, stop.name
        )
        if stop.path == str(folder):
            name += " of the folder"
        elif name in ("rename", "exchange"):
            name += " to " + Path(stop.path).name
        steps.append(name)
    return [step for i, step in enumerate(steps) if i == 0 or step != steps[i - 1]]


@pytest.mark.parametrize("before", [True, False], ids=["replacing", "fresh"])
def test_a_file_is_on_the_disk_before_it_gets_its_name_and_then_its_name_is(
    forks: testbed.Forks, tmp_path: Path, beginning: str, before: bool
) -> None:
    path = place(tmp_path, "file")
    if before:
        save(path, OLD, "file", one_by_one("pread"))
    ended = forks.run(_SAVE, path, NEW, "file", "pread", beginning, True, at=_go_on).check()
    assert _steps(ended.stops, tmp_path) == [
        "fallocate",
        "pwrite64",
        "ftruncate",
        "pwrite64",
        *(["fchmod"] if before else []),
        "fsync",
        *(["link"] if beginning == "nameless" else []),
        f"rename to {path.name}",
        "fsync of the folder",
    ]


def test_shards_and_their_names_are_on_the_disk_before_their_index_counts(
    forks: testbed.Forks, tmp_path: Path
) -> None:
    path = place(tmp_path, "folder")
    save(path, OLD, "folder", one_by_one("pread"))
    ended = forks.run(_SAVE, path, NEW, "folder", "pread", "nameless", True, at=_go_on).check()
    steps = _steps(ended.stops, path)
    shards = sorted(name for name in (file.name for file in path.iterdir()) if name != INDEX)
    assert steps[steps.index("link") - 1 :][: len(shards) * 2 + 7] == [
        "fsync",  # of the index, after that of each shard
        "link",  # of the index: from here on the next save can remove a crash's leftovers
        "fsync of the folder",
        *(step for name in shards for step in ("link", f"rename to {name}")),
        "fsync of the folder",
        f"exchange to {INDEX}",
        "fsync of the folder",
        "unlink",  # of the old shards and the old index
    ]
    before_names = ended.stops[: ended.names().index("linkat")]
    written = {stop.path for stop in before_names if stop.name == "pwrite64"}
    synced = [stop.path for stop in before_names if stop.name == "fsync"]
    assert sorted(synced) == sorted(written)
    for file in written:
        calls = [stop.name for stop in before_names if stop.path == file]
        assert calls[-1] == "fsync"


def test_a_fresh_index_comes_before_the_shards_that_it_names(
    forks: testbed.Forks, tmp_path: Path
) -> None:
    path = place(tmp_path, "folder")
    ended = forks.run(_SAVE, path, NEW, "folder", "pread", "nameless", True, at=_go_on).check()
    steps = _steps(ended.stops, path)
    shards = sorted(name for name in (file.name for file in path.iterdir()) if name != INDEX)
    assert steps[steps.index("link") - 1 :][: len(shards) * 2 + 5] == [
        "fsync",
        "link",
        f"rename to {INDEX}",
        "fsync of the folder",
        *(step for name in shards for step in ("link", f"rename to {name}")),
        "fsync of the folder",
    ]


def test_a_save_that_is_not_durable_waits_for_no_disk(
    forks: testbed.Forks, tmp_path: Path, engine: Engine, shape: Shape
) -> None:
    path = place(tmp_path, shape)
    path.parent.mkdir(exist_ok=True)
    if shape == "folder":
        path.mkdir()  # the name of a new folder is synced
    ended = forks.run(_SAVE, path, NEW, shape, engine, "nameless", False, at=_go_on).check()
    assert {"fsync", "fdatasync"}.isdisjoint(ended.names())
