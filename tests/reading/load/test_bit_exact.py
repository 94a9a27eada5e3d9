"""`fastio.load` and the safetensors package return the same bytes, dtypes, shapes and names."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

import fastio
from fastio.catalog.dtypes import DTYPES
from fastio.frameworks import FrameworkName
from samples import (
    MODEL,
    Spec,
    bytes_of,
    expected_bytes,
    loaded_bytes,
    same_bytes,
    write,
    write_even,
    write_model,
)

_FRAMEWORKS: list[FrameworkName] = ["numpy", "torch"]
_F6 = ["F6_E2M3", "F6_E3M2"]
_NUMPY = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "U16": np.uint16,
    "I16": np.int16,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "U32": np.uint32,
    "I32": np.int32,
    "F32": np.float32,
    "U64": np.uint64,
    "I64": np.int64,
    "F64": np.float64,
    "C64": np.complex64,
}
_TORCH = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
_DTYPE_OF = {"numpy": _NUMPY, "torch": _TORCH}
_SHAPES: dict[str, tuple[int, ...]] = {
    "matrix": (33, 130),
    "vector": (17,),
    "scalar": (),
    "empty": (0,),
    "empty in the middle": (3, 0, 5),
    "five dimensions": (2, 1, 3, 1, 2),
}


def test_the_dtypes_tested_here_are_all_that_the_format_has() -> None:
    assert _NUMPY.keys() == _TORCH.keys() == DTYPES.keys() - {"F4", *_F6}


@pytest.mark.parametrize("framework", _FRAMEWORKS)
@pytest.mark.parametrize("dtype", _NUMPY)
def test_each_dtype_is_that_of_safetensors(dtype: str, framework: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "model", {name: (dtype, shape) for name, shape in _SHAPES.items()})
    tensors = fastio.load(path, framework=framework)
    assert same_bytes(tensors, expected_bytes(path))
    for name, shape in _SHAPES.items():
        assert tensors[name].dtype == _DTYPE_OF[framework][dtype]
        assert tuple(tensors[name].shape) == shape


@pytest.mark.parametrize("dtype", [d for d in _TORCH if d != "F8_E8M0"])
def test_torch_tensors_equal_those_of_load_file(dtype: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model", {name: (dtype, shape) for name, shape in _SHAPES.items()})
    expected, found = safetensors.torch.load_file(path), fastio.load(path, framework="torch")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].is_contiguous()
        assert bytes_of(found[name]) == bytes_of(tensor)


@pytest.mark.parametrize("dtype", [d for d in _NUMPY if not d.startswith(("F8", "BF"))])
def test_numpy_arrays_equal_those_of_load_file(dtype: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model", {name: (dtype, shape) for name, shape in _SHAPES.items()})
    expected, found = safetensors.numpy.load_file(path), fastio.load(path)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].flags.c_contiguous
        assert found[name].tobytes() == array.tobytes()


def test_packed_fp4_in_torch_is_that_of_safetensors(tmp_path: Path) -> None:
    path = write(tmp_path / "model", {"packed": ("F4", (6, 32)), "empty": ("F4", (0, 8))})
    expected, found = safetensors.torch.load_file(path), fastio.load(path, framework="torch")
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert bytes_of(found[name]) == bytes_of(tensor)


def test_packed_fp4_is_for_numpy_uint8_of_half_the_last_axis(tmp_path: Path) -> None:
    path = write(tmp_path / "model", {"packed": ("F4", (6, 32)), "empty": ("F4", (0, 8))})
    found: dict[str, Any] = fastio.load(path)
    assert same_bytes(found, expected_bytes(path))
    assert (found["packed"].dtype, found["packed"].shape) == (np.dtype("u1"), (6, 16))
    assert (found["empty"].dtype, found["empty"].shape) == (np.dtype("u1"), (0, 4))


@pytest.mark.parametrize("framework", _FRAMEWORKS)
def test_packed_fp4_whose_rows_are_no_whole_bytes_is_refused_by_name(
    framework: Any, tmp_path: Path
) -> None:
    path = write(tmp_path / "model", {"odd rows": ("F4", (2, 3))})
    with pytest.raises((TypeError, fastio.FormatError), match=r"odd rows.*F4|F4.*odd rows"):
        fastio.load(path, framework=framework)


@pytest.mark.parametrize("framework", _FRAMEWORKS)
@pytest.mark.parametrize("dtype", _F6)
def test_a_dtype_that_no_framework_holds_is_refused_by_name(
    dtype: str, framework: Any, tmp_path: Path
) -> None:
    spec: Spec = {"plain": ("U8", (4,)), "packed.weight": (dtype, (4, 4))}
    path = write(tmp_path / "model", spec)
    with pytest.raises(TypeError, match=rf"packed\.weight.*{dtype}.*{framework}"):
        fastio.load(path, framework=framework)
    # It does not block the others.
    assert same_bytes(
        fastio.load(path, framework=framework, names=["plain"]),
        {"plain": expected_bytes(path)["plain"]},
    )


@pytest.mark.parametrize("framework", _FRAMEWORKS)
@pytest.mark.parametrize("modulo", range(1, 8))
def test_a_file_that_breaks_the_alignment_of_its_dtypes_loads_aligned(
    modulo: int, framework: Any, tmp_path: Path
) -> None:
    dtypes = ("F64", "BF16", "C64", "I32", "U8", "I64", "F16")
    spec: Spec = {f"{dtype} {i}": (dtype, (5 + i,)) for i, dtype in enumerate(dtypes)}
    path = write(tmp_path / "model", spec, start_modulo_8=modulo)
    tensors = fastio.load(path, framework=framework)
    assert same_bytes(tensors, expected_bytes(path))
    for tensor in tensors.values():
        if isinstance(tensor, np.ndarray):
            assert tensor.flags.aligned
        else:
            assert tensor.data_ptr() % tensor.element_size() == 0


@pytest.mark.parametrize("mapping", ["auto", "never"])
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "unsealed"])
def test_a_broken_alignment_is_no_matter_of_how_it_is_read(
    sealed: bool, mapping: Any, tmp_path: Path
) -> None:
    # 5 MB: more than fastio loads on the caller's thread. An odd size misaligns the tensors behind
    # it.
    spec: Spec = {
        "a": ("U8", (3,)),
        "b": ("F64", (300_001,)),
        "c": ("U8", (1,)),
        "d": ("F32", (700_001,)),
    }
    path = write(tmp_path / "model", spec, start_modulo_8=3)
    expected = expected_bytes(path)
    if sealed:
        fastio.seal(path)
    tensors = fastio.load(path, options=fastio.Options(mapping=mapping))
    assert same_bytes(tensors, expected)
    assert all(array.flags.aligned for array in tensors.values())


def test_tensors_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model")
    assert list(fastio.load(path)) == list(MODEL)


def test_tensors_whose_header_is_in_another_order_come_in_the_order_of_the_data(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "model", {"z": ("U8", (3,)), "a": ("U8", (4,)), "m": ("U8", (5,))})
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = dict(reversed(list(json.loads(raw[8 : 8 + length]).items())))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    path.write_bytes(raw[:8] + text + raw[8 + length :])
    tensors = fastio.load(path)
    assert list(tensors) == ["z", "a", "m"]
    assert same_bytes(tensors, expected_bytes(path))


@pytest.mark.parametrize("framework", _FRAMEWORKS)
def test_names_are_loaded_in_the_order_asked_for(framework: Any, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model")
    names = ["mask", "head.weight", "norm.weight", "layers.0.empty"]
    tensors = fastio.load(path, framework=framework, names=names)
    assert list(tensors) == names
    expected = expected_bytes(path)
    assert same_bytes(tensors, {name: expected[name] for name in names})


@pytest.mark.parametrize("name", MODEL)
@pytest.mark.parametrize("mapping", ["auto", "never"])
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "unsealed"])
def test_each_tensor_can_be_had_alone(
    name: str, mapping: Any, sealed: bool, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "model")
    expected = expected_bytes(path)[name]
    if sealed:
        fastio.seal(path)
    for cache in ("auto", "bypass"):
        options = fastio.Options(mapping=mapping, cache=cache)
        assert same_bytes(fastio.load(path, names=[name], options=options), {name: expected})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(["t3", "t1", "t3", "t1"], ["t3", "t1"], id="duplicates"),
        pytest.param([], [], id="none"),
        pytest.param({"t2": 1, "t0": 2}.keys(), ["t2", "t0"], id="keys of a dict"),
        pytest.param(("t1",), ["t1"], id="tuple"),
        pytest.param(iter(["t2", "t0"]), ["t2", "t0"], id="iterator"),
        pytest.param(np.array(["t2"]), ["t2"], id="array"),
    ],
)
def test_names_may_be_any_collection(names: Any, expected: list[str], tmp_path: Path) -> None:
    path = write_even(tmp_path / "model", 5, 1000)
    tensors = fastio.load(path, names=names)
    assert list(tensors) == expected
    assert all(type(name) is str for name in tensors)
    whole = expected_bytes(path)
    assert same_bytes(tensors, {name: whole[name] for name in expected})


def test_the_error_for_a_missing_name_suggests_similar_ones(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model")
    with pytest.raises(fastio.TensorNotFoundError) as raised:
        fastio.load(path, names=["mask", "layers.0.wieght"])
    assert raised.value.name == "layers.0.wieght"
    assert "layers.0.weight" in raised.value.matches
    assert str(path) in str(raised.value)


def test_a_single_str_is_not_taken_for_names(tmp_path: Path) -> None:
    path = write_even(tmp_path / "model", 2, 10)
    with pytest.raises(TypeError, match="names"):
        fastio.load(path, names="t0")


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("convert", [str, Path])
def test_several_files_make_one_dict(
    kind: Callable[[Any], Any], convert: Callable[[Path], Any], tmp_path: Path
) -> None:
    first = write(tmp_path / "a", {"x": ("F32", (9,)), "y": ("I8", (3,))}, seed=1)
    second = write(tmp_path / "b", {"w": ("BF16", (5,))}, seed=2)
    tensors = fastio.load(kind([convert(second), convert(first)]))
    assert list(tensors) == ["w", "x", "y"]
    assert same_bytes(tensors, expected_bytes(second, first))


def test_a_name_in_two_files_is_refused(tmp_path: Path) -> None:
    first, second = write_even(tmp_path / "a", 1, 10), write_even(tmp_path / "b", 1, 10)
    with pytest.raises(fastio.FormatError, match="t0") as raised:
        fastio.load([first, second])
    assert str(first) in str(raised.value)
    assert str(second) in str(raised.value)


def test_a_file_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = write_even(tmp_path / "a", 1, 10)
    with pytest.raises(fastio.FormatError, match="is given twice"):
        fastio.load([path, path])


@pytest.mark.parametrize(
    "arguments", [{"options": {"lanes": 2}}, {"report": {"x": 1}}, {"names": 5}], ids=str
)
def test_an_argument_of_a_wrong_type_is_refused_and_left_alone(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    path = write_even(tmp_path / "a", 1, 10)
    before = copy.deepcopy(arguments)
    with pytest.raises(TypeError):
        fastio.load(path, **arguments)
    assert arguments == before


def _write_folder(folder: Path) -> list[Path]:
    files = [
        write(folder / "model-00001-of-00002.safetensors", {"a": ("F32", (500,))}, seed=1),
        write(folder / "model-00002-of-00002.safetensors", {"b": ("F16", (3, 7))}, seed=2),
    ]
    weight_map = {"b": files[1].name, "a": files[0].name}
    index = {"metadata": {"total_size": 2042}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return files


@pytest.mark.parametrize("source", ["", "model.safetensors.index.json"], ids=["folder", "index"])
@pytest.mark.parametrize("framework", _FRAMEWORKS)
def test_a_hugging_face_folder_is_all_its_shards(
    source: str, framework: Any, tmp_path: Path
) -> None:
    files = _write_folder(tmp_path)
    report = fastio.Report()
    tensors = fastio.load(tmp_path / source, framework=framework, report=report)
    assert same_bytes(tensors, expected_bytes(*files))
    assert (report.files, report.tensors) == (2, 2)


def test_names_may_lie_in_several_shards(tmp_path: Path) -> None:
    files = _write_folder(tmp_path)
    tensors = fastio.load(tmp_path, names=["b", "a"])
    assert list(tensors) == ["b", "a"]
    assert same_bytes(tensors, expected_bytes(*files))


@pytest.mark.parametrize("framework", _FRAMEWORKS)
def test_a_file_without_tensors_gives_an_empty_dict(framework: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "model", {})
    assert loaded_bytes(fastio.load(path, framework=framework)) == {}
    assert expected_bytes(path) == {}


def test_a_file_of_empty_tensors_loads(tmp_path: Path) -> None:
    path = write(tmp_path / "model", {"a": ("F32", (0,)), "b": ("BF16", (0, 3))})
    for framework in _FRAMEWORKS:
        assert same_bytes(fastio.load(path, framework=framework), {"a": b"", "b": b""})


def test_many_small_tensors_are_each_in_their_place(tmp_path: Path) -> None:
    spec: Spec = {f"t{i}": (("F32", "U8", "BF16")[i % 3], (i % 50,)) for i in range(3000)}
    path = write(tmp_path / "model", spec)
    for framework in _FRAMEWORKS:
        assert same_bytes(fastio.load(path, framework=framework), expected_bytes(path))


def test_an_unknown_framework_is_refused(tmp_path: Path) -> None:
    unknown: Any = "theano"
    with pytest.raises(fastio.UsageError, match="framework='theano'"):
        fastio.load(write_even(tmp_path / "model", 1, 10), framework=unknown)


def test_an_unknown_verify_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="verify='always'"):
        fastio.load(write_even(tmp_path / "model", 1, 10), verify="always")  # type: ignore[call-overload]
