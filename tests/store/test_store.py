"""A store: saved, loaded in every way, rolled back, collected, inspected."""

import itertools
import os
import pickle
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
from store.samples import SHARD_BYTES, assert_same, create, shards_of, tensors
from testbed import run_python


@pytest.mark.parametrize(("roots", "replicas"), [(1, 1), (2, 1), (2, 2), (3, 2), (5, 3)])
def test_saved_tensors_are_loaded(tmp_path: Path, roots: int, replicas: int) -> None:
    store = create(tmp_path, roots, replicas=replicas)
    assert store.save(tensors(), metadata={"step": "7"}) == 1
    report = fastio.Report()
    assert_same(store.load(report=report), tensors())
    assert report.chunks_verified > 0
    assert report.unverified == ()
    assert report.fallbacks == ()
    for at in range(roots):
        assert_same(fastio.Store.open(tmp_path / f"root{at}").load(), tensors())
        assert_same(fastio.load(tmp_path / f"root{at}"), tensors())


def test_each_shard_is_on_as_many_roots_as_there_are_replicas(tmp_path: Path) -> None:
    store = create(tmp_path, 4, replicas=3)
    store.save(tensors())
    count: dict[str, int] = {}
    for at in range(4):
        for shard in shards_of(tmp_path / f"root{at}"):
            count[shard.name] = count.get(shard.name, 0) + 1
    assert len(count) > 4
    assert set(count.values()) == {3}


def test_every_shard_is_an_ordinary_file_that_verifies_itself(tmp_path: Path) -> None:
    create(tmp_path, 2).save(tensors())
    names: set[str] = set()
    for shard in shards_of(tmp_path / "root0"):
        names |= fastio.load(shard, verify="require").keys()
    assert {"layers.0.weight", "scalar", "empty"} <= names


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_it_is_read_in_every_way_that_a_file_is(tmp_path: Path, framework: Any) -> None:
    pytest.importorskip(framework)
    store = create(tmp_path, 3)
    saved = tensors()
    store.save(saved, metadata={"step": "7"})
    whole = store.load(framework=framework)

    def same(one: Any, other: Any) -> bool:
        return bool((one == other).all())

    some = store.load(framework=framework, names=["long", "scalar", "embedding"])
    assert list(some) == ["long", "scalar", "embedding"]
    assert all(same(some[name], whole[name]) for name in some)
    with store.reader(framework=framework) as reader:
        assert sorted(reader) == sorted(saved)
        assert len(reader) == len(saved)
        assert "embedding" in reader
        assert "no" not in reader
        assert reader.metadata == {"step": "7"}
        assert reader.info("embedding").shape == (700, 512)
        for name in saved:
            assert same(reader.tensor(name), whole[name]), name
            assert same(reader[name][...], whole[name]), name
        embedding = reader["embedding"]
        for index in (
            3,
            slice(250, 270),
            slice(None, None, 97),
            (slice(None), slice(5, 9)),
            (slice(100, 600), 7),
            [3, 699, 256, 3],
        ):
            assert same(embedding[index], whole["embedding"][index]), index
        assert same(
            reader["long"][SHARD_BYTES - 3 : 2 * SHARD_BYTES + 5],
            whole["long"][SHARD_BYTES - 3 : 2 * SHARD_BYTES + 5],
        )
        assert_names = reader.read(["embedding", "flags"])
        assert same(assert_names["embedding"], whole["embedding"])
    streamed = dict(store.stream(framework=framework, memory_limit_bytes=2**20))
    assert sorted(streamed) == sorted(saved)
    assert all(same(streamed[name], whole[name]) for name in saved)


def test_a_slice_of_a_cut_tensor_reads_only_its_pieces(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    store.save(tensors())
    with store.reader(options=fastio.Options(cache="bypass")) as reader:
        reader["long"][5:10]
        assert reader.report.bytes_read <= 2 * 2**16


def test_load_into_fills_existing_tensors(tmp_path: Path) -> None:
    store = create(tmp_path, 3)
    saved = tensors()
    store.save(saved)
    out = {name: np.zeros(one.shape, one.dtype.newbyteorder("=")) for name, one in saved.items()}
    out["embedding"] = np.zeros((512, 700), saved["embedding"].dtype).T
    store.load_into(out)
    assert_same(out, saved)
    with pytest.raises(ValueError, match="strict=False"):
        store.load_into({"long": out["long"]})
    out["long"][:] = 0
    report = fastio.Report()
    store.load_into({"long": out["long"]}, strict=False, report=report)
    assert (out["long"] == saved["long"]).all()
    assert report.tensors == 1


def test_shards_that_did_not_change_are_used_again(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    saved = tensors()
    first = fastio.Report()
    store.save(saved, report=first)
    assert first.bytes_reused == 0
    before = {shard.name for shard in shards_of(tmp_path / "root0")}
    saved["layers.3.weight"] = saved["layers.3.weight"] + 1
    second = fastio.Report()
    assert store.save(saved, report=second) == 2
    after = {shard.name for shard in shards_of(tmp_path / "root0")}
    assert len(after - before) == 1
    assert second.bytes_reused > 0
    assert second.nbytes < first.nbytes / 3
    assert_same(store.load(), saved)
    assert_same(store.load(generation=1), tensors())


def test_a_tensor_can_be_added(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(), metadata={"step": "1"})
    large = np.arange(SHARD_BYTES, dtype=np.float32).reshape(-1, 8)
    assert store.add("more", large) == 2
    assert_same(store.load(), {**tensors(), "more": large})
    with store.reader() as reader:
        assert reader.metadata == {"step": "1"}
    with pytest.raises(fastio.UsageError, match="'more' already"):
        store.add("more", large)
    with pytest.raises(fastio.UsageError, match="'embedding' already"):
        store.add("embedding", large)
    assert store.generation == 2


def test_generations_stay_until_they_are_collected(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    for seed in range(4):
        store.save(tensors(seed))
    assert [one.number for one in store.generations()] == [4, 3, 2, 1]
    assert {one.tensors for one in store.generations()} == {len(tensors())}
    assert all(one.decided for one in store.generations())
    assert store.rollback_to(2) == 5
    assert_same(store.load(), tensors(1))
    assert [one.number for one in store.generations()] == [5, 4, 3, 2, 1]
    collected = store.gc(keep=2)
    assert collected.generations == (3, 2, 1, 0)
    assert collected.nbytes > 0
    assert [one.number for one in store.generations()] == [5, 4]
    assert_same(store.load(), tensors(1))
    assert_same(store.load(generation=4), tensors(3))
    for gone in (1, 2, 3, 6):
        with pytest.raises(fastio.ConflictError, match=f"no generation {gone}"):
            store.load(generation=gone)
    with pytest.raises(fastio.ConflictError):
        store.rollback_to(1)


def test_a_generation_in_use_is_not_collected(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    old = fastio.Store.open(tmp_path / "root1")
    store.save(tensors(2))
    store.save(tensors(3))
    collected = store.gc(keep=1)
    assert collected.in_use == (1,)
    assert_same(old.load(), tensors(1))
    old.close()
    assert store.gc(keep=1).generations == (1,)
    assert_same(store.load(), tensors(3))


def test_files_that_no_generation_needs_are_removed(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    orphan = tmp_path / "root0" / "shards" / "00000.0123456789abcdef.safetensors"
    orphan.write_bytes(b"left by a writer that died")
    store.gc()
    assert not orphan.exists()
    assert_same(store.load(), tensors(1))


@pytest.mark.parametrize("scheme", ["size", "hash", "range", "callable"])
def test_tensors_are_spread_over_shards_as_was_asked(tmp_path: Path, scheme: str) -> None:
    by: Any = scheme if scheme != "callable" else lambda name: name.split(".")[0]
    store = create(tmp_path, 2, partition=by)
    store.save(tensors())
    assert_same(store.load(), tensors())
    again = fastio.Report()
    store.save(dict(reversed(tensors().items())), report=again)
    if scheme != "size":  # which uses the order
        assert again.nbytes == 0
    opened = fastio.Store.open(tmp_path / "root0")
    if scheme == "callable":
        with pytest.raises(fastio.UsageError, match="callable"):
            opened.save(tensors())
        opened.save(tensors(), partition=by)
    else:
        opened.save(tensors())
    assert_same(opened.load(), tensors())


def test_a_mapping_places_tensors(tmp_path: Path) -> None:
    places = {"layers.*": [0, 1], "*": [2, 1]}
    store = create(tmp_path, 3, placement=places)
    store.save(tensors())
    on = [
        set(itertools.chain.from_iterable(fastio.load(shard) for shard in shards_of(root)))
        for root in (tmp_path / "root0", tmp_path / "root1", tmp_path / "root2")
    ]
    assert on[0] == {f"layers.{at}.weight" for at in range(6)}
    assert on[0] | on[2] == on[1]
    assert not on[0] & on[2]
    assert_same(store.load(), tensors())
    store = create(tmp_path / "other", 2, placement={"layers.*": [0, 1]})
    with pytest.raises(ValueError, match="no pattern matches"):
        store.save(tensors())


def test_roots_hold_shares_by_their_weights(tmp_path: Path) -> None:
    store = create(tmp_path, 3, replicas=1, weights=[2, 1, 1], shard_bytes=2**16)
    saved = {f"{at}": np.full(2**14, at, np.float32) for at in range(64)}
    store.save(saved)
    held = [len(shards_of(tmp_path / f"root{at}")) for at in range(3)]
    # A root's UUID, and not its place in the list, identifies it: only the shares are known.
    assert sorted(held) == [16, 16, 32] or sorted(held)[2] in range(30, 35)
    assert_same(store.load(), saved)


def test_files_are_for_their_owner_unless_others_are_granted_access(tmp_path: Path) -> None:
    for mode, expected in ((0o600, (0o600, 0o700)), (0o640, (0o640, 0o750))):
        folder = tmp_path / f"{mode:o}"
        store = create(folder, 2, mode=mode)
        store.save(tensors())
        fastio.Store.open(folder / "root1").save(tensors(2))
        for root, folders, files in os.walk(folder / "root0"):
            assert stat.S_IMODE(os.stat(root).st_mode) == expected[1], root
            del folders
            for name in files:
                found = stat.S_IMODE(os.stat(Path(root) / name).st_mode)
                assert found == expected[0], name


def test_no_tensors_make_a_generation_too(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    assert store.load() == {}
    assert store.generations() == ()
    assert store.save({}) == 1
    assert store.load() == {}
    assert dict(store.stream()) == {}


def test_status_describes_the_store(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    store.save(tensors())
    status = store.status()
    assert (status.generation, status.degraded, status.in_doubt) == (1, False, ())
    assert set(status.roots.values()) == {"ok"}
    assert all(free > 0 for free in status.free_bytes.values())
    (tmp_path / "root1").rename(tmp_path / "elsewhere")
    status = fastio.Store.open(tmp_path / "root0").status()
    assert status.degraded
    assert "not mounted" in status.roots[str(tmp_path / "root1")]
    assert "DEGRADED" in str(status)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"roots": []}, ValueError, "0 roots"),
        ({"roots": "root"}, TypeError, "sequence of paths"),
        ({"roots": ["a", 3]}, TypeError, "a root must be a path"),
        ({"roots": ["a", "a"]}, ValueError, "twice"),
        ({"roots": [f"{at}" for at in range(65)]}, ValueError, "65 roots"),
        ({"replicas": 3}, ValueError, "replicas=3"),
        ({"replicas": 0}, ValueError, "replicas=0"),
        ({"replicas": "2"}, TypeError, "replicas"),
        ({"shard_bytes": 0}, ValueError, "shard_bytes=0"),
        ({"chunk_bytes": 1000}, ValueError, "chunk_bytes=1000"),
        ({"partition": "colour"}, ValueError, "partition='colour'"),
        ({"placement": "moon"}, ValueError, "placement='moon'"),
        ({"placement": {"*": [0, 7]}}, ValueError, "=7"),
        ({"placement": {"*": [0]}}, ValueError, "2 different roots"),
        ({"weights": [1]}, ValueError, "weights"),
        ({"weights": [1, -1]}, ValueError, "weights"),
        ({"mode": 0o077}, ValueError, "mode"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_made(
    tmp_path: Path,
    given: dict[str, Any],
    error: type[Exception],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        fastio.Store.create(**{"roots": ["a", "b"], **given})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_no_root(tmp_path: Path) -> None:
    (tmp_path / "root1").mkdir()
    (tmp_path / "root1" / "precious").write_text("x")
    with pytest.raises(fastio.WriteError, match="something in it"):
        create(tmp_path, 2)
    assert (tmp_path / "root1" / "precious").read_text() == "x"
    store = create(tmp_path / "other", 2)
    store.save(tensors())
    with pytest.raises(fastio.WriteError, match="something in it"):
        create(tmp_path / "other", 2)
    assert_same(store.load(), tensors())


def test_a_missing_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fastio.Store.open(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"fastio-root\.json"):
        fastio.Store.open(tmp_path / "empty")


@pytest.mark.parametrize("call", ["load", "reader", "stream"])
def test_on_damage_is_checked(tmp_path: Path, call: str) -> None:
    store = create(tmp_path, 2)
    function: Callable[..., Any] = getattr(store, call)
    with pytest.raises(ValueError, match="on_damage='ignore'"):
        function(on_damage="ignore")


def test_two_writers_come_one_after_the_other(tmp_path: Path) -> None:
    create(tmp_path, 2).close()

    def save(seed: int) -> int:
        with fastio.Store.open(tmp_path / f"root{seed % 2}") as store:
            return store.save(tensors(seed))

    with ThreadPoolExecutor(4) as threads:
        saved = dict(zip(range(8), threads.map(save, range(8)), strict=True))
    assert sorted(saved.values()) == list(range(1, 9))
    store = fastio.Store.open(tmp_path / "root0")
    for seed, generation in saved.items():
        assert_same(store.load(generation=generation), tensors(seed))


def test_a_root_that_is_an_old_backup_is_outvoted_and_mended_by_the_next_save(
    tmp_path: Path,
) -> None:
    store = create(tmp_path, 3)
    store.save(tensors(1))
    shutil.copytree(tmp_path / "root2", tmp_path / "backup")
    store.save(tensors(2))
    store.close()
    shutil.rmtree(tmp_path / "root2")
    (tmp_path / "backup").rename(tmp_path / "root2")
    for first in range(3):
        assert_same(fastio.load(tmp_path / f"root{first}"), tensors(2))
    shutil.move(tmp_path / "root0", tmp_path / "away0")
    shutil.move(tmp_path / "root1", tmp_path / "away1")
    old = fastio.Store.open(tmp_path / "root2")
    assert old.generation == 1
    assert old.status().degraded
    old.close()
    with pytest.raises(fastio.StaleError, match="newest generation is 1; expected 2"):
        fastio.Store.open(tmp_path / "root2", min_generation=2)
    shutil.move(tmp_path / "away0", tmp_path / "root0")
    shutil.move(tmp_path / "away1", tmp_path / "root1")
    store = fastio.Store.open(tmp_path / "root2", min_generation=2)
    assert store.save(tensors(3)) == 3
    assert_same(store.load(), tensors(3))
    assert store.status().in_doubt == ()


def test_a_reader_of_a_store_travels(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    store.save(tensors(2))
    with store.reader(generation=1) as reader:
        again = pickle.loads(pickle.dumps(reader))
    with again:
        assert_same(again.load(), tensors(1))


def test_a_process_that_allows_few_descriptors_reads_many_shards(tmp_path: Path) -> None:
    store = create(tmp_path, 2, shard_bytes=2**12)
    store.save({f"{at}": np.full(2**10, at, np.float32) for at in range(300)})
    code = f"""
import resource, fastio
resource.setrlimit(resource.RLIMIT_NOFILE, (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
tensors = fastio.load({str(tmp_path / "root0")!r})
assert all((tensors[str(at)] == at).all() for at in range(300))
"""
    run_python(code).check()


def test_the_error_for_a_list_of_roots_names_the_call_that_takes_them(tmp_path: Path) -> None:
    create(tmp_path, 2).save(tensors(1))
    roots = [tmp_path / "root0", tmp_path / "root1"]
    calls: list[Callable[[], Any]] = [
        lambda: fastio.verify(roots),
        lambda: fastio.load(roots),
        lambda: fastio.open(roots[:1]),
        lambda: fastio.safe_open(roots[0], "np"),
    ]
    for call in calls:
        with pytest.raises(IsADirectoryError, match="is a root of a store") as raised:
            call()
        assert raised.value.filename == str(roots[0])
        assert "fastio.Store.open takes several" in str(raised.value)
    assert fastio.verify(roots[0]).ok
