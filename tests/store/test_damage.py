"""With any fault of one root, the bytes are the same; with no sound replica, the error says why."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

import fastio
from fastio.store import manifest
from fastio.store.documents import Record
from store.damages import FAULTS, UNSEEN, damage_data, each_shard, flip
from store.samples import CHUNK_BYTES, assert_same, create, shards_of, tensors

_ENGINES = ("uring", "pread")


def _open(folder: Path) -> fastio.Store:
    return fastio.Store.open([folder / "root0", folder / "root1"])


@pytest.fixture(params=_ENGINES)
def options(request: pytest.FixtureRequest) -> fastio.Options:
    return fastio.Options(engine=request.param, cache="bypass")


@pytest.mark.parametrize("root", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
def test_with_two_replicas_each_single_fault_gives_identical_bytes(
    folder: Path, fault: str, root: int, options: fastio.Options
) -> None:
    FAULTS[fault](folder / f"root{root}")
    report = fastio.Report()
    with _open(folder) as store:
        assert store.generation == 2
        assert_same(store.load(options=options, report=report), tensors(2))
        assert dict(store.reader().metadata) == {"step": "2"}
        assert_same(dict(store.stream(options=options)), tensors(2))
        with store.reader(options=options) as reader:
            assert_same({name: reader.tensor(name) for name in reader}, tensors(2))
            part = tensors(2)["embedding"][511:514]
            assert reader["embedding"][511:514].tobytes() == part.tobytes()
    if fault not in UNSEEN:
        assert report.fallbacks, "nothing was said of it"
        assert any(f"root{root}" in line for line in report.fallbacks)


@pytest.mark.parametrize("fault", [name for name in FAULTS if name.startswith(("shards", "data"))])
def test_with_no_replica_left_every_root_is_named_with_its_reason(
    folder: Path, fault: str, options: fastio.Options
) -> None:
    for root in (0, 1):
        FAULTS[fault](folder / f"root{root}")
        if (folder / "moved").exists():
            (folder / "moved").rename(folder / f"moved{root}")
            (folder / f"root{root}" / "shards").unlink()
            (folder / f"root{root}" / "shards").symlink_to(folder / f"moved{root}")
    with _open(folder) as store, pytest.raises(fastio.ReplicaError) as caught:
        store.load(options=options)
    reasons = caught.value.reasons
    assert any("root0" in path for path in reasons)
    assert any("root1" in path for path in reasons)
    assert all(reasons.values())
    assert caught.value.tensors
    with _open(folder) as store, pytest.raises(fastio.ReplicaError):
        list(store.stream(options=options))


def test_damage_in_different_chunks_of_all_replicas_is_survived(
    folder: Path, options: fastio.Options
) -> None:
    for root in (0, 1):
        for at, shard in enumerate(shards_of(folder / f"root{root}")):
            size = shard.stat().st_size
            start = 8 + int.from_bytes(shard.read_bytes()[:8], "little")
            chunks = -(-(size - start) // CHUNK_BYTES)
            for chunk in range(chunks):
                if (chunk + at) % 2 == root:
                    flip(shard, start + chunk * CHUNK_BYTES)
    with _open(folder) as store:
        assert_same(store.load(options=options), tensors(2))
        assert_same(dict(store.stream(options=options)), tensors(2))


def test_on_damage_raise_stops_at_the_first(folder: Path, options: fastio.Options) -> None:
    for root in (0, 1):
        each_shard(folder / f"root{root}", damage_data)
    with _open(folder) as store, pytest.raises(fastio.ChecksumError):
        store.load(on_damage="raise", options=options)


def test_on_damage_repair_writes_bad_replicas_anew(folder: Path, options: fastio.Options) -> None:
    with _open(folder) as store:
        names = {shard.file for shard in store._opened.pinned.encoded.manifest.shards}
    shards = [shard for shard in shards_of(folder / "root1") if shard.name in names]
    sound = {shard: shard.read_bytes() for shard in shards}
    shards[0].unlink()
    for shard in shards[1:]:
        damage_data(shard)
    report = fastio.Report()
    with _open(folder) as store:
        assert_same(store.load(on_damage="repair", options=options, report=report), tensors(2))
    repaired = [shard for shard in shards if shard.exists() and shard.read_bytes() == sound[shard]]
    # A load checks only the replicas that it reads.
    assert len(repaired) >= len(shards) // 3
    assert shards[0] in repaired
    for shard in repaired:
        assert any(str(shard) in line and "written anew" in line for line in report.fallbacks)
        assert shard.stat().st_mode & 0o777 == 0o600
    assert not list((folder / "root1").rglob(".*"))


def test_listeners_receive_each_event(folder: Path, options: fastio.Options) -> None:
    told: list[fastio.Event] = []
    before = fastio.on_event(told.append)
    try:
        each_shard(folder / "root0", damage_data)
        with _open(folder) as store:
            store.load(options=options)
    finally:
        fastio.on_event(before)
    assert told
    event = next(event for event in told if event.offset is not None)
    assert event.kind == "fallback"
    assert "root0" in event.path
    assert "checksum" in event.cause
    assert event.remedy
    with pytest.raises(TypeError):
        fastio.on_event(3)  # type: ignore[arg-type]


def test_a_callback_that_fails_stops_nothing(folder: Path) -> None:
    def fail(event: fastio.Event) -> None:
        raise RuntimeError(str(event))

    before = fastio.on_event(fail)
    try:
        each_shard(folder / "root0", damage_data)
        with _open(folder) as store:
            assert_same(store.load(), tensors(2))
    finally:
        fastio.on_event(before)


def test_every_byte_of_a_manifest_that_is_changed_is_noticed(folder: Path) -> None:
    shutil.rmtree(folder / "root1")
    (manifest,) = [
        path
        for path in (folder / "root0" / "manifests").iterdir()
        if b'"step":"2"' in path.read_bytes()
    ]
    data = manifest.read_bytes()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 8)
        manifest.write_bytes(flipped)
        with pytest.raises(fastio.ReplicaError, match="manifest of generation 2"):
            fastio.Store.open(folder / "root0")
    manifest.write_bytes(data)
    fastio.Store.open(folder / "root0").close()


def test_every_byte_of_a_record_that_is_changed_is_noticed(folder: Path) -> None:
    shutil.rmtree(folder / "root1")
    (folder / "root0" / "commits" / f"{1:016x}").unlink()
    (folder / "root0" / "commits" / f"{0:016x}").unlink()
    record = folder / "root0" / "commits" / f"{2:016x}"
    data = record.read_bytes()
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            record.write_bytes(flipped)
            with pytest.raises(fastio.ReplicaError, match="no root has a sound commit record"):
                fastio.Store.open(folder / "root0")


def test_flips_all_over_the_payload_are_survived(folder: Path) -> None:
    """Sampled: each in one replica, many at a time, and in no chunk of both replicas."""
    random = np.random.default_rng(5)
    shards = shards_of(folder / "root0")
    flips = 0
    for _ in range(25):
        with _open(folder) as store:
            both = (*shards, *shards_of(folder / "root1"))
            kept = {path: path.read_bytes() for path in both}
            for shard in shards:
                data = kept[shard]
                start = 8 + int.from_bytes(data[:8], "little")
                chunks = -(-(len(data) - start) // CHUNK_BYTES)
                for chunk in range(chunks):
                    root = int(random.integers(2))
                    path = folder / f"root{root}" / "shards" / shard.name
                    begin = start + chunk * CHUNK_BYTES
                    end = min(begin + CHUNK_BYTES, len(data))
                    for _ in range(4):
                        flip(path, int(random.integers(begin, end)), int(random.integers(8)))
                        flips += 1
            assert_same(store.load(options=fastio.Options(cache="bypass")), tensors(2))
            for path, data in kept.items():
                path.write_bytes(data)
    assert flips >= 5000


def test_a_manifest_of_a_future_version_says_so(tmp_path: Path) -> None:
    store = create(tmp_path, 1)
    store.save(tensors())
    store.close()
    root = tmp_path / "root0"
    changes = (
        (b'"version":1', b'"version":2'),
        (b'"required_features":[]', b'"required_features":["erasure"]'),
    )
    for old, new in changes:
        record = max((root / "commits").iterdir())
        known = Record.decode(record.read_bytes(), str(record))
        data = (root / "manifests" / f"{known.manifest}.json").read_bytes()
        assert old in data
        changed = data.replace(old, new)
        digest = hashlib.sha256(changed).hexdigest()
        (root / "manifests" / f"{digest}.json").write_bytes(changed)
        newer = replace(known, generation=known.generation + 1, manifest=digest)
        (root / "commits" / f"{newer.generation:016x}").write_bytes(newer.encode())
        with pytest.raises(fastio.ReplicaError, match="newer fastio"):
            fastio.Store.open(root)
        (root / "commits" / f"{newer.generation:016x}").unlink()


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x.safetensors", "a/b.safetensors", ".safetensors", "x", "a\0.safetensors"],
)
def test_names_that_lead_out_of_a_root_are_refused(name: str, tmp_path: Path) -> None:
    store = create(tmp_path, 1)
    store.save(tensors())
    encoded = store._opened.pinned.encoded
    shard = msgspec.structs.replace(encoded.manifest.shards[0], file=name)
    hostile = manifest.encode(msgspec.structs.replace(encoded.manifest, shards=(shard,)))
    with pytest.raises(fastio.FormatError, match="names the shard"):
        manifest.decode(hostile.data, hashlib.sha256(hostile.data).hexdigest(), "path")


def test_a_copy_of_a_root_does_not_count_as_a_replica(tmp_path: Path) -> None:
    store = create(tmp_path, 2)
    store.save(tensors())
    shutil.rmtree(tmp_path / "root1")
    shutil.copytree(tmp_path / "root0", tmp_path / "root1")
    status = fastio.Store.open([tmp_path / "root0", tmp_path / "root1"]).status()
    assert status.degraded
    assert any("copy of the root" in state for state in status.roots.values())


@pytest.mark.parametrize("damage", ["removed", "flipped", "a folder"])
def test_an_older_generation_is_read_if_the_manifest_of_the_newest_is_lost(
    folder: Path, damage: str
) -> None:
    with _open(folder) as store:
        digest = store._opened.pinned.encoded.digest
    for root in ("root0", "root1"):
        path = folder / root / "manifests" / f"{digest}.json"
        data = bytearray(path.read_bytes())
        path.unlink()
        if damage == "flipped":
            data[100] ^= 1
            path.write_bytes(data)
        elif damage == "a folder":
            path.mkdir()
    roots = [folder / "root0", folder / "root1"]
    for paths in (roots, roots[0]):
        with fastio.Store.open(paths, generation=1) as store:
            assert store.generation == 1
            assert_same(store.load(), tensors(1))
            # The newest one is never passed over in silence.
            with pytest.raises(fastio.ReplicaError, match="generation 2"):
                store.save(tensors(3))
            store.gc(keep=1)
            assert_same(store.load(), tensors(1))
    for generation in (None, 2):
        with pytest.raises(fastio.ReplicaError, match="manifest of generation 2"):
            fastio.Store.open(roots, generation=generation)
    with pytest.raises(fastio.StaleError):
        fastio.Store.open(roots, generation=1, min_generation=3)
    with pytest.raises(fastio.ConflictError, match="has no generation 0"):
        fastio.Store.open(roots, generation=0)
