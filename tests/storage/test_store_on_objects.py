"""A second kind of storage fits in a store: its roots are objects in memory, by URL.

Everything goes through the calls that S3 has: get of a range, put, put if absent, list, delete.
"""

import errno
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
from fastio.errors import ConflictError
from fastio.storage import known
from fastio.store import locks
from fastio.store.documents import Record, RootIdentity
from fastio.store.manifest import Manifest, RootEntry, Settings, encode
from fastio.store.root import Root
from storage import objects

_URLS = ["mem://first/store/root0", "mem://second/root1"]
_STORE, _ROOT = f"{1:032x}", f"{2:032x}"
_SETTINGS = Settings(1, None, 2**20, "size", "rendezvous", (), 0o600)


@pytest.fixture(autouse=True)
def buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, objects.Bucket]]:
    """Two empty buckets, and one for a new root."""
    monkeypatch.setitem(known.modules(), "mem", objects.__name__)
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
        objects.BUCKETS[name] = objects.Bucket(tmp_path / name)
    yield objects.BUCKETS
    objects.BUCKETS.clear()


def _tensors(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        f"layers.{at}": random.standard_normal((200, 300)).astype(np.float32) for at in range(6)
    }


def _assert_same(found: Any, seed: int) -> None:
    expected = _tensors(seed)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert np.array_equal(found[name], tensor)


def _created() -> fastio.Store:
    store = fastio.Store.create(_URLS, replicas=2, shard_bytes=2**18, chunk_bytes=2**16)
    assert store.save(_tensors(1)) == 1
    return store


# ---- one root


@pytest.fixture
def root() -> Iterator[Root]:
    """A root of a store, in a bucket."""
    made = Root.create(known.address_of(_URLS[0]), RootIdentity(_STORE, _ROOT, 1.0))
    yield made
    made.close()


def _again() -> Root:
    return Root.open(known.address_of(_URLS[0]))


def _record(generation: int, ballot: int, digest: str = "0" * 64) -> Record:
    return Record(_STORE, generation, ballot, digest, None, (_ROOT,), 0)


def test_records_promises_and_manifests_are_read_by_whoever_opens_the_root(root: Root) -> None:
    named = encode(Manifest(_STORE, (RootEntry(_ROOT, 1.0, _URLS[0]),), (), {}, {}, _SETTINGS))
    root.put_promise(7)
    root.put_manifest(named)
    root.put_record(_record(1, 7, named.digest))
    other = _again()
    assert other.identity == root.identity
    assert other.is_itself()
    assert other.promised() == 7
    assert other.records() == {1: _record(1, 7, named.digest)}
    assert other.manifest(named.digest).manifest == named.manifest
    assert (other.problems, other.damaged) == ([], set())
    other.close()


def test_a_record_gives_way_to_a_higher_ballot_only(root: Root) -> None:
    root.put_record(_record(1, 5))
    with pytest.raises(ConflictError):
        _again().put_record(_record(1, 5, "1" * 64))
    _again().put_record(_record(1, 6, "2" * 64))
    assert root.records() == {1: _record(1, 6, "2" * 64)}


def test_the_writers_lock_and_those_of_readers_keep_others_out(root: Root) -> None:
    named = encode(Manifest(_STORE, (RootEntry(_ROOT, 1.0, _URLS[0]),), (), {}, {}, _SETTINGS))
    root.put_manifest(named)
    held = locks.lock(root)
    assert held is not None
    assert locks.lock(_again()) is None
    held.close()
    reader = locks.hold(root, named.digest)
    with locks.unread(_again(), named.digest) as is_unread:
        assert is_unread is False
    reader.close()
    with locks.unread(_again(), named.digest) as is_unread:
        assert is_unread is True
        with pytest.raises(FileNotFoundError):
            locks.hold(root, named.digest)


def test_a_root_that_is_withdrawn_leaves_no_object(
    root: Root, buckets: dict[str, objects.Bucket]
) -> None:
    root.put_record(_record(1, 1))
    assert buckets["first"].list("") != {}
    root.withdraw()
    assert buckets["first"].list("") == {}


# ---- a whole store


def test_a_store_is_created_saved_to_and_loaded(buckets: dict[str, objects.Bucket]) -> None:
    with _created() as store:
        _assert_same(store.load(), 1)
        assert store.save(_tensors(2)) == 2
        assert {str(root) for root in store.roots} == set(_URLS)
        assert not store.status().degraded
    with fastio.Store.open(_URLS[0]) as store:  # the other one is found by the manifest
        assert {str(root) for root in store.roots} == set(_URLS)
        _assert_same(store.load(), 2)
        _assert_same(store.load(generation=1), 1)
    _assert_same(fastio.load(_URLS[1]), 2)
    with fastio.open(_URLS[1]) as reader:
        assert np.array_equal(reader["layers.3"][7:9], _tensors(2)["layers.3"][7:9])
    assert all(key.startswith("store/root0/") for key in buckets["first"].list(""))


def test_a_root_beside_a_folder_makes_a_store(tmp_path: Path) -> None:
    roots = [str(tmp_path / "root0"), _URLS[1]]
    with fastio.Store.create(roots, replicas=2) as store:
        store.save(_tensors(1))
    for root in roots:
        _assert_same(fastio.load(root), 1)
    with fastio.Store.open(roots) as store:
        assert {str(root) for root in store.roots} == set(roots)
        assert store.verify().ok


def test_generations_that_are_read_are_not_collected() -> None:
    with _created() as store, fastio.Store.open(_URLS[0]) as reading:
        store.save(_tensors(2))
        store.save(_tensors(3))
        assert store.gc(keep=1).in_use == (1,)
        _assert_same(reading.load(), 1)
        reading.close()
        assert store.gc(keep=1).generations == (1,)
        _assert_same(store.load(), 3)


def test_a_second_writer_waits_and_goes_on_from_the_newest_generation() -> None:
    with _created() as store, fastio.Store.open(_URLS) as other:
        assert other.save(_tensors(2)) == 2
        assert store.save(_tensors(3)) == 3
        assert other.rollback_to(2) == 4
        _assert_same(other.load(), 2)


def test_a_damaged_object_is_read_from_the_other_root_and_repaired(
    buckets: dict[str, objects.Bucket],
) -> None:
    bucket = buckets["second"]
    with _created() as store:
        (shard, *_) = (key for key in bucket.list("root1/shards/"))
        data = bytearray(bucket.get(shard))
        sound = bytes(data)
        data[-1000] ^= 1
        bucket.put(shard, bytes(data))
        (record, *_) = (key for key in bucket.list("root1/commits/"))
        bucket.put(record, b"damaged")
        _assert_same(store.load(), 1)
        found = store.verify()
        assert sorted(event.path for event in found.damaged) == [
            f"mem://second/{record}",
            f"mem://second/{shard}",
        ]
        assert store.verify(repair=True).ok
        assert bucket.get(shard) == sound
        assert store.verify().ok


def test_a_load_repairs_a_damaged_object(buckets: dict[str, objects.Bucket]) -> None:
    with _created() as store:
        before = {name: bucket.list("") for name, bucket in buckets.items()}
        for key in buckets["first"].list("store/root0/shards/"):
            buckets["first"].delete(key)
        _assert_same(store.load(on_damage="repair"), 1)
        assert buckets["first"].list("").keys() == before["first"].keys()
        assert store.verify().ok


def test_a_store_goes_on_without_a_bucket_that_fails(buckets: dict[str, objects.Bucket]) -> None:
    urls = [*_URLS, "mem://third/root2"]
    with fastio.Store.create(urls, replicas=2) as store:
        store.save(_tensors(1))
        buckets["third"].failing = {"put": OSError(errno.EIO, "the service is down")}
        assert store.save(_tensors(2)) == 2
        _assert_same(store.load(), 2)
        buckets["third"].failing = {}
        assert store.save(_tensors(3)) == 3
        assert not store.status().degraded


def test_a_root_in_a_bucket_is_replaced_by_one_in_another() -> None:
    with _created() as store:
        assert store.replace_root(_URLS[0], "mem://third/root2") == 2
        assert {str(root) for root in store.roots} == {_URLS[1], "mem://third/root2"}
    _assert_same(fastio.load("mem://third/root2"), 1)


def test_a_pickled_store_finds_its_buckets_again() -> None:
    with _created() as store, pickle.loads(pickle.dumps(store)) as again:
        assert {str(root) for root in again.roots} == set(_URLS)
        _assert_same(again.load(), 1)


def test_a_copy_finds_its_own_roots_beside_it(buckets: dict[str, objects.Bucket]) -> None:
    bucket = buckets["first"]
    urls = ["mem://first/model/root0", "mem://first/model/root1"]
    with fastio.Store.create(urls, replicas=2) as store:
        store.save(_tensors(1))
    for key in bucket.list("model/"):
        bucket.put(f"copy/{key.removeprefix('model/')}", bucket.get(key))
    with fastio.Store.open("mem://first/copy/root0") as copy:
        assert {str(root) for root in copy.roots} == {
            "mem://first/copy/root0",
            "mem://first/copy/root1",
        }
        assert copy.save(_tensors(2)) == 2
    with fastio.Store.open(urls) as store:
        assert store.generation == 1
        _assert_same(store.load(), 1)


def test_a_store_is_not_created_where_objects_are(buckets: dict[str, objects.Bucket]) -> None:
    buckets["second"].put("root1/shards/a", b"data")
    with pytest.raises(fastio.WriteError, match="ENOTEMPTY"):
        fastio.Store.create(_URLS)
    assert buckets["first"].list("") == {}


def test_a_store_asks_for_what_an_object_store_has(buckets: dict[str, objects.Bucket]) -> None:
    with _created() as store:
        store.gc()
    verbs = {verb for bucket in buckets.values() for verb, _ in bucket.calls}
    assert verbs == {"get", "put", "list", "delete"}
