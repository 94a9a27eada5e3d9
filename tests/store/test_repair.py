"""A replica is written anew from whatever other replicas have, and answer."""

import hashlib
import threading
from pathlib import Path

import pytest

import fastio
from fastio import _native
from fastio.store import repair
from fastio.store.manifest import ShardEntry
from fastio.store.root import Root
from store.samples import CHUNK_BYTES, create, tensors


@pytest.fixture
def roots(tmp_path: Path) -> list[Root]:
    """Two roots with a replica of everything."""
    with create(tmp_path, replicas=2, chunk_bytes=CHUNK_BYTES) as store:
        store.save(tensors(1))
        paths = store.roots
    return [Root.open(Path(path)) for path in paths]


@pytest.fixture
def entry(roots: list[Root]) -> ShardEntry:
    (record,) = (each for each in roots[0].records().values() if each.generation == 1)
    return roots[0].manifest(record.manifest).manifest.shards[0]


def _path(root: Root, entry: ShardEntry) -> Path:
    return Path(root.path) / "shards" / entry.file


def test_a_replica_that_does_not_answer_is_not_waited_for(
    roots: list[Root], entry: ShardEntry
) -> None:
    path, other = (_path(root, entry) for root in roots)
    path.unlink()
    go_on, has_answered = threading.Event(), threading.Event()

    def answer_late(offset: int, nbytes: int) -> bytes:
        go_on.wait(60)
        has_answered.set()
        return bytes(nbytes)

    silent = _native.Feed("elsewhere://shard", entry.nbytes, answer_late, disk=0xD15C)
    try:
        repair.rewrite(
            roots[0],
            entry,
            [silent, roots[1].storage.open_file("shards", entry.file)],
            roots,
            timeout_s=0.1,
        )
        assert not has_answered.is_set()
    finally:
        go_on.set()
    assert path.read_bytes() == other.read_bytes()


def test_each_chunk_comes_from_a_replica_that_has_it_sound(
    roots: list[Root], entry: ShardEntry
) -> None:
    """Neither of two replicas is whole: one lacks every second chunk, the other one the rest."""
    path, other = (_path(root, entry) for root in roots)
    sound = other.read_bytes()
    damaged = [bytearray(sound), bytearray(sound)]
    for at, begin in enumerate(range(entry.start, entry.nbytes, CHUNK_BYTES)):
        damaged[at % 2][begin] ^= 1
    other.write_bytes(damaged[0])
    path.unlink()

    def bring(offset: int, nbytes: int) -> bytes:
        return bytes(damaged[1][offset : offset + nbytes])

    feed = _native.Feed("elsewhere://shard", entry.nbytes, bring, disk=0xD15D)
    repair.rewrite(roots[0], entry, [roots[1].storage.open_file("shards", entry.file), feed], roots)
    assert path.read_bytes() == sound


def test_nothing_is_written_where_no_replica_has_a_chunk(
    roots: list[Root], entry: ShardEntry
) -> None:
    path, other = (_path(root, entry) for root in roots)
    damaged = bytearray(other.read_bytes())
    damaged[-1] ^= 1
    other.write_bytes(damaged)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(fastio.WriteError, match="is damaged at byte"):
        repair.rewrite(roots[0], entry, [roots[1].storage.open_file("shards", entry.file)], roots)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert not [each for each in path.parent.iterdir() if each.suffix != ".safetensors"]
