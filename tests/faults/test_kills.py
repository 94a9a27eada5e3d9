"""A killed save leaves the old checkpoint or the new one; the next save removes its leftovers."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

import testbed
from faults.samples import (
    BLOCKS,
    NEW,
    NEXT,
    NOTHING,
    OLD,
    Engine,
    Shape,
    held,
    many_at_once,
    one_by_one,
    place,
    save,
    strays,
)

_SAVE = """
path, seed, shape, engine, beginning = argv
if beginning == "named":
    refuse_nameless()
save(path, seed, shape, one_by_one(engine))
"""
_SAVE_KILLED_AT_A_COMPLETION = """
path, seed, shape, engine, beginning, n = argv
if beginning == "named":
    refuse_nameless()
fastio._native.testing.set_completion_faults([(n, "kill", 0)])
save(path, seed, shape, many_at_once(engine))
"""


def _try_each(
    folder: Path,
    engine: Engine,
    shape: Shape,
    before: int,
    attempt: Callable[[Path, int], testbed.Ended],
) -> tuple[list[int], testbed.Ended]:
    """Kill the n-th attempt at its n-th step, until one survives; yield the leftovers of each.

    Raises
    ------
    AssertionError
        If the next save leaves anything of it there.
    """
    left = []
    for n in itertools.count():
        path = place(folder, shape)
        if before != NOTHING:
            save(path, before, shape, one_by_one(engine), durable=False)
        ended = attempt(path, n)
        left.append(held(path))
        save(path, NEXT, shape, one_by_one(engine), durable=False)
        assert (held(path), strays(path)) == (NEXT, []), f"after the kill at step {n}"
        if not ended.killed:
            return left, ended.check()
        if before == NOTHING:
            _remove(path)
    raise AssertionError("not reached")


def _remove(path: Path) -> None:
    for file in [path] if path.is_file() else list(path.iterdir()):
        file.unlink()
    if path.is_dir():
        path.rmdir()


@pytest.mark.parametrize("before", [OLD, NOTHING], ids=["replacing", "fresh"])
def test_a_save_that_is_killed_at_any_system_call_leaves_the_old_or_the_new_one(
    forks: testbed.Forks,
    tmp_path: Path,
    engine: Engine,
    shape: Shape,
    before: int,
    beginning: str,
) -> None:
    def attempt(path: Path, n: int) -> testbed.Ended:
        return forks.run(
            _SAVE,
            path,
            NEW,
            shape,
            engine,
            beginning,
            at=lambda stop: testbed.KILL if stop.at == n else testbed.GO_ON,
        )

    left, survivor = _try_each(tmp_path, engine, shape, before, attempt)
    # Up to some step the old one, from there on the new one; every step was reached.
    assert left == sorted(left)
    assert set(left) == {before, NEW}
    assert len(left) == len(survivor.stops) + 1
    calls = set(survivor.names())
    assert {"fallocate", "ftruncate", "pwrite64", "fsync", "rename"} <= calls
    assert ("linkat" in calls) == (beginning == "nameless")


@pytest.mark.parametrize("before", [OLD, NOTHING], ids=["replacing", "fresh"])
def test_a_save_that_is_killed_at_any_completion_leaves_the_old_checkpoint(
    forks: testbed.Forks,
    tmp_path: Path,
    engine: Engine,
    shape: Shape,
    before: int,
    beginning: str,
) -> None:
    left, _ = _try_each(
        tmp_path,
        engine,
        shape,
        before,
        lambda path, n: forks.run(
            _SAVE_KILLED_AT_A_COMPLETION, path, NEW, shape, engine, beginning, n
        ),
    )
    assert left == [before] * (len(left) - 1) + [NEW]
    assert len(left) > BLOCKS


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_the_temporary_file_of_a_save_that_still_runs_is_left_alone(
    forks: testbed.Forks, tmp_path: Path, engine: Engine, beginning: str, call: str
) -> None:
    path = place(tmp_path, "file")
    meanwhile: list[tuple[list[str], list[str], int]] = []

    def save_meanwhile(stop: testbed.Stop) -> testbed.Answer:
        if stop.name == call and not meanwhile:
            before = strays(path)
            save(path, NEXT, "file", many_at_once(engine))
            meanwhile.append((before, strays(path), held(path)))
        return testbed.GO_ON

    forks.run(_SAVE, path, NEW, "file", engine, beginning, at=save_meanwhile).check()
    ((before, after, seed),) = meanwhile
    # An unnamed file gets a name just before it is renamed.
    assert len(before) == (1 if beginning == "named" or call == "rename" else 0)
    assert (after, seed) == (before, NEXT)
    assert (held(path), strays(path)) == (NEW, [])


def test_the_shards_of_a_save_that_still_runs_are_left_alone(
    forks: testbed.Forks, tmp_path: Path, engine: Engine, beginning: str
) -> None:
    path = place(tmp_path, "folder")
    meanwhile: list[tuple[list[str], list[str], int]] = []

    def save_meanwhile(stop: testbed.Stop) -> testbed.Answer:
        if stop.name == "fsync" and not meanwhile and stop.path != str(tmp_path):
            before = strays(path)
            save(path, NEXT, "folder", many_at_once(engine))
            meanwhile.append((before, strays(path), held(path)))
        return testbed.GO_ON

    forks.run(_SAVE, path, NEW, "folder", engine, beginning, at=save_meanwhile).check()
    ((before, after, seed),) = meanwhile
    assert len(before) == (4 if beginning == "named" else 0)  # three shards, and the index
    assert (after, seed) == (before, NEXT)
    assert (held(path), strays(path)) == (NEW, [])
