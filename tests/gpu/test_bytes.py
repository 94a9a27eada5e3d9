"""A GPU receives the bytes of the file, each tensor in its own storage."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import fastio
from fastio.frameworks.torch_dtypes import HELD
from gpu.samples import MIB, MODEL, assert_same, data_of, on_cpu, on_gpu
from samples import Spec, write
from testbed import evict

pytestmark = pytest.mark.gpu

_SHAPES: dict[str, tuple[int, ...]] = {
    "matrix": (33, 130),
    "vector": (34,),
    "empty": (0,),
    "empty in the middle": (3, 0, 6),
    "five dimensions": (2, 1, 3, 1, 2),
}
# More than one range of 256 MiB, of tensors of every size, one of them larger than a range.
_LARGE: Spec = {
    "table": ("BF16", (150_000, 1000)),
    **{f"small.{at:03}": ("F32", (1 + at * 7,)) for at in range(200)},
    **{f"middle.{at:02}": ("F16", (1 + at * 513, 257)) for at in range(40)},
    **{f"odd.{at}": ("U8", (40 * MIB + 1 + at,)) for at in range(4)},
    **{f"large.{at}": ("BF16", (2048, 8192)) for at in range(4)},
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write(tmp_path_factory.mktemp("large") / "model.safetensors", _LARGE)
    fastio.seal(path)
    return path


@pytest.mark.parametrize("dtype", HELD)
def test_every_dtype_that_torch_holds_comes_bit_by_bit(dtype: str, tmp_path: Path) -> None:
    shapes = _SHAPES if dtype == "F4" else {**_SHAPES, "scalar": ()}
    path = write(tmp_path / "model", {name: (dtype, shape) for name, shape in shapes.items()})
    found = on_gpu(path)
    assert_same(found, on_cpu(path))
    assert {tensor.dtype for tensor in found.values()} == {HELD[dtype]}


@pytest.mark.parametrize("modulo", range(8))
def test_a_foreign_file_whose_data_begins_anywhere(modulo: int, tmp_path: Path) -> None:
    path = write(tmp_path / "model", MODEL, start_modulo_8=modulo)
    evict(path)
    assert_same(on_gpu(path), on_cpu(path))


@pytest.mark.parametrize("first", [1, 2, 3, 5, 7, 13])
def test_a_foreign_file_whose_tensors_break_every_alignment(first: int, tmp_path: Path) -> None:
    spec: Spec = {"first": ("U8", (first,))}
    for at, dtype in enumerate(("F64", "C64", "BF16", "F32", "I64", "F16", "F8_E5M2")):
        spec = {**spec, f"{at}.value": (dtype, (3 + at, 5)), f"{at}.byte": ("I8", (1 + 2 * at,))}
    path = write(tmp_path / "model", spec)
    found = on_gpu(path)
    assert_same(found, on_cpu(path))
    _assert_alone(found)


def test_each_tensor_has_a_storage_of_exactly_its_bytes(sealed: Path) -> None:
    found = on_gpu(sealed)
    _assert_alone(found)
    for tensor in found.values():
        assert not tensor.requires_grad
    # A write to one changes no other.
    others = {name: tensor for name, tensor in on_cpu(sealed).items() if name != "odd.bytes"}
    data_of(found.pop("odd.bytes")).fill_(0xA5)
    assert_same(found, others)


def test_a_tensor_outlives_the_others(sealed: Path) -> None:
    kept = on_gpu(sealed)["layers.0.weight"]
    torch.empty(64 * MIB, dtype=torch.uint8, device="cuda:0").fill_(0xA5)
    assert_same({"t": kept}, {"t": on_cpu(sealed)["layers.0.weight"]})


@pytest.mark.parametrize("cache", ["bypass", "keep", "auto"])
@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize("verify", [True, False])
def test_each_engine_and_cache_mode_gives_the_same(
    sealed: Path, options: fastio.Options, cache: Any, cold: bool, verify: bool
) -> None:
    expected = on_cpu(sealed)
    if cold:
        evict(sealed)
    report = fastio.Report()
    asked = fastio.Options(engine=options.engine, cache=cache)
    assert_same(on_gpu(sealed, options=asked, verify=verify, report=report), expected)
    assert (report.chunks_verified > 0) == verify
    assert report.tensors == len(expected)


def test_a_model_of_several_ranges(large: Path) -> None:
    found = on_gpu(large)
    assert_same(found, on_cpu(large))
    _assert_alone(found)
    small = fastio.Options(block_bytes=MIB, queue_depth=2, lanes=3)
    assert_same(on_gpu(large, options=small), on_cpu(large))


def test_names_are_loaded_in_their_order(large: Path) -> None:
    names = ["small.003", "odd.2", "middle.39"]
    found = on_gpu(large, names=names)
    assert list(found) == names
    assert_same(found, on_cpu(large, names=names))


def test_a_model_of_empty_tensors(tmp_path: Path) -> None:
    path = write(tmp_path / "model", {"a": ("F32", (0, 7)), "b": ("F8_E4M3", (3, 0))})
    assert_same(on_gpu(path), on_cpu(path))


def test_devices_by_every_name(sealed: Path) -> None:
    expected = on_cpu(sealed)
    for device in ("cuda", "cuda:0", 0, torch.device("cuda"), torch.device("cuda", 0)):
        assert_same(on_gpu(sealed, device=device), expected)
    with pytest.raises(fastio.UsageError, match="there is no such device"):
        on_gpu(sealed, device=f"cuda:{torch.cuda.device_count()}")
    with pytest.raises(fastio.UsageError, match="a tensor there has no values"):
        on_gpu(sealed, device="meta")


def test_a_map_spreads_a_model_over_the_host_and_the_device(sealed: Path) -> None:
    expected = on_cpu(sealed)
    last = f"cuda:{torch.cuda.device_count() - 1}"
    places = {"layers.1": last, "layers": "cuda:0", "odd": "cpu", "": "cuda:0"}
    on = dict.fromkeys(expected, "cuda:0")
    on |= {name: "cpu" for name in expected if name.startswith("odd.")}
    on["layers.1.weight"] = last
    assert_same(on_gpu(sealed, device=None, device_map=places), expected, on)
    assert_same(
        on_gpu(sealed, device=None, device_map={"": "cpu"}), expected, dict.fromkeys(on, "cpu")
    )


def test_a_folder_of_several_files(tmp_path: Path) -> None:
    for at in range(3):
        spec: Spec = {f"{at}.{name}": what for name, what in MODEL.items()}
        write(tmp_path / f"model-{at}.safetensors", spec, seed=at)
    paths = sorted(tmp_path.iterdir())
    found = fastio.load(paths, framework="torch", device="cuda:0")
    assert_same(found, fastio.load(paths, framework="torch"))


def _assert_alone(tensors: dict[str, torch.Tensor]) -> None:
    """No tensor overlaps another, and each begins at an aligned address."""
    spans = []
    for name, tensor in tensors.items():
        nbytes = tensor.numel() * tensor.element_size()
        assert tensor.untyped_storage().nbytes() == nbytes, name
        assert tensor.storage_offset() == 0, name
        if nbytes:
            assert tensor.data_ptr() == tensor.untyped_storage().data_ptr(), name
            assert tensor.data_ptr() % 16 == 0, name
            spans.append((tensor.data_ptr(), tensor.data_ptr() + nbytes, name))
    spans.sort()
    for (_, end, one), (begin, _, other) in itertools.pairwise(spans):
        assert end <= begin, (one, other)
