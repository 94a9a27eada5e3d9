"""Faults of a store at random, for as long as asked: part of `make soak`.

Roots are damaged in every known way, lost and brought back, restored from backups, replaced and
copied. Writers are killed, processes forked, disks filled. Counts the faults, those that the store
survived with the right bytes, and those that lost any.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import fastio
import testbed
from faults import store_kinds
from faults.soak import asked
from store.damages import FAULTS, damage_data, each_shard
from store.samples import tensors

_SAVE = """
from faults.store_soak import save
save(Path(argv[0]), argv[1])
say("returned")
"""
_FORK = """
from faults import store_kinds
say(getattr(store_kinds, argv[0])(Path(argv[1]), *argv[2:]))
"""
_STEPS_MOST = 150
_roots = store_kinds.roots_of


def save(folder: Path, seed: int) -> None:
    """Save the tensors of a seed to the present roots."""
    with fastio.Store.open([root for root in _roots(folder) if root.exists()]) as store:
        store.save(tensors(seed))


class Soak:
    """A store of three roots with two replicas, and its expected tensors."""

    def __init__(
        self,
        folder: Path,
        rng: random.Random,
        forks: testbed.Forks,
        disks: Sequence[Path] | None = None,
    ) -> None:
        self._folder = folder
        self._disks = disks
        self._rng = rng
        self._forks = forks
        self._seed = 0
        self._is_reported = True
        store_kinds.create(folder, 0)

    def _holds(self, seed: int) -> bool:
        """Whether the store holds them, verified and byte by byte, seen from any of its roots
        first.
        """
        roots = [root for root in _roots(self._folder) if root.exists()]
        self._rng.shuffle(roots)
        return store_kinds.holds(roots, seed)

    def damaged_root(self) -> bool:
        """One root is damaged in some way, and repaired afterwards."""
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

    def restored_backup(self) -> bool:
        """A root is restored from a backup: from before a save, or before one that was killed."""
        root = self._rng.choice(_roots(self._folder))
        backup = self._folder / "backup"
        shutil.copytree(root, backup)
        survived = self._rng.choice([self._saved, self.killed_writer])()
        shutil.rmtree(root)
        backup.rename(root)
        # An unreported generation may have lost shards.
        if not self._holds(self._seed):
            self._seed -= 1
            survived = survived and not self._is_reported and self._holds(self._seed)
        return self._saved() and survived

    def _saved(self) -> bool:
        self._seed += 1
        save(self._folder, self._seed)
        self._is_reported = True
        return self._holds(self._seed)

    def killed_writer(self) -> bool:
        """A writer is killed at some system call: the old generation or the new one is there."""
        at = self._rng.randrange(_STEPS_MOST)
        ended = self._forks.run(
            _SAVE,
            self._folder,
            self._seed + 1,
            at=lambda stop: testbed.KILL if stop.at == at else testbed.GO_ON,
        )
        if self._holds(self._seed + 1):
            self._seed += 1
            self._is_reported = "returned" in ended.said
            return ended.exception is None
        self._is_reported = True
        return "returned" not in ended.said and self._holds(self._seed)

    def collected(self) -> bool:
        """Old generations are removed, and the leftovers of dead writers."""
        with fastio.Store.open(_roots(self._folder)) as store:
            store.gc(keep=self._rng.randrange(1, 4))
        return self._holds(self._seed)

    def rolled_back(self) -> bool:
        """A rollback makes the generation before the newest one again; a second one undoes it."""
        with fastio.Store.open(_roots(self._folder)) as store:
            newest = store.generation
            if len(store.generations()) > 1:
                store.rollback_to(store.generations()[1].number)
                store.rollback_to(newest)
        return self._holds(self._seed)

    def copied_store(self) -> bool:
        """See `store_kinds.copied`."""
        return store_kinds.copied(_roots(self._folder), self._seed, self._rng)

    def replaced_root(self) -> bool:
        """See `store_kinds.replaced`."""
        return store_kinds.replaced(_roots(self._folder), self._seed, self._rng)

    def replaced_root_by_force(self) -> bool:
        """See `store_kinds.replaced_by_force`."""
        return store_kinds.replaced_by_force(self._folder / "two", self._seed, self._rng)

    def forked_reader(self) -> bool:
        """See `store_kinds.read_in_a_fork`."""
        ended = self._forks.run(_FORK, "read_in_a_fork", self._folder, self._seed)
        self._seed += 1
        return ended.said == ["read on"] and self._holds(self._seed)

    def forked_writer(self) -> bool:
        """See `store_kinds.save_in_a_fork`."""
        after_s = self._rng.uniform(0, 0.1)
        ended = self._forks.run(_FORK, "save_in_a_fork", self._folder, self._seed, after_s)
        self._seed += 1
        return ended.said == ["read on"] and self._holds(self._seed)

    def full_disks(self) -> bool:
        """See `store_kinds.full`."""
        assert self._disks is not None
        return store_kinds.full(self._disks, self._rng.randrange(1 << 20))

    def mended_root(self) -> bool:
        """See `store_kinds.mended`."""
        return store_kinds.mended(
            _roots(self._folder), self._seed, lambda root: each_shard(root, damage_data)
        )

    def kinds(self) -> list[Callable[[], bool]]:
        """The kinds of faults, some more often than others."""
        found = [self.damaged_root] * 5 + [self.killed_writer] * 3
        found += [self.lost_root, self.collected, self.rolled_back, self.restored_backup]
        found += [self.copied_store, self.replaced_root, self.replaced_root_by_force]
        found += [self.forked_reader, self.forked_writer]
        if self._disks is not None:
            found.append(self.full_disks)
        if hasattr(fastio.Store, "verify"):
            found.append(self.mended_root)
        else:
            print("no repairs: stores have no verify")
        return found


def run(cycles: int | None, seconds: float | None, seed: int) -> int:
    """Soak, print the counts, and return how many faults lost anything."""
    rng = random.Random(seed)
    tried: Counter[str] = Counter()
    lost_of: Counter[str] = Counter()
    lost = 0
    begin = time.monotonic()
    print(f"seed {seed}")
    testbed.enter_private_mounts()
    folder = Path(tempfile.mkdtemp(prefix="fastio-store-soak-"))
    try:
        with (
            store_kinds.small_disks(folder / "disks") as disks,
            testbed.forks("import fastio\nfrom pathlib import Path") as forks,
        ):
            soak = Soak(folder, rng, forks, disks)
            kinds = soak.kinds()
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
                lost_of[kind.__name__] += not survived
                if not survived:
                    print(f"cycle {tried.total()}, {kind.__name__}: LOST")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for what, count in sorted(tried.items()):
        bad = lost_of[what]
        print(f"{count:7} {what.replace('_', ' ')}: survived {count - bad}, lost {bad}")
    total = tried.total()
    took = time.monotonic() - begin
    print(f"faults tried {total}, survived {total - lost}, lost {lost}, in {took:.0f} s")
    return lost


if __name__ == "__main__":
    sys.exit(1 if run(*asked(__doc__)) else 0)
