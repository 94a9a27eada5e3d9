"""The error for a file of another format names that format, by its bytes and not by its name."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastio
from fastio.catalog import OneFile, Readable, Shard
from fastio.formats import known
from samples import write


def _bytes_of(write_to: Callable[[Any], object]) -> bytes:
    file = io.BytesIO()
    write_to(file)
    return file.getvalue()


def _torch(**how: Any) -> bytes:
    return _bytes_of(lambda file: torch.save({"w": torch.zeros(3)}, file, **how))


def _zip(name: str) -> bytes:
    def write_to(file: Any) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(name, b"x" * 100)

    return _bytes_of(write_to)


def _tar() -> bytes:
    def write_to(file: Any) -> None:
        with tarfile.open(fileobj=file, mode="w") as archive:
            member = tarfile.TarInfo("model.safetensors")
            member.size = 100
            archive.addfile(member, io.BytesIO(bytes(100)))

    return _bytes_of(write_to)


_WEIGHTS = np.zeros(300)
_FILES: dict[str, tuple[bytes, str, str]] = {
    "torch.save": (_torch(), "a PyTorch file (torch.save)", "torch.load"),
    "torch.save, old": (
        _torch(_use_new_zipfile_serialization=False),
        "a PyTorch pickle file (torch.save)",
        "torch.load",
    ),
    "npz": (_bytes_of(lambda f: np.savez(f, w=_WEIGHTS)), "a NumPy .npz file", "numpy.load"),
    "npz, compressed": (
        _bytes_of(lambda f: np.savez_compressed(f, w=_WEIGHTS)),
        "a NumPy .npz file",
        "numpy.load",
    ),
    "npy": (_bytes_of(lambda f: np.save(f, _WEIGHTS)), "a NumPy .npy file", "numpy.load"),
    "zip": (_zip("model.safetensors"), "a zip file", "unpack"),
    "pickle": (pickle.dumps({"w": [1.0] * 99}), "a pickle file", "pickle.load"),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(100), "a GGUF file", "gguf"),
    "GGML": (b"lmgg" + bytes(100), "a GGML file", "llama.cpp"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file", "h5py"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x052.0.0:\xff\xff", "an ONNX file", "onnx.load"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(100), "a TensorFlow Lite file", "tensorflow"),
    "gzip": (gzip.compress(bytes(range(256)) * 10), "a gzip file", "gunzip"),
    "gzip, without a time": (gzip.compress(bytes(10), mtime=0), "a gzip file", "gunzip"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x58" + bytes(range(100)), "a Zstandard file", "unzstd"),
    "xz": (lzma.compress(bytes(1000)), "an xz file", "unxz"),
    "bzip2": (bz2.compress(bytes(1000)), "a bzip2 file", "bunzip2"),
    "tar": (_tar(), "a tar file", "unpack"),
    "HTML": (b"\n<!DOCTYPE html><html><head></head></html>", "an HTML or XML page", "<!DOCTYPE"),
    "XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML", "Error"),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "a Git LFS pointer",
        "git lfs pull",
    ),
    "JSON": (json.dumps({"model_type": "llama"}).encode(), "a JSON file", "model_type"),
    "JSON, an error": (b'{"error":"Repository not found"}', "a JSON file", "Repository not found"),
    "text": (b"Access to model org/model is restricted.\nLog in.", "a text file", "restricted"),
    "short text": (b"Error", "a text file", "Error"),
}


# A row that gets `locate` has tests of its own, and none here.
_LOADED = {format.name for format in known.FORMATS if format.locate is not None}


@pytest.mark.parametrize("case", [case for case in _FILES if _FILES[case][1] not in _LOADED])
@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_the_error_for_another_format_names_that_format(
    tmp_path: Path, case: str, ending: str
) -> None:
    data, name, way_on = _FILES[case]
    path = tmp_path / f"model{ending}"
    path.write_bytes(data)
    for read in (fastio.load, fastio.open, lambda p: fastio.safe_open(p, "np"), fastio.seal):
        with pytest.raises(fastio.FormatError) as raised:
            read(path)
        message = str(raised.value)
        assert message.startswith(f"{path}: is ")
        assert name in message[: len(f"{path}: is ") + len(name) + 20]
        assert ", not safetensors" in message
        assert way_on in message
    assert path.read_bytes() == data


@pytest.mark.parametrize("padding", [0, 600_000])
def test_gzip_is_known_also_where_its_first_bytes_may_be_a_length(
    tmp_path: Path, padding: int
) -> None:
    # 1f 8b 08 00 and a time of 0: a header of 559,903 bytes, which a larger file might have.
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"x" * padding)
    with pytest.raises(fastio.FormatError, match="is a gzip file"):
        fastio.load(path)


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(fastio.FormatError, match=r": is empty \(0 bytes long\)"):
        fastio.load(path)


@pytest.mark.parametrize("nbytes", [4, 8, 1000])
def test_a_file_of_zeros_may_be_a_download_that_was_cut_off(tmp_path: Path, nbytes: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(nbytes))
    with pytest.raises(fastio.FormatError, match="begins with zeros, as a download"):
        fastio.load(path)


@pytest.mark.parametrize("length", [100_000_001, 2**40 + 1, 2**63])
def test_an_unknown_format_is_given_no_name(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"\xfe" * 100)
    with pytest.raises(fastio.FormatError, match=f": gives its header {length} bytes"):
        fastio.load(path)


def test_a_safetensors_file_has_no_other_format(tmp_path: Path) -> None:
    for number in range(1, 40):
        path = write(tmp_path / "model.safetensors", {"w" * number: ("F32", (number,))}, seed=3)
        assert known.format_of(path.read_bytes()[: 2**12]) is known.FORMATS[0]


def test_each_ending_is_of_one_format() -> None:
    others = [format for format in known.FORMATS if format.locate is None]
    endings = [ending for format in others for ending in format.endings]
    assert len(endings) == len(set(endings))
    found = known.known_endings([f"model{ending.upper()}" for ending in endings])
    assert sum(map(len, found.values())) == len(endings)
    assert known.known_endings(["config.json", "README.md", "model.safetensors"]) == {}


def _locate_toy(file: Readable, first: bytes) -> Shard:
    """A second format: a magic, the number of values, and float32 values behind them."""
    count = int.from_bytes(first[4:8], "little")
    if file.nbytes != 8 + 4 * count:
        raise fastio.FormatError(file.path, f"has {file.nbytes} bytes", offset=0, expected="all")
    return Shard(
        files=OneFile(file),
        names=["values"],
        dtypes=["F32"],
        shapes=[(count,)],
        begins=np.array([8]),
        ends=np.array([file.nbytes]),
        metadata={"made by": "toy"},
    )


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of a format that one row of the table makes known."""
    row = known.Format(
        "a toy file", "", (".toy",), lambda first: first.startswith(b"TOY!"), locate=_locate_toy
    )
    monkeypatch.setattr(known, "FORMATS", (row, *known.FORMATS))
    path = tmp_path / "values.toy"
    path.write_bytes(b"TOY!" + (5000).to_bytes(4, "little") + _VALUES.tobytes())
    return path


_VALUES = np.arange(5000, dtype=np.float32)


def test_a_format_that_has_a_row_is_loaded_in_every_way(toy: Path) -> None:
    assert fastio.load(toy)["values"].tobytes() == _VALUES.tobytes()
    assert fastio.start_load(toy).wait()["values"].tobytes() == _VALUES.tobytes()
    assert torch.equal(
        fastio.load(toy, framework="torch")["values"], torch.from_numpy(_VALUES.copy())
    )
    filled = {"values": np.zeros(5000, np.float32)}
    fastio.load_into(toy, filled)
    assert filled["values"].tobytes() == _VALUES.tobytes()
    with fastio.open(toy) as reader:
        assert reader["values"][17:19].tolist() == [17, 18]
        assert dict(reader.metadata) == {"made by": "toy"}
        ((name, tensor),) = reader.stream()
        assert (name, tensor.tobytes()) == ("values", _VALUES.tobytes())
    found = fastio.verify(toy)
    assert (found.ok, found.unverified) == (True, (str(toy),))
    with pytest.raises(fastio.FormatError, match="carries no checksums"):
        fastio.load(toy, verify="require")


def test_formats_are_mixed_in_one_source(toy: Path) -> None:
    other = write(toy.with_name("other.safetensors"), {"t": ("F32", (3,))})
    assert list(fastio.load([other, toy])) == ["t", "values"]


def test_a_refusal_by_a_format_names_the_file(toy: Path) -> None:
    with toy.open("ab") as file:
        file.write(b"x")
    with pytest.raises(fastio.FormatError) as caught:
        fastio.load(toy)
    assert caught.value.path == str(toy)
