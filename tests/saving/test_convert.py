"""convert: any source becomes a sealed file, with other names and dtypes, in bounded memory."""

import json
import os
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
import torch

import fastio
from fastio.saving import converted, streamed
from samples import MODEL, flip, write
from testbed import run_python

_VALUES = np.random.default_rng(1).standard_normal((300, 70))
_OF_TORCH = {
    "double": torch.from_numpy(_VALUES),
    "turned": torch.from_numpy(_VALUES).float().t(),
    "half": torch.from_numpy(_VALUES).half(),
    "bf16": torch.from_numpy(_VALUES).bfloat16(),
    "counts": torch.arange(77, dtype=torch.int8),
    "flags": torch.tensor([True, False, True]),
    "empty": torch.zeros(0, 7),
    "step": torch.tensor(3),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.save({**_OF_TORCH, "epoch": 4}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def _is_same(found: Any, expected: torch.Tensor) -> bool:
    return found.dtype == expected.dtype and torch.equal(found, expected)


def test_a_file_of_another_format_becomes_a_sealed_one(tmp_path: Path, source: Path) -> None:
    report = fastio.Report()
    path = tmp_path / "model.safetensors"
    assert fastio.convert(source, path, report=report) == path
    loaded = fastio.load(path, framework="torch", verify="require")
    assert set(loaded) == set(_OF_TORCH)
    assert all(_is_same(loaded[name], tensor) for name, tensor in _OF_TORCH.items())
    with fastio.open(path) as reader:
        assert dict(reader.metadata) == {"epoch": "4", "format": "pt"}
    assert report.nbytes == sum(t.nbytes for t in _OF_TORCH.values())
    assert report.chunks_sealed == 1
    assert [each.encoding for each in report.decoded] == ["strided view"]


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_floats_are_cast_and_all_else_stays(tmp_path: Path, source: Path, dtype: str) -> None:
    path = fastio.convert(source, tmp_path / "cast.safetensors", dtype=dtype)
    wanted = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
    }[dtype]
    loaded = fastio.load(path, framework="torch")
    for name, tensor in _OF_TORCH.items():
        expected = tensor.to(wanted) if tensor.is_floating_point() else tensor
        assert _is_same(loaded[name], expected), name


def test_values_that_are_too_large_become_infinite(tmp_path: Path) -> None:
    fastio.save({"x": np.array([1e30, -1e30, 1.0])}, tmp_path / "x.safetensors")
    path = fastio.convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors", dtype="F16")
    assert fastio.load(path)["x"].tolist() == [np.inf, -np.inf, 1.0]


def test_names_are_chosen_and_changed(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "some.safetensors"
    fastio.convert(source, path, names=["half", "step"], rename={"half": "a/b", "none": "x"})
    assert set(fastio.load(path)) == {"a/b", "step"}
    fastio.convert(source, path, names={"half"}, rename=lambda name: f"model.{name}")
    assert set(fastio.load(path)) == {"model.half"}
    with pytest.raises(fastio.UsageError, match="would have the name 'x'"):
        fastio.convert(source, path, rename=lambda name: "x")
    with pytest.raises(fastio.TensorNotFoundError, match="half"):
        fastio.convert(source, path, names=["halb"])
    with pytest.raises(TypeError, match="must be a str"):
        fastio.convert(source, path, rename=lambda name: 3)  # type: ignore[arg-type,return-value]
    assert set(fastio.load(path)) == {"model.half"}


def test_metadata_that_name_tensors_have_their_new_names(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["g/data"] = _VALUES
        file["g/data"].attrs["unit"] = "m"
        file["g/bytes"] = np.array([b"ab", b"c"])
        file.attrs["version"] = 3
    rename = {"g/data": "data", "g/bytes": "bytes"}
    path = fastio.convert(tmp_path / "m.h5", tmp_path / "m.safetensors", rename=rename)
    with fastio.open(path) as reader:
        assert dict(reader.metadata) == {
            "data@unit": "m",
            "version": "3",
            "@groups": "[]",
            "numpy.dtypes": '{"bytes": "|S2"}',
            "format": "pt",
        }
    with fastio.File(path) as file:
        assert file["data"].attrs["unit"] == "m"


def test_a_folder_of_shards_is_merged_and_a_file_is_split(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.safetensors", MODEL)
    expected = {name: array.tobytes() for name, array in fastio.load(whole).items()}
    folder = fastio.convert(whole, tmp_path / "folder", shard_bytes="3MB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(expected)
    merged = fastio.convert(folder, tmp_path / "merged.safetensors")
    for path in (folder, merged):
        loaded = fastio.load(path, verify="require")
        assert {name: array.tobytes() for name, array in loaded.items()} == expected


def test_large_tensors_are_read_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converted, "_SLICE_BYTES", 2**20)
    monkeypatch.setattr(streamed, "_WRITTEN_BYTES", 2**19 + 1)
    whole = write(tmp_path / "whole.safetensors", MODEL)
    expected = fastio.load(whole)
    path = fastio.convert(whole, tmp_path / "new.safetensors", dtype="F32")
    for name, array in fastio.load(path, verify="require").items():
        cast = array.dtype == np.float32
        wanted = expected[name].astype(np.float32) if cast else expected[name]
        assert np.array_equal(array, wanted, equal_nan=cast), name


def test_a_file_takes_its_own_place(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    fastio.save({"x": _VALUES, "y": _VALUES.astype(ml_dtypes.bfloat16)}, path)
    fastio.convert(path, path, dtype="F32")
    loaded = fastio.load(path)
    assert np.array_equal(loaded["x"], _VALUES.astype(np.float32))
    assert loaded["y"].dtype == np.float32


def test_a_damaged_source_changes_nothing(tmp_path: Path) -> None:
    fastio.save({"x": _VALUES}, tmp_path / "m.safetensors")
    fastio.save({"old": _VALUES}, tmp_path / "new.safetensors")
    flip(tmp_path / "m.safetensors", 5000)
    with pytest.raises(fastio.ChecksumError):
        fastio.convert(tmp_path / "m.safetensors", tmp_path / "new.safetensors")
    assert set(fastio.load(tmp_path / "new.safetensors")) == {"old"}
    assert sorted(os.listdir(tmp_path)) == ["m.safetensors", "new.safetensors"]


def test_bad_arguments_are_refused_before_anything_is_made(tmp_path: Path, source: Path) -> None:
    with pytest.raises(ValueError, match="dtype='F8'"):
        fastio.convert(source, tmp_path / "x.safetensors", dtype="F8")
    with pytest.raises(fastio.UsageError, match="another format"):
        fastio.convert(source, tmp_path / "x.h5")
    with pytest.raises(FileNotFoundError):
        fastio.convert(tmp_path / "none", tmp_path / "x.safetensors")
    assert os.listdir(tmp_path) == ["model.pt"]


def test_memory_is_bounded_whatever_the_size(tmp_path: Path) -> None:
    run_python(
        "import resource, numpy as np, fastio\n"
        "from pathlib import Path\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "rows = np.memmap(folder / 'rows', np.float32, 'w+', shape=(150, 2**20))\n"
        "rows[::50] = 1\n"
        "rows.flush()\n"
        'header = b\'{"x":{"dtype":"F32","shape":[150,1048576],"data_offsets":[0,%d]}}\'\n'
        "header = header % rows.nbytes\n"
        "header += b' ' * (4088 - len(header))\n"
        "del rows\n"
        "with open(folder / 'm.safetensors', 'wb') as file, open(folder / 'rows', 'rb') as data:\n"
        "    file.write(len(header).to_bytes(8, 'little') + header)\n"
        "    while part := data.read(2**24): file.write(part)\n"
        "def anonymous():\n"
        "    lines = Path('/proc/self/smaps_rollup').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('Anonymous'))\n"
        "import threading, time\n"
        "most, going = [0], [True]\n"
        "def watch():\n"
        "    while going[0]:\n"
        "        most[0] = max(most[0], anonymous())\n"
        "        time.sleep(0.01)\n"
        "watcher = threading.Thread(target=watch)\n"
        "before = anonymous()\n"
        "watcher.start()\n"
        "fastio.convert(folder / 'm.safetensors', folder / 'n.safetensors', dtype='BF16')\n"
        "going[0] = False\n"
        "watcher.join()\n"
        "assert most[0] - before < 300 << 10, (most, before)\n"
        "x = fastio.open(folder / 'n.safetensors')['x']\n"
        "assert x[100, 5] == 1 and x[101, 5] == 0\n"
    ).check()


def test_empty_tensors_are_converted(tmp_path: Path) -> None:
    np.savez(tmp_path / "empty.npz", a=np.zeros((0, 3)))
    fastio.save({"a": np.zeros(2**20, np.uint8), "z": np.zeros(0, np.uint8)}, tmp_path / "m.st")
    np.savez(tmp_path / "some.npz", a=np.ones(3), e=np.zeros((0, 5)), f=np.zeros((0, 5)))
    fastio.save({}, tmp_path / "nothing.st")
    for name in ("empty.npz", "m.st", "some.npz", "nothing.st"):
        expected = fastio.load(tmp_path / name)
        folder = fastio.convert(tmp_path / name, tmp_path / f"{name}.folder", shard_bytes=1)
        whole = fastio.convert(tmp_path / name, tmp_path / "new.safetensors")
        for path in (folder, whole):
            found = fastio.load(path, verify="require")
            assert {key: array.shape for key, array in found.items()} == {
                key: array.shape for key, array in expected.items()
            }


@pytest.mark.parametrize("text", ["not json", "[1]", "5", "null"])
def test_metadata_that_only_look_like_those_of_a_format_are_kept(tmp_path: Path, text: str) -> None:
    fastio.save({"a": np.ones(3)}, tmp_path / "m.st", metadata={"gguf.types": text})
    path = fastio.convert(tmp_path / "m.st", tmp_path / "n.st", rename={"a": "b"})
    with fastio.open(path) as reader:
        assert reader.metadata["gguf.types"] == text


def test_bytes_that_are_no_utf_8_are_kept_in_metadata(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["x"] = np.ones(2)
        file.attrs["v"] = np.bytes_(b"\xff\xfe")
    path = fastio.convert(tmp_path / "m.h5", tmp_path / "n.st")
    with fastio.File(path) as file:
        assert file.attrs["v"].encode(errors="surrogateescape") == b"\xff\xfe"
