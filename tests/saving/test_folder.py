"""A folder of shards: the common layout, and one checkpoint in the place of another."""

import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import testbed
from fastio.host.replacement import Replacement
from samples import elsewhere, eventually

_INDEX = "model.safetensors.index.json"


def _tensors(mark: int = 0, count: int = 10) -> dict[str, Any]:
    return {f"layer.{i}": np.full(1000 + i, mark, np.float32) for i in range(count)}


def _same(folder: Path, tensors: dict[str, Any]) -> bool:
    loaded = fastio.load(folder, verify="require")
    return loaded.keys() == tensors.keys() and all(
        np.array_equal(loaded[name], tensor) for name, tensor in tensors.items()
    )


def _shards(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))


def test_the_layout_is_that_of_hugging_face(tmp_path: Path, engine: Any) -> None:
    tensors = _tensors()
    report = fastio.Report()
    options = fastio.Options(engine=engine)
    folder = fastio.save(
        tensors, tmp_path / "model", shard_bytes=13_000, options=options, report=report
    )
    shards = _shards(folder)
    assert shards == [f"model-{i:05d}-of-00004.safetensors" for i in range(1, 5)]
    assert sorted(os.listdir(folder)) == [*shards, _INDEX]
    index = json.loads((folder / _INDEX).read_text())
    assert index["metadata"] == {"total_size": sum(t.nbytes for t in tensors.values())}
    assert index["weight_map"].keys() == tensors.keys()
    for shard in shards:
        with fastio.open(folder / shard) as reader:
            assert {name for name, file in index["weight_map"].items() if file == shard} == set(
                reader.keys()
            )
            assert reader.metadata == {"format": "pt"}
    assert (report.files, report.tensors) == (4, 10)
    assert report.nbytes == report.bytes_direct + report.bytes_buffered
    assert _same(folder, tensors)


def test_tensors_stay_in_the_order_in_which_they_were_given(tmp_path: Path) -> None:
    folder = fastio.save(_tensors(), tmp_path / "model", shard_bytes=13_000)
    index = json.loads((folder / _INDEX).read_text())["weight_map"]
    files = [index[f"layer.{i}"] for i in range(10)]
    assert files == sorted(files)


def test_a_tensor_that_is_too_large_has_a_shard_of_its_own(tmp_path: Path) -> None:
    tensors = {"a": np.ones(10), "large": np.ones(1000), "b": np.ones(10), "c": np.ones(10)}
    report = fastio.Report()
    folder = fastio.save(tensors, tmp_path / "model", shard_bytes=500, report=report)
    shards = [list(fastio.load(folder / shard)) for shard in _shards(folder)]
    assert shards == [["a"], ["large"], ["b", "c"]]
    (said,) = report.fallbacks
    assert "large" in said
    assert "8000" in said


def test_no_tensors_at_all_are_one_shard(tmp_path: Path) -> None:
    folder = fastio.save({}, tmp_path / "model", shard_bytes=500)
    assert _shards(folder) == ["model-00001-of-00001.safetensors"]
    assert fastio.load(folder) == {}


def test_a_concurrent_load_gets_the_old_checkpoint_or_the_new_one(tmp_path: Path) -> None:
    folder = fastio.save(_tensors(0), tmp_path / "model", shard_bytes=13_000)
    ended = threading.Event()

    def load() -> int:
        count = 0
        while not ended.is_set():
            marks = {float(mark) for t in fastio.load(folder).values() for mark in np.unique(t)}
            assert len(marks) == 1
            count += 1
        return count

    with elsewhere(load) as one, elsewhere(load) as other:
        try:
            for mark in range(1, 40):
                fastio.save(_tensors(mark), folder, shard_bytes=13_000, durable=False)
        finally:
            ended.set()
    assert (one.error, other.error) == (None, None)
    assert one.result > 0


def test_many_shards_need_few_descriptors(tmp_path: Path) -> None:
    code = """
import resource, sys, numpy, fastio
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
tensors = {f"{i:03}": numpy.full(10, i) for i in range(int(sys.argv[2]))}
fastio.save(tensors, sys.argv[1], shard_bytes=1)
"""
    testbed.run_python(code, tmp_path / "model", "100").check()
    assert len(fastio.load(tmp_path / "model")) == 100
    done = testbed.run_python(code, tmp_path / "model", "300")
    assert done.exception == "fastio.errors.WriteError"
    assert "RLIMIT_NOFILE is 256" in (done.message or "")
    assert len(fastio.load(tmp_path / "model")) == 100


@pytest.mark.parametrize("shard_bytes", [5_000, 13_000, 10**9])
def test_one_checkpoint_takes_the_place_of_another(tmp_path: Path, shard_bytes: int) -> None:
    folder = fastio.save(_tensors(1), tmp_path / "model", shard_bytes=13_000)
    (folder / "config.json").write_text("{}")
    (folder / "other-00001-of-00001.safetensors").write_bytes(b"not ours")
    new = _tensors(2, count=7)
    fastio.save(new, folder, shard_bytes=shard_bytes)
    assert _same(folder, new)
    named = set(json.loads((folder / _INDEX).read_text())["weight_map"].values())
    assert set(os.listdir(folder)) == {
        *named,
        _INDEX,
        "config.json",
        "other-00001-of-00001.safetensors",
    }
    # transformers finds shards to remove by this pattern.
    assert all(re.fullmatch(r"(.*?)-\d{5}-of-\d{5}.safetensors", name) for name in named)


def test_a_checkpoint_of_one_file_does_not_shadow_the_new_one(tmp_path: Path) -> None:
    """transformers prefers model.safetensors to an index."""
    folder = tmp_path / "model"
    folder.mkdir()
    fastio.save(_tensors(1), folder / "model.safetensors")
    fastio.save(_tensors(2), folder, shard_bytes=13_000)
    assert not (folder / "model.safetensors").exists()
    assert _same(folder, _tensors(2))


_STEPS = ("link", "rename", "exchange")


@pytest.mark.parametrize("step", _STEPS)
@pytest.mark.parametrize("call", [1, 3])
@pytest.mark.parametrize("error", [fastio.WriteError(5, "rename", "x"), KeyboardInterrupt()])
@pytest.mark.parametrize("late", [False, True], ids=["before", "behind"])
def test_a_save_that_ends_midway_leaves_the_old_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    call: int,
    error: BaseException,
    late: bool,
) -> None:
    """Also an interrupt that comes when the new index is in its place already."""
    folder = fastio.save(_tensors(1), tmp_path / "model", shard_bytes=13_000)
    before = sorted(os.listdir(folder))
    real: Callable[..., Any] = getattr(Replacement, step)
    calls = iter(range(1, 100))

    def failing(self: Any) -> Any:
        number = next(calls)
        if number == call and not late:
            raise error
        answer = real(self)
        if number == call:
            raise error
        return answer

    monkeypatch.setattr(Replacement, step, failing)
    happens = call == 1 or step != "exchange"
    if happens:
        with pytest.raises(type(error)):
            fastio.save(_tensors(2), folder, shard_bytes=13_000)
    else:
        fastio.save(_tensors(2), folder, shard_bytes=13_000)
    monkeypatch.undo()
    new = not happens or (step == "exchange" and late)
    assert _same(folder, _tensors(2 if new else 1))
    if not new:  # an interrupt does not wait for the disk
        assert eventually(lambda: sorted(os.listdir(folder)) == before)
    fastio.save(_tensors(3), folder, shard_bytes=13_000)
    assert _same(folder, _tensors(3))


def test_leftovers_of_a_crash_are_removed_by_the_next_save(tmp_path: Path) -> None:
    """An index under a temporary name lists the shards that its save had begun."""
    folder = fastio.save(_tensors(1), tmp_path / "model", shard_bytes=13_000)
    (shard, *_) = _shards(folder)
    stray = folder / "model-01234567-00001-of-00002.safetensors"
    kept = folder / "model-89abcdef-00001-of-00002.safetensors"
    for path in (stray, kept):
        path.write_bytes(b"whatever")
    temporary = folder / f".{_INDEX}.0123456789abcdef.fastio-tmp"
    temporary.write_text(
        json.dumps({"weight_map": {"a": stray.name, "b": shard, "c": "../x.safetensors"}})
    )
    half = folder / ".model.safetensors.0123456789abcdef.fastio-tmp"
    half.write_bytes(b"half")
    outside = tmp_path / "x.safetensors"
    outside.write_bytes(b"not ours")
    fastio.save(_tensors(2), folder, shard_bytes=13_000)
    assert _same(folder, _tensors(2))
    assert [path.exists() for path in (stray, temporary, half)] == [False] * 3
    assert kept.exists()
    assert outside.exists()


def test_a_filesystem_that_exchanges_no_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fastio.save(_tensors(1), tmp_path / "model", shard_bytes=13_000)
    monkeypatch.setattr(Replacement, "exchange", lambda self: False)
    fastio.save(_tensors(2), folder, shard_bytes=5_000)
    assert _same(folder, _tensors(2))
    assert len(os.listdir(folder)) == 11


def test_the_mode_of_the_index_stays(tmp_path: Path) -> None:
    folder = fastio.save(_tensors(1), tmp_path / "model", shard_bytes=13_000)
    (folder / _INDEX).chmod(0o640)
    fastio.save(_tensors(2), folder, shard_bytes=13_000)
    assert (folder / _INDEX).stat().st_mode & 0o777 == 0o640
