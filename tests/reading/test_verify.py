"""fastio.verify: every damaged range of every file is a finding, and a sound file has none."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
from fastio import _native
from testbed import run_python

_CHUNK = 2**20  # bytes of a chunk in `fastio.save`


def _tensors(megabytes: int = 5, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "a": random.integers(0, 256, megabytes * 2**20 // 2, np.uint8),
        "b": random.integers(0, 256, megabytes * 2**20 // 2 + 77, np.uint8),
        "empty": np.empty((0, 3), np.float32),
    }


def _saved(path: Path, **options: Any) -> Path:
    fastio.save(_tensors(**options), path)
    return path


def _folder(path: Path) -> None:
    random = np.random.default_rng(1)
    many = {f"t{at}": random.integers(0, 256, 2**21, np.uint8) for at in range(5)}
    fastio.save(many, path, shard_bytes=2**21)


def _start(path: Path) -> int:
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _flip(path: Path, *places: int) -> None:
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            byte = file.read(1)
            file.seek(place)
            file.write(bytes([byte[0] ^ 1]))


@pytest.fixture(params=["uring", "pread"])
def options(request: pytest.FixtureRequest) -> fastio.Options:
    return fastio.Options(engine=request.param)


def test_a_sound_file_is_ok_and_read_once(tmp_path: Path, options: fastio.Options) -> None:
    path = _saved(tmp_path / "x.safetensors")
    found = fastio.verify(path, options=options)
    assert found.ok
    assert (found.files, found.nbytes) == (1, path.stat().st_size)
    assert not found.damaged
    assert not found.unverified
    assert not found.notes
    assert found.source == str(path)
    assert "ok" in str(found)
    assert "ok" in repr(found)
    assert "<pre>" in found._repr_html_()


def test_all_damaged_ranges_are_listed_with_their_tensors(
    tmp_path: Path, options: fastio.Options
) -> None:
    path = _saved(tmp_path / "x.safetensors")
    start = _start(path)
    chunks = [0, 1, 4]
    _flip(path, *(start + chunk * _CHUNK + 9 for chunk in chunks))
    found = fastio.verify(path, options=options)
    assert not found.ok
    (event,) = found.damaged
    assert event.kind == "damage"
    assert event.path == str(path)
    assert event.count == len(chunks)
    assert event.ranges == ((start, start + 2 * _CHUNK), (start + 4 * _CHUNK, start + 5 * _CHUNK))
    assert set(event.tensors) == {"a", "b"}
    assert "checksum" in event.cause
    assert "NOT OK" in str(found)
    assert str(path) in str(found)


@pytest.mark.parametrize("pattern", ["all", "every other one"])
def test_a_file_that_is_damaged_all_over_is_read_to_its_end(
    tmp_path: Path, pattern: str, options: fastio.Options
) -> None:
    path = tmp_path / "x.safetensors"
    store = fastio.Store.create([tmp_path / "root"], replicas=1, chunk_bytes=2**16)
    store.save(_tensors(40))
    shutil.copy(next((tmp_path / "root" / "shards").iterdir()), path)
    start, size = _start(path), path.stat().st_size
    damaged = range(start, size, 2**16 if pattern == "all" else 2**17)
    _flip(path, *damaged)
    (event,) = fastio.verify(path, options=options).damaged
    assert event.count == len(damaged)
    if pattern == "all":
        assert event.ranges == ((start, size),)
    else:
        assert [begin for begin, _ in event.ranges] == list(damaged)


@pytest.mark.parametrize("source", ["folder", "index", "list", "shards without an index"])
def test_one_bad_file_does_not_hide_the_others(tmp_path: Path, source: str) -> None:
    _folder(tmp_path / "model")
    files = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(files) >= 4
    _flip(files[0], 60)  # in the header
    _flip(files[1], _start(files[1]) + 5)
    os.truncate(files[2], files[2].stat().st_size - 1)
    index = tmp_path / "model" / "model.safetensors.index.json"
    given: Any = {
        "folder": tmp_path / "model",
        "index": index,
        "list": files,
        "shards without an index": tmp_path / "model",
    }[source]
    if source == "shards without an index":
        index.unlink()
    found = fastio.verify(given)
    assert [event.path for event in found.damaged] == [str(path) for path in files[:3]]
    assert found.files == len(files)
    assert "at byte 60" in found.damaged[0].cause
    assert found.damaged[1].ranges


def test_a_missing_file_of_an_index_is_damage(tmp_path: Path) -> None:
    _folder(tmp_path / "model")
    first, second, *_ = sorted((tmp_path / "model").glob("*.safetensors"))
    first.unlink()
    fastio.save({"other": np.arange(3)}, second)
    found = fastio.verify(tmp_path / "model")
    assert [event.path for event in found.damaged] == [str(first), str(second)]
    assert "is missing" in found.damaged[0].cause
    assert "lists" in found.damaged[1].cause
    assert found.damaged[1].tensors


def test_files_without_checksums_are_unverified_and_no_damage(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    sealed = _saved(tmp_path / "sealed.safetensors")
    plain, copied = tmp_path / "plain.safetensors", tmp_path / "copied.safetensors"
    save_file({"c": np.arange(100)}, plain)
    data = sealed.read_bytes()
    metadata = json.loads(data[8 : _start(sealed)])["__metadata__"]
    save_file({"d": np.arange(101)}, copied, metadata)
    found = fastio.verify([sealed, plain, copied])
    assert found.ok
    assert set(found.unverified) == {str(plain), str(copied)}
    assert found.nbytes == sealed.stat().st_size
    assert "2 without checksums" in str(found)
    os.truncate(plain, plain.stat().st_size - 1)
    assert not fastio.verify(plain).ok  # its structure is checked


def test_reads_that_fail_are_damage_and_the_rest_is_read(
    tmp_path: Path, options: fastio.Options
) -> None:
    path = _saved(tmp_path / "x.safetensors", megabytes=8)
    own = fastio.Options(engine=options.engine, lanes=1, block_bytes=4 * _CHUNK, queue_depth=1)
    # The header; the first block, and of its four chunks the second one.
    _native.testing.set_completion_faults([(at, "error", errno.EIO) for at in (1, 3)])
    try:
        found = fastio.verify(path, options=own)
    finally:
        _native.testing.set_completion_faults([])
    (event,) = found.damaged
    start = _start(path)
    assert event.ranges == ((start + _CHUNK, start + 2 * _CHUNK),)
    assert "Input/output error" in event.cause


def test_a_header_that_cannot_be_read_is_damage(tmp_path: Path) -> None:
    path = _saved(tmp_path / "x.safetensors")
    other = _saved(tmp_path / "y.safetensors", seed=1)
    _native.testing.set_completion_faults([(0, "error", errno.EIO), (1, "error", errno.EIO)])
    try:
        found = fastio.verify([path])
    finally:
        _native.testing.set_completion_faults([])
    (event,) = found.damaged
    assert "Input/output error" in event.cause
    assert fastio.verify([path, other]).ok


def test_a_header_is_compared_with_the_disk(tmp_path: Path) -> None:
    path = _saved(tmp_path / "x.safetensors")
    for faults, damaged in (([0], 0), ([0, 1], 1)):  # one bad read is no damage
        _native.testing.set_completion_faults([(at, "flip", 100) for at in faults])
        try:
            found = fastio.verify(path)
        finally:
            _native.testing.set_completion_faults([])
        assert len(found.damaged) == damaged
        assert all("header is damaged on the disk" in event.cause for event in found.damaged)


def test_a_root_of_a_store_is_verified_as_a_store(tmp_path: Path) -> None:
    roots = [tmp_path / "one", tmp_path / "two"]
    with fastio.Store.create(roots, replicas=2) as store:
        store.save(_tensors())
    shard = next((roots[1] / "shards").iterdir())
    _flip(shard, _start(shard))
    found = fastio.verify(roots[0])
    assert [event.path for event in found.damaged] == [str(shard)]
    assert set(found.roots) == set(map(str, roots))


def test_missing_and_invalid_sources_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fastio.verify(tmp_path / "nothing.safetensors")
    path = _saved(tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError):
        fastio.verify([path, tmp_path / "nothing.safetensors"])
    with pytest.raises(IsADirectoryError):
        fastio.verify([path, tmp_path])
    (tmp_path / "bare").mkdir()
    with pytest.raises(fastio.FormatError):
        fastio.verify(tmp_path / "bare")
    with pytest.raises(TypeError):
        fastio.verify(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        fastio.verify([])
    with pytest.raises(TypeError):
        fastio.verify(path, options="direct")  # type: ignore[arg-type]
    with pytest.raises(fastio.MemoryLimitError):
        fastio.verify(path, options=fastio.Options(memory_limit_bytes=2**16))


def test_a_relative_path_is_shown_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _saved(tmp_path / "x.safetensors")
    monkeypatch.chdir(tmp_path)
    assert fastio.verify("x.safetensors").source == "x.safetensors"


def test_the_page_cache_is_left_as_it_was(tmp_path: Path) -> None:
    from testbed import evict, resident_bytes

    path = _saved(tmp_path / "x.safetensors", megabytes=16)
    evict(path)
    assert fastio.verify(path).ok
    assert resident_bytes(path) < 2 * 2**20


def test_progress_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _saved(tmp_path / "x.safetensors")
    assert fastio.verify(path, progress=True).ok
    assert "x.safetensors" in capsys.readouterr().err


_CHILD = """
import sys
import fastio
def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
found = fastio.verify(sys.argv[1], options=fastio.Options(lanes=8, queue_depth=64))
assert found.ok, found
print(status("VmHWM") - before, found.nbytes)
"""


def test_memory_is_bounded_whatever_the_options_ask_for(tmp_path: Path) -> None:
    path = _saved(tmp_path / "x.safetensors", megabytes=400)
    peak, nbytes = map(int, run_python(_CHILD, path).check().stdout.split())
    assert nbytes == path.stat().st_size
    assert peak <= 128 * 2**20
