"""The error for an argument that is no mapping by name states its type and the remedy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastio
import fastio.torch

_MODEL = torch.nn.Linear(2, 2)
_NO_MAPPING: dict[str, tuple[Any, str]] = {
    "a module": (_MODEL, r"Linear: hand over its state_dict\(\)"),
    "a wrapped module": (torch.nn.DataParallel(_MODEL), r"DataParallel: .*state_dict\(\)"),
    "an optimizer": (torch.optim.SGD(_MODEL.parameters()), r"SGD: its state_dict\(\) is nested"),
    "a scheduler": (
        torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD(_MODEL.parameters())),
        r"state_dict\(\)",
    ),
    "a tensor": (torch.ones(2), "Tensor: give the tensor a name"),
    "an array": (np.ones(2), "ndarray: give the tensor a name"),
    "a structured array": (np.zeros(2, [("a", "<f4")]), "ndarray: give the tensor a name"),
    "a list": ([torch.ones(2)], "list: give each tensor a name"),
    "pairs": ((("a", torch.ones(2)),), "tuple: give each tensor a name"),
    "a generator": ((each for each in [np.ones(2)]), "generator: give each tensor a name"),
    "a path": ("model.safetensors", "str: the path and the tensors are swapped"),
    "a path object": (Path("model"), "the path and the tensors are swapped"),
    "a number": (3, "not int"),
    "nothing": (None, "not NoneType"),
    "a class": (torch.nn.Linear, "not type"),
}
_NO_TENSOR: dict[str, tuple[Any, str]] = {
    "nested": ({"exp_avg": torch.ones(2)}, r"dict.*'<name>\.exp_avg'"),
    "a module": (_MODEL, r"Linear.*state_dict\(\)"),
    "a list of numbers": ([1.0, 2.0], "list.*numpy.asarray"),
    "a float": (0.5, "float.*numpy.asarray"),
    "a scalar": (np.float32(3), "float32.*numpy.asarray"),
    "a bool": (True, "bool.*numpy.asarray"),
    "text": ("adam", "str.*metadata"),
    "nothing": (None, "NoneType.*leave it out"),
    "an object": (object(), "object, and no array or tensor"),
}


@pytest.mark.parametrize("kind", _NO_MAPPING)
def test_the_error_for_a_wrong_container_suggests_a_remedy(kind: str, tmp_path: Path) -> None:
    given, message = _NO_MAPPING[kind]
    path = fastio.save({"w": np.ones(2)}, tmp_path / "there")
    calls: list[Callable[[], Any]] = [
        lambda: fastio.save(given, tmp_path / "file"),
        lambda: fastio.load_into(path, given),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=message):
            call()
    for drop_in in (
        lambda: fastio.torch.save_file(given, tmp_path / "file"),
        lambda: fastio.torch.save(given),
    ):
        with pytest.raises(ValueError, match=message):
            drop_in()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", _NO_TENSOR)
def test_the_error_for_a_wrong_value_names_it_and_suggests_a_remedy(
    kind: str, tmp_path: Path
) -> None:
    given, message = _NO_TENSOR[kind]
    path = fastio.save({"the.key": np.ones(2)}, tmp_path / "there")
    calls: list[Callable[[], Any]] = [
        lambda: fastio.save({"good": np.ones(2), "the.key": given}, tmp_path / "file"),
        lambda: fastio.load_into(path, {"the.key": given}),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=rf"'the\.key' is a {message}"):
            call()
    with pytest.raises(ValueError, match=r"'the\.key'"):
        fastio.torch.save_file({"the.key": given}, tmp_path / "file")


def test_the_path_and_the_tensors_are_swapped(tmp_path: Path) -> None:
    path: Any = tmp_path / "file"
    given: Any
    for given in ({"w": np.ones(2)}, _MODEL):
        with pytest.raises(TypeError, match="takes the tensors first, then the path"):
            fastio.save(path, given)
    calls: list[Any] = [fastio.torch.save_model, fastio.torch.load_model]
    for call in calls:
        with pytest.raises(AttributeError, match=r"takes a torch\.nn\.Module first"):
            call(path, _MODEL)
