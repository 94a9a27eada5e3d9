"""The names of frameworks: a type checker accepts those that work, and no others."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import fastio
from fastio import frameworks
from fastio.frameworks import FrameworkName, NumpyName, TorchName


def test_the_names_of_overloads_are_those_of_their_frameworks() -> None:
    for names, module in ((NumpyName, "numpy"), (TorchName, "torch")):
        assert set(get_args(names)) < set(get_args(FrameworkName))
        assert {frameworks.framework(name).NAME for name in get_args(names)} == {module}


@pytest.mark.parametrize("name", get_args(NumpyName) + get_args(TorchName))
def test_every_name_works_everywhere(name: FrameworkName, tmp_path: Path) -> None:
    path = fastio.save({"a": np.arange(3)}, tmp_path / "model")
    with fastio.open(path, framework=name) as reader, fastio.safe_open(path, name) as file:
        assert list(fastio.load(path, framework=name)) == reader.keys() == file.keys() == ["a"]
        assert type(reader.tensor("a")) is type(file.get_tensor("a"))
