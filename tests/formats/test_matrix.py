"""Each format, dtype and framework: files that their own libraries wrote are loaded.

The library's own reading is the second opinion.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import h5py
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch

import fastio
import testbed
from samples import bytes_of

_NUMPY = [
    *("bool", "uint8", "int8", "uint16", "int16", "float16", "uint32", "int32", "float32"),
    *("uint64", "int64", "float64", "complex64", "bfloat16"),
]
_TORCH = [
    *("bool", "uint8", "int8", "uint16", "int16", "float16", "bfloat16", "uint32", "int32"),
    *("float32", "uint64", "int64", "float64", "complex64", "float8_e5m2", "float8_e4m3fn"),
    *("float8_e8m0fnu", "float8_e5m2fnuz", "float8_e4m3fnuz"),
]
# The others have no storages of their own, and torch cannot read what it writes of them.
_TORCH_OLD = [dtype for dtype in _TORCH if not re.match(r"float8|uint(16|32|64)", dtype)]
_GGUF = ["float32", "float16", "bfloat16", "float64", "int8", "int16", "int32", "int64"]
_SHAPE = (37, 64)

Written = Mapping[str, bytes]
"""The bytes of each tensor, as the library reads them back."""


def _values(dtype: str) -> npt.NDArray[Any]:
    numbers = np.random.default_rng(3).integers(0, 2, _SHAPE)
    return numbers.astype(getattr(ml_dtypes, dtype, None) or dtype)


def _npy(path: Path, dtype: str) -> Written:
    with path.open("wb") as file:  # numpy appends .npy to other names
        np.save(file, _values(dtype))
    return {path.name: np.load(path).tobytes()}


def _npz(save: Callable[..., None]) -> Callable[[Path, str], Written]:
    def write(path: Path, dtype: str) -> Written:
        with path.open("wb") as file:
            save(file, one=_values(dtype), two=_values(dtype)[:3])
        with np.load(path) as arrays:
            return {name: array.tobytes() for name, array in arrays.items()}

    return write


def _torch(*, is_zip: bool) -> Callable[[Path, str], Written]:
    def write(path: Path, dtype: str) -> Written:
        tensor = torch.from_numpy(np.ones(_SHAPE, np.float32)).to(getattr(torch, dtype))
        model = {"one": tensor, "two": tensor[:3].clone()}
        torch.save(model, path, _use_new_zipfile_serialization=is_zip)
        read = torch.load(path, weights_only=True)
        return {name: bytes_of(tensor) for name, tensor in read.items()}

    return write


def _gguf(path: Path, dtype: str) -> Written:
    writer = gguf.GGUFWriter(path, "llama")
    values = _values(dtype)
    if dtype == "bfloat16":
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor("one", values.view(np.uint8), raw_dtype=kind)
    else:
        writer.add_tensor("one", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}


def _hdf5(path: Path, dtype: str) -> Written:
    with h5py.File(path, "w") as file:
        file["group/one"] = _values(dtype)
        file.create_dataset("two", data=_values(dtype), chunks=(10, 64), compression="gzip")
    with h5py.File(path) as file:
        return {name: file[name][()].tobytes() for name in ("group/one", "two")}


_WRITERS: dict[str, tuple[Callable[[Path, str], Written], list[str]]] = {
    "npy": (_npy, _NUMPY),
    "npz": (_npz(np.savez), _NUMPY),
    "npz, deflated": (_npz(np.savez_compressed), _NUMPY),
    "torch": (_torch(is_zip=True), _TORCH),
    "torch, old": (_torch(is_zip=False), _TORCH_OLD),
    "gguf": (_gguf, _GGUF),
    "hdf5": (_hdf5, [dtype for dtype in _NUMPY if dtype != "bfloat16"]),
}


@pytest.mark.parametrize(
    ("format", "dtype"), [(name, dtype) for name, (_, all) in _WRITERS.items() for dtype in all]
)
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_a_file_of_its_own_library_is_loaded_bit_for_bit(
    tmp_path: Path, format: str, dtype: str, framework: Any
) -> None:
    path = tmp_path / "model.file"  # found by content, whatever the name
    expected = _WRITERS[format][0](path, dtype)
    loaded = fastio.load(path, framework=framework)
    assert {name: bytes_of(tensor) for name, tensor in loaded.items()} == expected
    for tensor in loaded.values():
        assert str(tensor.dtype).removeprefix("torch.") == dtype


@pytest.mark.parametrize("format", list(_WRITERS))
def test_a_cold_file_is_loaded_streamed_and_read_into_memory(
    tmp_path: Path, format: str, engine: Any, cache: Any
) -> None:
    path = tmp_path / "model.file"
    expected = _WRITERS[format][0](path, "float32")
    options = fastio.Options(engine=engine, cache=cache, mapping="never")
    testbed.evict(path)
    report = fastio.Report()
    loaded = fastio.load(path, options=options, report=report)
    assert {name: array.tobytes() for name, array in loaded.items()} == expected
    assert report.unverified == (str(path),)
    assert bool(report.decoded) is (format in {"npz, deflated", "hdf5"})
    into = {name: np.ones_like(array) for name, array in loaded.items()}
    fastio.load_into(path, into, options=options)
    assert {name: array.tobytes() for name, array in into.items()} == expected
    with fastio.open(path, options=options) as reader:
        assert {name: array.tobytes() for name, array in reader.stream()} == expected
        name = next(iter(expected))
        assert np.array_equal(reader[name][1:3, ::7], loaded[name][1:3, ::7])


@pytest.mark.parametrize("format", list(_WRITERS))
def test_seal_says_that_it_seals_safetensors_alone(tmp_path: Path, format: str) -> None:
    path = tmp_path / "model.file"
    _WRITERS[format][0](path, "float32")
    before = path.read_bytes()
    with pytest.raises(fastio.FormatError, match=r"not safetensors.*fastio\.load reads it"):
        fastio.seal(path)
    assert path.read_bytes() == before
