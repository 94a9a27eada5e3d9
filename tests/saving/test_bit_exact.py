"""fastio and others load the saved tensors bit by bit, whatever the source of the save."""

import enum
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import fastio
from fastio.frameworks import framework, framework_of
from samples import bytes_of, data_start

_NUMPY_DTYPES = {
    name: dtype for name, dtype in vars(framework("numpy"))["DTYPES"].items() if name != "F4"
}
_TORCH = framework("torch")
_SMALL = fastio.Options(block_bytes=2**17)  # writes of one chunk, if that has 64 KiB


def _random(dtype: np.dtype[Any], shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[Any]:
    count = math.prod(shape) * dtype.itemsize
    raw = np.random.default_rng(seed).integers(0, 256, count, np.uint8)
    if dtype == np.bool_:
        raw &= 1
    return raw.view(dtype).reshape(shape) if count else np.empty(shape, dtype)


def _as_saved(tensor: Any) -> bytes:
    """The expected bytes of a file: row by row, the low byte first."""
    if isinstance(tensor, torch.Tensor):
        return bytes_of(tensor.contiguous())
    return np.ascontiguousarray(tensor.astype(tensor.dtype.newbyteorder("<"))).tobytes()


def _check(path: Path, tensors: Mapping[str, Any]) -> None:
    """fastio, which verifies it, and the safetensors package find the same in a file."""
    loaded = fastio.load(path, verify="require")
    assert loaded.keys() == tensors.keys()
    theirs = {
        name: bytes(entry["data"]) for name, entry in safetensors.deserialize(path.read_bytes())
    }
    for name, tensor in tensors.items():
        assert bytes_of(loaded[name]) == _as_saved(tensor), name
        assert theirs[name] == _as_saved(tensor), name


@pytest.mark.parametrize("dtype", _NUMPY_DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (77, 5), (2, 3, 4, 5)], ids=str)
def test_every_dtype_of_numpy(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = _random(np.dtype(_NUMPY_DTYPES[dtype]), shape)
    path = fastio.save({"a": array}, tmp_path / "a.safetensors")
    _check(path, {"a": array})
    (entry,) = (e for name, e in safetensors.deserialize(path.read_bytes()) if name == "a")
    assert (entry["dtype"], tuple(entry["shape"])) == (dtype, shape)


@pytest.mark.parametrize("dtype", [name for name in _TORCH.DTYPES if name != "F4"])
def test_every_dtype_of_torch(tmp_path: Path, dtype: str) -> None:
    kind = _TORCH.dtype_of(dtype)
    bits = np.dtype(np.bool_ if dtype == "BOOL" else np.uint8)
    raw = torch.from_numpy(_random(bits, (24 * 8,)))
    tensor = raw.view(kind).reshape(2, -1)
    path = fastio.save({"a": tensor}, tmp_path / "a.safetensors")
    _check(path, {"a": tensor})
    loaded = fastio.load(path, framework="torch")["a"]
    assert (loaded.dtype, loaded.shape) == (kind, tensor.shape)


@pytest.mark.skipif("F4" not in _TORCH.DTYPES, reason="this torch has no packed fp4")
def test_packed_fp4_of_torch_has_single_values_in_the_header(tmp_path: Path) -> None:
    tensor = torch.arange(24, dtype=torch.uint8).view(torch.float4_e2m1fn_x2).reshape(3, 8)
    path = fastio.save({"a": tensor}, tmp_path / "a.safetensors")
    with fastio.open(path) as reader:
        assert (reader.info("a").dtype, reader.info("a").shape) == ("F4", (3, 16))
    theirs = safetensors.torch.load_file(path)["a"]
    assert bytes_of(theirs) == bytes_of(tensor)


def _layouts() -> dict[str, Any]:
    base = np.arange(60 * 70 * 4, dtype=np.float32).reshape(60, 70, 4)
    read_only = base[:5].copy()
    read_only.flags.writeable = False
    return {
        "fortran": np.asfortranarray(base),
        "transposed": base.T,
        "swapped axes": base.transpose(1, 0, 2),
        "steps": base[::3, 5::2],
        "backwards": base[::-1, :, ::-1],
        "broadcast": np.broadcast_to(np.float64(3.25), (50, 60)),
        "broadcast rows": np.broadcast_to(base[0, :, 0], (9, 70)),
        "inner part": base[3:9, 2:5, 1:3],
        "read-only": read_only,
        "big-endian": base.astype(">f4"),
        "big-endian, transposed": base.astype(">f8").T,
        "big-endian int16": np.arange(-500, 500, dtype=">i2"),
        "big-endian complex": (base[0] + 1j).astype(">c8"),
        "not aligned": np.frombuffer(bytes(range(1, 9)) * 3, np.uint8)[1:21].view("<f4"),
        "torch transposed": torch.from_numpy(base).permute(2, 0, 1),
        "torch steps": torch.from_numpy(base)[::2, ::3],
        "torch expanded": torch.arange(7.0).expand(5, 7),
        "torch of autograd": torch.nn.Parameter(torch.ones(3, 4)),
        "bf16 transposed": torch.arange(6000, dtype=torch.bfloat16).reshape(60, 100).T,
        "empty": np.empty((3, 0)),
        "scalar": np.array(2.5),
    }


@pytest.mark.parametrize("name", _layouts())
def test_arrays_are_seen_alike_one_by_one_and_all_at_once(name: str) -> None:
    array = _layouts()[name]
    seen_by = framework_of(array)
    assert seen_by is not None
    one = seen_by.origin_of(array)
    dtypes, shapes, addresses, nbytes = vars(framework("numpy"))["columns_of"]([array])
    plain = isinstance(array, np.ndarray) and one.place is None
    assert dtypes == [one.dtype if plain else ""]
    if plain:
        assert (shapes, addresses, nbytes) == ([one.shape], [one.address], [one.nbytes])


class _Names(str, enum.Enum):
    A = "model.a"
    B = "model.b"


def test_a_name_is_its_text_whatever_its_class_makes_of_it(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {_Names.B: np.ones(3), _Names.A: np.zeros(3, np.int8)}
    path = fastio.save(tensors, tmp_path / "a", metadata={_Names.A: _Names.B})
    with fastio.open(path) as reader:
        assert set(reader.keys()) == {"model.a", "model.b"}
        assert reader.metadata["model.a"] == "model.b"


@pytest.mark.parametrize("options", [_SMALL, fastio.Options()], ids=["small", "default"])
@pytest.mark.parametrize("name", _layouts())
def test_every_layout_in_memory(tmp_path: Path, name: str, options: fastio.Options) -> None:
    tensors = {name: _layouts()[name]}
    _check(fastio.save(tensors, tmp_path / "a", chunk_bytes=2**16, options=options), tensors)


def test_all_layouts_in_one_file(tmp_path: Path, engine: Any, cache: Any) -> None:
    tensors = _layouts()
    options = fastio.Options(engine=engine, cache=cache, block_bytes=2**17)
    report = fastio.Report()
    path = fastio.save(tensors, tmp_path / "a", chunk_bytes=2**16, options=options, report=report)
    _check(path, tensors)
    assert report.engine == engine
    moved = {"bypass": report.bytes_direct, "keep": report.bytes_buffered}
    assert moved[cache] == report.nbytes == report.bytes_direct + report.bytes_buffered


_arrays = st.tuples(
    st.sampled_from(["<f4", ">f4", "<i8", ">u2", "u1", "?", ">c8", "<f8"]),
    st.lists(st.integers(0, 90), max_size=3),
    st.permutations(range(3)),
    st.lists(st.sampled_from([1, 2, 3, -1, -2]), min_size=3, max_size=3),
)


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.lists(_arrays, max_size=6), st.sampled_from([2**17, 2**18, 2**22]))
def test_any_mixture_of_layouts(
    tmp_path_factory: pytest.TempPathFactory, specs: list[Any], block_bytes: int
) -> None:
    tensors = {}
    for at, (dtype, shape, order, steps) in enumerate(specs):
        array = _random(np.dtype(dtype), tuple(shape), at)
        array = array.transpose([axis for axis in order if axis < array.ndim])
        cut = (*(slice(None, None, step) for step in steps[: array.ndim]), ...)
        tensors[f"t{at}"] = array[cut]
    path = tmp_path_factory.mktemp("any") / "a"
    options = fastio.Options(block_bytes=block_bytes)
    _check(fastio.save(tensors, path, chunk_bytes=2**16, options=options), tensors)


def test_no_tensors_at_all(tmp_path: Path) -> None:
    path = fastio.save({}, tmp_path / "a", metadata={"k": "v"})
    assert fastio.load(path, verify="require") == {}
    with fastio.open(path) as reader:
        assert reader.metadata == {"k": "v", "format": "pt"}
    assert safetensors.numpy.load_file(path) == {}


@pytest.mark.parametrize("checksums", [True, False])
def test_the_header_is_written_in_the_order_of_the_format(tmp_path: Path, checksums: bool) -> None:
    tensors: dict[str, Any] = {
        "b": np.ones(3, np.int8),
        "a": np.ones(3, np.int8),
        "wide": np.ones(2),
        "mask": np.ones(5, np.bool_),
        "half": np.ones(2, ml_dtypes.bfloat16),
    }
    path = fastio.save(tensors, tmp_path / "a", checksums=checksums, metadata={"z": "1", "c": "2"})
    start = data_start(path)
    assert start % 4096 == 0
    header = json.loads(path.read_bytes()[8:start])
    metadata = header.pop("__metadata__")
    own = ["fastio.header", "fastio.version", "fastio.checksums"] if checksums else []
    assert list(metadata) == [*own, "c", "format", "z"]
    assert list(header) == ["wide", "half", "a", "b", "mask"]
    assert path.stat().st_size == start + sum(array.nbytes for array in tensors.values())


def test_a_saved_file_equals_the_sealed_one(tmp_path: Path) -> None:
    """The reference for the format is seal, which is plain Python."""
    tensors = _layouts()
    path = fastio.save(tensors, tmp_path / "saved", metadata={"some": "thing"})
    again = fastio.seal(path, tmp_path / "sealed", force=True)
    assert path.read_bytes() == again.read_bytes()


def test_metadata_of_another_file_is_cleaned(tmp_path: Path) -> None:
    array = np.arange(10)
    first = fastio.save({"a": array}, tmp_path / "first", metadata={"mine": "ä"})
    with safetensors.safe_open(first, "np") as file:
        copied = file.metadata()
    assert "fastio.header" in copied
    second = fastio.save({"b": array}, tmp_path / "second", metadata=copied)
    with fastio.open(second) as reader:
        assert reader.metadata == {"mine": "ä", "format": "pt"}
    _check(second, {"b": array})


@pytest.mark.parametrize(
    ("tensors", "given", "expected"),
    [
        ({}, None, "pt"),
        ({"a": np.ones(1)}, None, "pt"),
        ({"a": torch.ones(1)}, None, "pt"),
        ({"a": np.ones(1), "b": torch.ones(1)}, None, "pt"),
        ({"a": np.ones(1)}, {"format": "flax"}, "flax"),
    ],
    ids=["nothing", "numpy", "torch", "both", "given"],
)
def test_a_saved_file_states_its_format(
    tmp_path: Path, tensors: dict[str, Any], given: Any, expected: str
) -> None:
    path = fastio.save(tensors, tmp_path / "a", metadata=given)
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata()["format"] == expected


def test_without_checksums_it_is_an_ordinary_file(tmp_path: Path) -> None:
    report = fastio.Report()
    path = fastio.save({"a": np.arange(9)}, tmp_path / "a", checksums=False, report=report)
    assert report.chunks_sealed == 0
    fastio.load(path, report=report)
    assert report.unverified == (str(path),)


@pytest.mark.parametrize("chunk_bytes", [2**16, 2**20, 2**24])
def test_chunks_have_the_size_asked_for(tmp_path: Path, chunk_bytes: int, engine: Any) -> None:
    array = _random(np.dtype(np.uint8), (2**24 + 2**16 + 77,))
    report = fastio.Report()
    options = fastio.Options(engine=engine)
    path = fastio.save(
        {"a": array}, tmp_path / "a", chunk_bytes=chunk_bytes, options=options, report=report
    )
    assert report.chunks_sealed == -(-array.size // chunk_bytes)
    _check(path, {"a": array})


def test_bytes_that_lie_as_a_file_has_them_are_not_copied(tmp_path: Path, engine: Any) -> None:
    """A tensor that fastio loaded begins on a page, as in the file: it can be written straight from
    there.
    """
    tensors = {"a": _random(np.dtype(np.uint8), (2**22,))}
    path = fastio.save(tensors, tmp_path / "a")
    loaded = fastio.load(path, options=fastio.Options(cache="bypass"))
    report = fastio.Report()
    options = fastio.Options(engine=engine, cache="bypass")
    again = fastio.save(loaded, tmp_path / "b", report=report, options=options)
    assert (report.bytes_gathered, report.bytes_direct) == (0, 2**22)
    assert again.read_bytes() == path.read_bytes()


def test_a_tensor_of_more_than_4_gib(tmp_path: Path) -> None:
    array = np.broadcast_to(np.arange(2**18, dtype=np.uint32), (2**12 + 3, 2**18))
    path = fastio.save({"a": array, "z": np.arange(3, dtype=np.uint8)}, tmp_path / "a")
    try:
        with fastio.open(path) as reader:
            assert reader.info("a").nbytes == array.nbytes > 2**32
            for row in (0, 2**12, 2**12 + 2):
                np.testing.assert_array_equal(reader["a"][row], array[row])
            np.testing.assert_array_equal(reader["z"][...], np.arange(3))
    finally:
        path.unlink()
