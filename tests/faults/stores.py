"""Small stores on two roots, whose generations are told apart by the seeds of their tensors."""

from collections.abc import Sequence
from pathlib import Path

import fastio
from faults.samples import CHUNK_BYTES, NEW, NEXT, OLD, Engine, in_few_writes, tensors_of
from samples import same_bytes

SHARD_BYTES = 200_000


def roots_in(folder: Path) -> list[Path]:
    """The paths of a store's roots."""
    return [folder / "root0", folder / "root1"]


def create(folder: Path) -> None:
    """A store whose newest generation has the old tensors."""
    store = fastio.Store.create(
        roots_in(folder), replicas=2, shard_bytes=SHARD_BYTES, chunk_bytes=CHUNK_BYTES
    )
    store.save(tensors_of(OLD))
    store.close()


def change(folder: Path, what: str, engine: Engine) -> None:
    """Save the new tensors; or roll back to the old ones; or collect."""
    with fastio.Store.open(roots_in(folder)) as store:
        if what == "save":
            store.save(tensors_of(NEW), options=in_few_writes(engine))
        elif what == "rollback":
            store.rollback_to(1)
        else:
            store.gc(keep=1)


def save_next(folder: Path) -> None:
    """Save the tensors that follow."""
    with fastio.Store.open(roots_in(folder)) as store:
        store.save(tensors_of(NEXT))


def held(roots: Sequence[Path], generation: int | None = None) -> int:
    """The seed of the newest generation, whole and verified.

    Raises
    ------
    AssertionError
        If it loads and differs from every saved one.
    """
    with fastio.Store.open(roots, generation=generation) as store:
        found = {name: tensor.tobytes() for name, tensor in store.load(verify="require").items()}
    for seed in (OLD, NEW, NEXT):
        if same_bytes(tensors_of(seed), found):
            return seed
    raise AssertionError(f"{roots} loads, and is none of what was saved: {sorted(found)}")


def strays(folder: Path) -> list[str]:
    """Files that no generation needs."""
    found = []
    for root in roots_in(folder):
        with fastio.Store.open(root) as store:
            standings = store._opened.members.standings()
            manifests = [store._opened.members.manifest(one.record) for one in standings]
        needed = {shard.file for named in manifests for shard in named.manifest.shards}
        needed |= {f"{named.digest}.json" for named in manifests}
        for sub in ("shards", "manifests"):
            found += [path.name for path in (root / sub).iterdir() if path.name not in needed]
    return sorted(found)
