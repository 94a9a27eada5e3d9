"""Frameworks that fastio reaches through numpy: each way to load and save, by each name."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import fastio
from fastio import frameworks
from fastio.frameworks import FrameworkName
from fastio.frameworks.numpy import DTYPES
from frameworks.doubles import jax, mlx, paddle, tensorflow

_DOUBLES = {"jax": jax, "tensorflow": tensorflow, "mlx": mlx, "paddle": paddle}
_MODULES = {"jax": "flax", "tensorflow": "tensorflow", "mlx": "mlx", "paddle": "paddle"}
_NAMES = {"jax": ["jax", "flax"], "tensorflow": ["tensorflow", "tf"]}
_SHAPES = ((2, 3), (), (0, 4), (5,))


@pytest.fixture(params=sorted(_DOUBLES))
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One of them, installed or a double of it."""
    found: str = request.param
    if importlib.util.find_spec(found) is None:
        for module, made in _DOUBLES[found]().items():
            monkeypatch.setitem(sys.modules, module, made)
    own = [f"fastio.frameworks.{found}", f"fastio.{_MODULES[found]}"]
    yield found
    for module in own:  # they hold the double
        sys.modules.pop(module, None)
        parent, _, attribute = module.rpartition(".")
        vars(sys.modules[parent]).pop(attribute, None)
    frameworks._of_classes.clear()


def _arrays(held: Any) -> dict[str, Any]:
    random = np.random.default_rng(0)
    made = {}
    for dtype in sorted(held.DTYPES):
        if dtype in ("F4", "F64", "I64", "U64"):  # F4 is packed, and some make 32 bits of 64
            continue
        kind = DTYPES[dtype]
        for shape in _SHAPES:
            count = int(np.prod(shape)) * kind.itemsize
            raw = random.integers(0, 2 if kind == np.bool_ else 100, count, dtype=np.uint8)
            made[f"{dtype}{list(shape)}"] = raw.view(kind).reshape(shape)
    return made


def _assert_same(held: Any, tensors: Any, expected: dict[str, Any]) -> None:
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        array = np.asarray(held._array_of(tensor))
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape), name
        assert array.tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("checksums", [True, False], ids=["sealed", "plain"])
def test_every_way_to_load_gives_its_tensors(name: Any, checksums: bool, tmp_path: Path) -> None:
    held: Any = frameworks.framework(name)
    expected = _arrays(held)
    path = fastio.save(expected, tmp_path / "file", checksums=checksums)
    aliases: list[Any] = _NAMES.get(name, [name])
    for alias in aliases:
        loaded: Any = fastio.load(path, framework=alias)
        _assert_same(held, loaded, expected)
        assert not any(isinstance(tensor, np.ndarray) for tensor in loaded.values())
        with fastio.safe_open(path, alias) as file:
            _assert_same(held, file.get_tensors(), expected)
            _assert_same(held, {each: file.get_tensor(each) for each in expected}, expected)
            _assert_same(held, {each: file.get_slice(each)[...] for each in expected}, expected)
            part = file.get_slice("F32[2, 3]")[:1, ::2]
            _assert_same(held, {"part": part}, {"part": expected["F32[2, 3]"][:1, ::2]})
        with fastio.open(path, framework=alias) as reader:
            _assert_same(held, dict(reader.stream()), expected)
            _assert_same(held, reader.read(list(expected)), expected)


def test_its_tensors_are_saved_and_the_drop_in_has_its_calls(name: Any, tmp_path: Path) -> None:
    held: Any = frameworks.framework(name)
    expected = _arrays(held)
    tensors = {each: held._make(array.copy()) for each, array in expected.items()}
    path = fastio.save(tensors, tmp_path / "file")
    assert {each: array.tobytes() for each, array in fastio.load(path).items()} == {
        each: array.tobytes() for each, array in expected.items()
    }
    drop_in = importlib.import_module(f"fastio.{_MODULES[name]}")
    assert getattr(fastio, _MODULES[name]) is drop_in
    drop_in.save_file(tensors, tmp_path / "other", metadata={"made by": "a test"})
    with fastio.safe_open(tmp_path / "other", "np") as file:
        metadata = file.metadata()
        assert metadata is not None
        assert metadata["made by"] == "a test"
    _assert_same(held, drop_in.load_file(tmp_path / "other", backend="pread"), expected)
    _assert_same(held, drop_in.load(drop_in.save(tensors)), expected)


def test_unsupported_calls_are_refused_by_name(name: Any, tmp_path: Path) -> None:
    held: Any = frameworks.framework(name)
    path = fastio.save({"w": np.ones(3, np.float32)}, tmp_path / "file")
    for call in (
        lambda: fastio.load(path, framework=name, device="cuda"),
        lambda: fastio.safe_open(path, name, device="cuda:0"),
        lambda: importlib.import_module(f"fastio.{_MODULES[name]}").load_file(path, "cuda"),
    ):
        with pytest.raises(fastio.UsageError, match=f"cuda.*{name}"):
            call()
    with pytest.raises(TypeError, match=rf"'w' is a tensor of {name}.*fastio\.load"):
        fastio.load_into(path, {"w": held._make(np.zeros(3, np.float32))})
    lacking = sorted(DTYPES.keys() - held.DTYPES.keys())
    for dtype in lacking:
        other = fastio.save({"w": np.ones(2, DTYPES[dtype])}, tmp_path / dtype)
        with pytest.raises(fastio.DtypeError, match=f"'w'.*{dtype}.*{name}"):
            fastio.load(other, framework=name)


def test_a_tensor_without_values_is_refused_by_name(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: Any = frameworks.framework(name)
    tensor = held._make(np.zeros(3, np.float32))

    def gone(_: Any) -> Any:
        raise RuntimeError("the array was deleted")

    monkeypatch.setattr(held, "_array_of", gone)
    with pytest.raises(TypeError, match=f"'w' is a .* of {name}.*the array was deleted"):
        fastio.save({"w": tensor}, tmp_path / "file")


@pytest.mark.parametrize("unknown", ["theano", "PT", "", None, 3, ["torch"]])
def test_an_unknown_framework_is_refused_with_the_known_ones(unknown: Any, tmp_path: Path) -> None:
    path = fastio.save({"w": np.ones(3)}, tmp_path / "file")
    for call in (
        lambda: fastio.load(path, framework=unknown),
        lambda: fastio.open(path, framework=unknown),
    ):
        with pytest.raises(fastio.UsageError) as met:
            call()
        assert all(known in str(met.value) for known in get_args(FrameworkName))


def test_a_framework_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fastio.save({"w": np.ones(3)}, tmp_path / "file")
    monkeypatch.setitem(sys.modules, "mlx", None)
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    monkeypatch.delitem(sys.modules, "fastio.frameworks.mlx", raising=False)
    for kind in (ImportError, fastio.UsageError):
        with pytest.raises(kind, match="framework='mlx' needs mlx"):
            fastio.load(path, framework="mlx")
