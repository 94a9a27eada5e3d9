"""Faults of a store at random, for as long as asked: part of `make soak`.

Roots are damaged in every way that there is, lost and brought back; writers are killed. Counts how
many faults were tried, how many the store has survived with the right bytes, and how many lost any.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import fastio
import testbed
from faults.samples import CHUNK_BYTES
from faults.soak import asked
from faults.stores import SHARD_BYTES
from store.damages import FAULTS
from store.samples import assert_same, tensors

_SAVE = """
from faults.store_soak import save
save(Path(argv[0]), argv[1])
say("returned")
"""
_STEPS_MOST = 150


def _roots(folder: Path) -> list[Path]:
    return [folder / f"root{at}" for at in range(3)]


def save(folder: Path, seed: int) -> None:
    """Save what a seed makes, to the roots that are there."""
    with fastio.Store.open([root for root in _roots(folder) if root.exists()]) as store:
        store.save(tensors(seed))


class Soak:
    """A store of three roots with two replicas, and what it is to hold."""

    def __init__(self, folder: Path, rng: random.Random, forks: testbed.Forks) -> None:
        self._folder = folder
        self._rng = rng
        self._forks = forks
        fastio.Store.create(
            _roots(folder), replicas=2, shard_bytes=SHARD_BYTES, chunk_bytes=CHUNK_BYTES
        ).close()
        self._seed = 0
        save(folder, 0)

    def _holds(self, seed: int) -> bool:
        """Whether it does, verified and byte by byte, seen from any of its roots first."""
        roots = [root for root in _roots(self._folder) if root.exists()]
        self._rng.shuffle(roots)
        with fastio.Store.open(roots) as store:
            found = store.load(verify="require")
        try:
            assert_same(found, tensors(seed))
        except AssertionError:
            return False
        return True

    def damaged_root(self) -> bool:
        """One root is damaged in some way, and mended afterwards."""
        root = self._rng.choice(_roots(self._folder))
        kept = self._folder / "kept"
        shutil.copytree(root, kept, symlinks=True)
        try:
            FAULTS[self._rng.choice(sorted(FAULTS))](root)
            return self._holds(self._seed)
        finally:
            shutil.rmtree(root, ignore_errors=True)
            kept.rename(root)
            for other in ("other", "moved"):
                shutil.rmtree(self._folder / other, ignore_errors=True)

    def lost_root(self) -> bool:
        """A generation is saved while a root is away, which then comes back."""
        root = self._rng.choice(_roots(self._folder))
        away = self._folder / "away"
        root.rename(away)
        try:
            self._seed += 1
            save(self._folder, self._seed)
            held = self._holds(self._seed)
        finally:
            away.rename(root)
        return held and self._holds(self._seed)

    def killed_writer(self) -> bool:
        """A writer is killed at some system call: there is what was there, or what is new."""
        at = self._rng.randrange(_STEPS_MOST)
        ended = self._forks.run(
            _SAVE,
            self._folder,
            self._seed + 1,
            at=lambda stop: testbed.KILL if stop.at == at else testbed.GO_ON,
        )
        if self._holds(self._seed + 1):
            self._seed += 1
            return ended.exception is None
        return "returned" not in ended.said and self._holds(self._seed)

    def collected(self) -> bool:
        """Old generations are removed, and what dead writers left."""
        with fastio.Store.open(_roots(self._folder)) as store:
            store.gc(keep=self._rng.randrange(1, 4))
        return self._holds(self._seed)

    def rolled_back(self) -> bool:
        """The generation before is the newest one again, and then the newest one is."""
        with fastio.Store.open(_roots(self._folder)) as store:
            newest = store.generation
            if len(store.generations()) > 1:
                store.rollback_to(store.generations()[1].number)
                store.rollback_to(newest)
        return self._holds(self._seed)


def run(cycles: int | None, seconds: float | None, seed: int) -> int:
    """Soak, print the counts, and return how many faults lost anything."""
    rng = random.Random(seed)
    tried: Counter[str] = Counter()
    lost = 0
    begin = time.monotonic()
    print(f"seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="fastio-store-soak-"))
    try:
        with testbed.forks("import fastio\nfrom pathlib import Path") as forks:
            soak = Soak(folder, rng, forks)
            kinds = [soak.damaged_root] * 4 + [soak.killed_writer] * 2
            kinds += [soak.lost_root, soak.collected, soak.rolled_back]
            while (cycles is None or tried.total() < cycles) and (
                seconds is None or time.monotonic() - begin < seconds
            ):
                kind = rng.choice(kinds)
                try:
                    survived = kind()
                except (fastio.FastioError, OSError) as error:
                    print(f"{kind.__name__}: {error}")
                    survived = False
                tried[kind.__name__] += 1
                lost += not survived
                if not survived:
                    print(f"cycle {tried.total()}, {kind.__name__}: LOST")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for what, count in sorted(tried.items()):
        print(f"{count:7} {what.replace('_', ' ')}")
    total = tried.total()
    took = time.monotonic() - begin
    print(f"faults tried {total}, survived {total - lost}, lost {lost}, in {took:.0f} s")
    return lost


if __name__ == "__main__":
    sys.exit(1 if run(*asked(__doc__)) else 0)
