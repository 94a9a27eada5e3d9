"""Events of stores in `store_soak` besides damage: copies, backups, forks, full disks, replaced
roots. Each has its own store, or leaves the given one unchanged.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

import fastio
import testbed
from faults.samples import CHUNK_BYTES
from faults.stores import SHARD_BYTES
from store.samples import assert_same, tensors

DISK_BYTES = 12 << 20
"""Of each disk that is filled: some generations fit."""


def roots_of(folder: Path, count: int = 3) -> list[Path]:
    """The paths of a store's roots."""
    return [folder / f"root{at}" for at in range(count)]


def create(folder: Path, seed: int, count: int = 3) -> list[Path]:
    """A store with two replicas that holds the tensors of a seed."""
    roots = roots_of(folder, count)
    with fastio.Store.create(
        roots, replicas=2, shard_bytes=SHARD_BYTES, chunk_bytes=CHUNK_BYTES
    ) as store:
        store.save(tensors(seed))
    return roots


def holds(roots: Sequence[Path] | Path, seed: int) -> bool:
    """Whether a store holds them, verified and byte by byte."""
    with fastio.Store.open(roots) as store:
        found = store.load(verify="require")
    return is_made_by(found, seed)


def is_made_by(found: Mapping[str, object], seed: int) -> bool:
    """Whether these are the tensors of a seed."""
    try:
        assert_same(found, tensors(seed))
    except AssertionError:
        return False
    return True


def _is_healthy(store: fastio.Store) -> bool:
    """Whether the status calls the newest generation whole; its faults are printed. A root that was
    replaced or restored from a backup may lack shards of older generations.
    """
    store.gc()
    status = store.status()
    if status.degraded:
        print(status)
    return not status.degraded


def _files(roots: Sequence[Path]) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for root in roots
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def copied(roots: Sequence[Path], seed: int, rng: random.Random) -> bool:
    """A copy is opened by one root, saved to, and adopted; the original stays unchanged."""
    folder = roots[0].parent / "copy"
    before = _files(roots)
    copies = [folder / root.name for root in roots]
    try:
        for root, copy in zip(roots, copies, strict=True):
            shutil.copytree(root, copy)
        with fastio.Store.open(rng.choice(copies)) as store:
            own = {root.parent for root in store.roots} == {folder}
            store.save(tensors(seed + 1))
            if rng.random() < 0.5:
                store.gc()
        with fastio.Store.open(rng.choice(copies)) as store:
            own = own and {root.parent for root in store.roots} == {folder}
        # The copy was saved to, and lies at the path in its manifest: only its owner can tell that
        # it is a copy.
        with fastio.Store.adopt(copies, force=True) as adopted:
            adopted.save(tensors(seed + 2))
        held = holds(rng.choice(copies), seed + 2)
        return own and held and _files(roots) == before and holds(roots, seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replaced(roots: Sequence[Path], seed: int, rng: random.Random) -> bool:
    """One root is lost, or abandoned, and another one replaces it, at its path in the end."""
    old = rng.choice(roots)
    spare = old.with_name("spare")
    is_lost = rng.random() < 0.5
    if is_lost:
        shutil.rmtree(old)
    with fastio.Store.open([root for root in roots if root.exists()]) as store:
        if is_lost:
            store.replace_root(old, old)
        else:
            store.replace_root(old, spare)
            shutil.rmtree(old)
            store.replace_root(spare, old)
            shutil.rmtree(spare)
        healthy = _is_healthy(store)
    away = rng.choice([root for root in roots if root != old])
    away.rename(away.with_name("away"))
    try:
        return healthy and holds(old, seed)
    finally:
        away.with_name("away").rename(away)


def replaced_by_force(folder: Path, seed: int, rng: random.Random) -> bool:
    """A store of two has lost one: without force nothing changes; with force the call goes on."""
    try:
        roots = create(folder, seed, 2)
        lost = rng.choice(roots)
        shutil.rmtree(lost)
        (left,) = (root for root in roots if root != lost)
        new = rng.choice([lost, folder / "new"])
        with fastio.Store.open(left) as store:
            with contextlib.suppress(fastio.ReplicaError):
                store.replace_root(lost, new)
                return False
            store.replace_root(lost, new, force=True)
            store.save(tensors(seed + 1))
        return holds(left, seed + 1) and holds(new, seed + 1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- forks


def read_in_a_fork(folder: Path, seed: int) -> str:
    """A child goes on reading a generation that its parent has opened, closed, saved over and
    collected.
    """
    store = fastio.Store.open(roots_of(folder))
    reader = store.reader()
    go_on, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(go_on, 1)
        names = list(reader.keys())
        same = is_made_by({name: reader[name][...] for name in names}, seed)
        os._exit(0 if same else 1)
    os.close(go_on)
    del reader
    store.close()
    with fastio.Store.open(roots_of(folder)) as other:
        other.save(tensors(seed + 1))
        other.gc()
    os.close(write)
    return "read on" if os.waitpid(child, 0)[1] == 0 else "lost"


def save_in_a_fork(folder: Path, seed: int, after_s: float) -> str:
    """A child that is forked while a thread saves blocks no later save."""
    go_on, write = os.pipe()
    with fastio.Store.open(roots_of(folder)) as store:
        thread = threading.Thread(target=store.save, args=(tensors(seed + 1),))
        thread.start()
        thread.join(after_s)
        child = os.fork()
        if not child:
            os.close(write)
            os.read(go_on, 1)
            os._exit(0)
        os.close(go_on)
        thread.join()
        store.save(tensors(seed + 1))
    with fastio.Store.open(roots_of(folder)) as other:
        other.gc()
    os.close(write)
    return "read on" if os.waitpid(child, 0)[1] == 0 else "lost"


# ---- full disks


@contextlib.contextmanager
def small_disks(folder: Path) -> Iterator[list[Path] | None]:
    """Roots on disks of their own that fill up soon; None if they cannot be mounted."""
    with contextlib.ExitStack() as mounted:
        disks = []
        try:
            for at in range(3):
                (folder / f"disk{at}").mkdir(parents=True)
                mount = testbed.tmpfs_mount(folder / f"disk{at}", nbytes=DISK_BYTES)
                disks.append(mounted.enter_context(mount).path)
        except pytest.skip.Exception as reason:
            print(f"no full disks: {reason}")
            yield None
            return
        roots = [disk / "root" for disk in disks]
        fastio.Store.create(
            roots, replicas=2, shard_bytes=SHARD_BYTES, chunk_bytes=CHUNK_BYTES
        ).close()
        yield roots


def _fill(disk: Path) -> None:
    """Write until the disk is full."""
    with (disk / "filler").open("ab", buffering=0) as file:
        nbytes = 1 << 20
        while nbytes:
            try:
                file.write(bytes(nbytes))
            except OSError:
                nbytes //= 2


def full(roots: Sequence[Path], seed: int) -> bool:
    """On full disks a save fails and changes nothing; collecting makes room for one."""
    with fastio.Store.open(roots) as store:
        store.gc()
        store.save(tensors(seed))
        store.save(tensors(seed + 1))
        for root in roots:
            _fill(root.parent)
        try:
            store.save(tensors(seed + 2))
            return False  # there was no room
        except (fastio.WriteError, fastio.ReplicaError):
            pass
        told = not hasattr(store, "verify") or "full" in str(store.status())
        held = holds(roots, seed + 1)
        freed = store.gc().nbytes
        store.save(tensors(seed + 2))
        held = held and holds(roots, seed + 2)
        for root in roots:
            (root.parent / "filler").unlink()
        return told and held and freed > 0


def mended(roots: Sequence[Path], seed: int, damage: Callable[[Path], object]) -> bool:
    """Damage on one root is repaired from the other: afterwards the other can be lost."""
    rng = random.Random(seed)
    root = rng.choice(roots)
    with fastio.Store.open(roots) as store:
        store.gc()  # a replaced root may have had the other replica of older shards
    damage(root)
    with fastio.Store.open([each for each in roots if each.exists()]) as store:
        verify: Callable[..., object] = getattr(store, "verify")  # noqa: B009
        verify(repair=True)
        healthy = _is_healthy(store)
    away = rng.choice([each for each in roots if each != root])
    away.rename(away.with_name("away"))
    try:
        return healthy and holds(root, seed)
    finally:
        away.with_name("away").rename(away)
