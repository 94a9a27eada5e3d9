"""In every torch mode of the caller, all ways to load treat every tensor alike.

The default device decides nothing, as in safetensors (huggingface/safetensors#588): `device=` does.
A mode that dispatches gets each tensor, as it does from `torch.from_numpy`: inside FakeTensorMode
all are fakes (huggingface/safetensors#441), with dtype, shape and device as they are outside.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastio
import fastio.torch
import testbed
from samples import bytes_of

_TENSORS = {
    "plain": torch.arange(12.0).reshape(3, 4),
    "bf16": torch.ones(3, 2).bfloat16(),
    "fp8": torch.arange(16.0).reshape(4, 4).to(torch.float8_e4m3fn),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 3),
    "empty fp8": torch.empty(0, 3).to(torch.float8_e5m2),
}
if hasattr(torch, "float4_e2m1fn_x2"):
    _TENSORS["fp4"] = torch.zeros(2, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)


def _opened(path: Path) -> dict[str, Any]:
    with fastio.safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _sliced(index: Any) -> Callable[[Path], dict[str, Any]]:
    def parts(path: Path) -> dict[str, Any]:
        with fastio.safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name != "scalar" or index is ...]  # noqa: SIM118
            return {name: file.get_slice(name)[index] for name in names}

    return parts


def _read(path: Path) -> dict[str, Any]:
    with fastio.open(path, framework="torch") as reader:
        return reader.read(list(_TENSORS))


def _streamed(path: Path) -> dict[str, Any]:
    with fastio.open(path, framework="torch") as reader:
        return dict(reader.stream())


_WAYS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "load": lambda path: fastio.load(path, framework="torch"),
    "load_file": fastio.torch.load_file,
    "bytes": lambda path: fastio.torch.load(path.read_bytes()),
    "get_tensor": _opened,
    "read": _read,
    "stream": _streamed,
    "slice of everything": _sliced(...),
    "slice": _sliced(slice(1, None)),
    "empty slice": _sliced(slice(0, 0)),
}


@contextlib.contextmanager
def _default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def _default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


class _Watching(TorchDispatchMode):
    """Does the part's work."""

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(*args, **(kwargs or {}))


_PLAIN_MODES: dict[str, Callable[[], Any]] = {
    "device": lambda: torch.device("meta"),
    "default device": _default_device,
    "default dtype": _default_dtype,
    "no gradients": torch.no_grad,
    "a mode that watches": _Watching,
}
_MODES: dict[str, tuple[Callable[[], Any], type]] = {
    "fake": (FakeTensorMode, FakeTensor),
    "fake, others allowed": (lambda: FakeTensorMode(allow_non_fake_inputs=True), FakeTensor),
    "functional": (FunctionalTensorMode, FunctionalTensor),
}


@pytest.fixture(params=["sealed", "plain"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return fastio.save(_TENSORS, tmp_path / "file", checksums=request.param == "sealed")


@pytest.fixture(params=["warm", "cold"])
def heated(request: pytest.FixtureRequest, path: Path) -> Path:
    testbed.evict(path)
    if request.param == "warm":
        path.read_bytes()
    return path


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("mode", _PLAIN_MODES)
def test_the_defaults_of_torch_decide_nothing(heated: Path, way: str, mode: str) -> None:
    expected = _WAYS[way](heated)
    with _PLAIN_MODES[mode]():
        got = _WAYS[way](heated)
    assert got.keys() == expected.keys()
    for name, tensor in got.items():
        assert (type(tensor), tensor.device.type) == (torch.Tensor, "cpu")
        assert (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape)
        assert bytes_of(tensor) == bytes_of(expected[name])


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("mode", _MODES)
def test_a_mode_gets_every_tensor(heated: Path, way: str, mode: str) -> None:
    expected = _WAYS[way](heated)
    make, kind = _MODES[mode]
    with make():
        got = _WAYS[way](heated)
        assert {type(tensor) for tensor in got.values()} == {kind}
    assert got.keys() == expected.keys()
    for name, tensor in got.items():
        assert tensor.device.type == "cpu"
        assert (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape)


@pytest.mark.parametrize("way", _WAYS)
def test_inference_tensors_are_made_in_inference_mode(heated: Path, way: str) -> None:
    with torch.inference_mode():
        assert all(tensor.is_inference() for tensor in _WAYS[way](heated).values())
    assert not any(tensor.is_inference() for tensor in _WAYS[way](heated).values())


@pytest.mark.parametrize("mode", [*_PLAIN_MODES, *_MODES, "inference"])
def test_real_tensors_are_saved_and_filled_in_every_mode(path: Path, mode: str) -> None:
    if mode == "inference":
        make: Callable[[], Any] = torch.inference_mode
    else:
        make = _PLAIN_MODES[mode] if mode in _PLAIN_MODES else _MODES[mode][0]
    values = torch.arange(6.0).reshape(2, 3)
    tensors = {"straight": values, "transposed": values.t(), "fp8": _TENSORS["fp8"]}
    filled = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    saved = path.with_name("saved")
    with make():
        fastio.save(tensors, saved)
        fastio.torch.save_file({"straight": values}, path.with_name("drop-in"))
        fastio.load_into(saved, filled)
    for name, tensor in tensors.items():
        assert bytes_of(filled[name]) == bytes_of(tensor)
    assert torch.equal(fastio.torch.load_file(path.with_name("drop-in"))["straight"], values)


def _without_values() -> dict[str, Any]:
    values = torch.ones(2, 3)
    with FakeTensorMode() as mode:
        made = {"fake": torch.ones(2, 3), "fake empty": torch.ones(0, 3)}
    made["fake of a real one"] = mode.from_tensor(values)
    with FunctionalTensorMode():
        made["functional"] = FunctionalTensor.to_functional(values.clone())
    made["functional of the core"] = torch._to_functional_tensor(values.clone())
    made["meta"] = torch.ones(2, 3, device="meta")
    made["meta empty"] = torch.ones(0, 3, device="meta")
    made["lazy"] = torch.nn.UninitializedParameter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one warning: they are a prototype
        made["nested"] = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    return made


_CAUSES = {
    "fake": "FakeTensor",
    "fake empty": "FakeTensor",
    "fake of a real one": "FakeTensor",
    "functional": "FunctionalTensor",
    "functional of the core": "no memory of its own",
    "meta": "meta",
    "meta empty": "meta",
    "lazy": "not initialized",
    "nested": "not strided",
}


@pytest.mark.parametrize("kind", _CAUSES)
def test_tensors_without_values_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    tensor = _without_values()[kind]
    model = torch.nn.Module()
    model.register_buffer("the one", tensor)
    into = tmp_path / "file"
    calls: list[Callable[[], Any]] = [
        lambda: fastio.save({"the one": tensor}, into),
        lambda: fastio.torch.save_file({"the one": tensor}, into),
        lambda: fastio.torch.save({"the one": tensor}),
    ]
    if kind != "lazy":  # torch itself refuses its state_dict()
        calls.append(lambda: fastio.torch.save_model(model, into))
    for call in calls:
        with pytest.raises((TypeError, ValueError, NotImplementedError), match="'the one'") as met:
            call()
        assert _CAUSES[kind] in str(met.value)
    assert list(tmp_path.iterdir()) == []


def test_tensors_wrapped_by_a_transform_are_refused_by_name(tmp_path: Path) -> None:
    def saves(values: torch.Tensor) -> torch.Tensor:
        fastio.save({"the one": values}, tmp_path / "file")
        return values.sum()

    for transform in (torch.vmap, torch.func.grad, torch.func.functionalize):
        with pytest.raises(TypeError, match="'the one' has no memory of its own"):
            transform(saves)(torch.ones(2, 3))


# Dynamo reports code that it cannot trace.
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")
def test_compiled_code_may_load(path: Path) -> None:
    @torch.compile(backend="eager")
    def doubled(name: str) -> torch.Tensor:
        return fastio.torch.load_file(path)[name] * 2

    assert torch.equal(doubled("plain"), _TENSORS["plain"] * 2)
