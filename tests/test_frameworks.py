"""The names of frameworks: a type checker knows those that work, and no others."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import fastio
from fastio import frameworks
from fastio.frameworks import FrameworkName, NumpyName, TorchName


def test_the_types_have_every_name_that_works() -> None:
    assert set(get_args(FrameworkName)) == frameworks._MODULES.keys()
    assert set(get_args(NumpyName)) == {n for n, m in frameworks._MODULES.items() if m == "numpy"}
    assert set(get_args(TorchName)) == {n for n, m in frameworks._MODULES.items() if m == "torch"}


@pytest.mark.parametrize("name", get_args(FrameworkName))
def test_every_name_works_everywhere(name: FrameworkName, tmp_path: Path) -> None:
    path = fastio.save({"a": np.arange(3)}, tmp_path / "model")
    with fastio.open(path, framework=name) as reader, fastio.safe_open(path, name) as file:
        assert list(fastio.load(path, framework=name)) == reader.keys() == file.keys() == ["a"]
        assert type(reader.tensor("a")) is type(file.get_tensor("a"))
