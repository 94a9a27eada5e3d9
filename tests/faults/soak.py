"""Random saves, kills, power cuts and loads for a given time: `make soak`.

Counts the interrupted saves and their results: the old checkpoint, the new one, or a lost one. Ends
with 1 if any was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import fastio
import testbed

Ending = Literal["finished", "killed at a completion", "killed", "power cut"]

# Saves tensors made from a seed; reports when the save has returned.
_SAVE = """
path, seed, nbytes, shard_bytes, engine, lanes, durable, kill_at = argv
if kill_at is not None:
    fastio._native.testing.set_completion_faults([(kill_at, "kill", 0)])
say("begun")
save(path, seed, nbytes, shard_bytes, engine, lanes, durable)
say("returned")
"""
_LARGEST_BYTES = 4 << 20


def tensors_of(seed: int, nbytes: int) -> dict[str, Any]:
    """Tensors of random sizes and bytes with the given total of bytes."""
    rng = np.random.default_rng(seed)
    bounds = np.sort(rng.integers(0, nbytes + 1, 6)).tolist()
    data = rng.integers(0, 256, nbytes, np.uint8)
    parts = zip([0, *bounds], [*bounds, nbytes], strict=True)
    return {f"layers.{i}.weight": data[begin:end] for i, (begin, end) in enumerate(parts)}


def save(
    path: str | Path,
    seed: int,
    nbytes: int,
    shard_bytes: int | None,
    engine: Literal["uring", "pread"],
    lanes: int,
    durable: bool,
) -> None:
    """Save the tensors of a seed."""
    fastio.save(
        tensors_of(seed, nbytes),
        path,
        shard_bytes=shard_bytes,
        chunk_bytes=1 << 16,
        durable=durable,
        options=fastio.Options(engine=engine, block_bytes=1 << 18, lanes=lanes),
    )


@dataclass(frozen=True)
class Saved:
    """The expected checkpoint at a path; `nbytes` None means no file."""

    seed: int = 0
    nbytes: int | None = None

    def is_held(self, path: Path) -> bool:
        """Whether the path holds it, verified and byte by byte."""
        try:
            found = fastio.load(path, verify="require")
        except (FileNotFoundError, fastio.FastioError):
            return self.nbytes is None and not _loads(path)
        if self.nbytes is None:
            return False
        expected = tensors_of(self.seed, self.nbytes)
        return found.keys() == expected.keys() and all(
            np.array_equal(found[name], expected[name]) for name in expected
        )


def _loads(path: Path) -> bool:
    try:
        fastio.load(path, verify=False)
    except (FileNotFoundError, fastio.FastioError):
        return False
    return True


class Place:
    """A folder for saves, with the expected contents of one file and of a folder of shards."""

    def __init__(self, folder: Path, disk: testbed.PowerMount | None) -> None:
        self.name = disk.kind if disk is not None else "here"
        self.disk = disk
        self.folder = folder
        self.held = {folder / "model.safetensors": Saved(), folder / "checkpoint": Saved()}
        _sync(folder)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _cut_off(
    place: Place, path: Path, forks: testbed.Forks, rng: random.Random, new: Saved
) -> tuple[Ending, testbed.Ended]:
    """Save a new checkpoint, and let something happen meanwhile."""
    endings: list[Ending] = ["finished", "killed at a completion", "killed"]
    ending = rng.choice([*endings, "power cut"] if place.disk is not None else endings)
    assert new.nbytes is not None
    shard_bytes = rng.randrange(1, _LARGEST_BYTES) if path.name == "checkpoint" else None
    arguments = [path, new.seed, new.nbytes, shard_bytes, rng.choice(["uring", "pread"])]
    arguments += [rng.choice([1, 2, 4]), True]
    if ending == "killed at a completion":
        at = rng.randrange(1 + new.nbytes // (1 << 17))
        return ending, forks.run(_SAVE, *arguments, at)
    if ending == "finished":
        return ending, forks.run(_SAVE, *arguments, None)
    after_s = rng.uniform(0, 0.15)
    if place.disk is not None and ending == "power cut":
        # Half of them wait for a system call; the others go by the clock.
        n = rng.randrange(60) if rng.random() < 0.5 else None
        begin = time.monotonic()
        disk = place.disk

        def cut(stop: testbed.Stop) -> testbed.Answer:
            if stop.at != n and (n is not None or time.monotonic() - begin < after_s):
                return testbed.GO_ON
            disk.cut()
            return testbed.KILL

        ended = forks.run(_SAVE, *arguments, None, at=cut)
        if not ended.killed:
            disk.cut()
        disk.restart()
        return ending, ended
    return ending, forks.run(_SAVE, *arguments, None, kill_after_s=after_s)


def cycle(place: Place, forks: testbed.Forks, rng: random.Random) -> tuple[Ending, str]:
    """One save that may be cut off; its result: "new", "old", or "lost: " and the reason."""
    path = rng.choice(list(place.held))
    old = place.held[path]
    new = Saved(rng.randrange(1 << 30), rng.randrange(_LARGEST_BYTES))
    ending, ended = _cut_off(place, path, forks, rng, new)
    if ended.exception is not None:
        return ending, f"lost: the save raised {ended.exception}: {ended.message}"
    if new.is_held(path):
        place.held[path] = new
        # A power cut may bring back removed files; the next save removes them again.
        if ending == "finished" and (left := _left_behind(path)):
            return ending, f"lost: left behind: {', '.join(left)}"
        return ending, "new"
    if "returned" in ended.said:
        return ending, f"lost: {path} has not what was saved, though the save returned"
    if old.is_held(path):
        return ending, "old"
    return ending, f"lost: {path} has neither the old nor the new one"


def _left_behind(path: Path) -> list[str]:
    """Files beside the expected ones."""
    folder = path if path.is_dir() else path.parent
    stem = f".{path.name}" if path.is_file() else "."
    names = [name for name in os.listdir(folder) if name.startswith(stem)]
    if path.is_dir():
        named = set(fastio.open(path).keys())
        shards = list(folder.glob("model-*.safetensors"))
        names += [file.name for file in shards if named.isdisjoint(fastio.open(file).keys())]
    return names


@contextlib.contextmanager
def places(folder: Path) -> Iterator[list[Place]]:
    """This folder, and, if the machine permits them, disks whose power can be cut."""
    (folder / "here").mkdir()
    found = [Place(folder / "here", None)]
    kinds: tuple[Literal["ext4", "xfs"], ...] = ("ext4", "xfs")
    with contextlib.ExitStack() as mounted:
        for kind in kinds:
            (folder / kind).mkdir()
            try:
                disk = mounted.enter_context(testbed.power_mount(folder / kind, kind))
            except pytest.skip.Exception as reason:
                print(f"no power cuts on {kind}, kills only: {reason}")
            else:
                found.append(Place(disk.path, disk))
        yield found


def run(cycles: int | None, seconds: float | None, seed: int) -> int:
    """Soak, print the counts, and return how many were lost."""
    rng = random.Random(seed)
    outcomes: Counter[tuple[str, str]] = Counter()
    lost = 0
    begin = time.monotonic()
    print(f"seed {seed}")
    testbed.enter_private_mounts()
    folder = Path(tempfile.mkdtemp(prefix="fastio-soak-"))
    try:
        with (
            places(folder) as found,
            testbed.forks("import fastio\nfrom faults.soak import save") as forks,
        ):
            tried = 0
            while (cycles is None or tried < cycles) and (
                seconds is None or time.monotonic() - begin < seconds
            ):
                ending, outcome = cycle(rng.choice(found), forks, rng)
                if outcome.startswith("lost"):
                    lost += 1
                    print(f"cycle {tried}, {ending}: {outcome}")
                outcomes[ending, outcome.split(":")[0]] += 1
                tried += 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for (how, outcome), count in sorted(outcomes.items()):
        print(f"{count:7} {how}: {outcome}")
    total = sum(outcomes.values())
    print(f"tried {total}, whole {total - lost}, lost {lost}, in {time.monotonic() - begin:.0f} s")
    return lost


def asked(description: str | None) -> tuple[int | None, float | None, int]:
    """Read the command line: number of cycles, seconds, seed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--cycles", type=int, help="end after so many; 200 unless --minutes is given"
    )
    parser.add_argument("--minutes", type=float, help="end after so many")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    given = parser.parse_args()
    cycles = 200 if given.cycles is None and given.minutes is None else given.cycles
    return cycles, None if given.minutes is None else 60 * given.minutes, given.seed


if __name__ == "__main__":
    sys.exit(1 if run(*asked(__doc__)) else 0)
