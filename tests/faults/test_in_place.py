"""A save into the existing file: cut off, it leaves the old file or one that is refused."""

import errno
import itertools
from pathlib import Path

import fastio
import testbed
from faults.samples import NEW, OLD, Engine, held, one_by_one, save, strays

_SAVE = """
path, seed, engine = argv
events = []
fastio.on_event(events.append)
try:
    save(path, seed, "file", one_by_one(engine, in_place=True))
except fastio.WriteError as error:
    say([error.errno, error.operation, error.path, [event.kind for event in events]])
else:
    say([0, "", "", [event.kind for event in events]])
"""
_REFUSED = -1


def _left(path: Path) -> int:
    try:
        return held(path)
    except (fastio.FormatError, fastio.ChecksumError):
        return _REFUSED


def _each(
    forks: testbed.Forks, path: Path, engine: Engine, answer: testbed.Answer
) -> list[tuple[testbed.Ended, int]]:
    """For each n: the result of a save whose n-th call got the given answer, and its leftovers."""
    ends = []
    for n in itertools.count():
        save(path, OLD, "file", one_by_one(engine), durable=False)
        ended = forks.run(
            _SAVE,
            path,
            NEW,
            engine,
            at=lambda stop, n=n: answer if stop.at == n else testbed.GO_ON,  # type: ignore[misc]
        )
        ends.append((ended, _left(path)))
        assert strays(path) == []
        if len(ended.stops) <= n:
            return ends
    raise AssertionError("not reached")


def test_a_save_in_place_that_is_killed_leaves_nothing_that_passes_for_whole(
    forks: testbed.Forks, tmp_path: Path, engine: Engine
) -> None:
    ends = _each(forks, tmp_path / "model.safetensors", engine, testbed.KILL)
    left = [seed for _, seed in ends]
    assert set(left) <= {OLD, _REFUSED, NEW}
    assert left[-1] == NEW
    assert _REFUSED in left
    # Once the header is written, everything before it is on the disk.
    names = ends[-1][0].names()
    assert names[-3:] == ["fsync", "pwrite64", "fsync"]


def test_a_save_in_place_that_fails_says_that_the_old_file_is_lost(
    forks: testbed.Forks, tmp_path: Path, engine: Engine
) -> None:
    path = tmp_path / "model.safetensors"
    ends = _each(forks, path, engine, testbed.fail_with(errno.EIO))
    assert len(ends) > 3
    for n, (ended, seed) in enumerate(ends[:-1]):
        (code, _, blamed, kinds), failed = ended.check().said[0], ended.stops[n]
        assert (code, blamed, kinds) == (errno.EIO, str(path), ["failure"]), failed
        # All is written when the last fsync fails; whether it is on the disk is unknown.
        assert seed == _REFUSED or failed.name == "fsync", failed
    assert (ends[-1][0].check().said, ends[-1][1]) == ([[0, "", "", []]], NEW)
