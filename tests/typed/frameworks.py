"""The types of `framework=`: a checker knows the returned arrays, and finds a misspelled name.

Only mypy reads this file (.ci/lint). It complains of an ignored error that is gone.
"""

from collections.abc import ItemsView, ValuesView
from typing import Any

import numpy.typing as npt
import torch
from typing_extensions import assert_type

import fastio
from fastio.frameworks import FrameworkName
from fastio.torch import load_file


def loads(path: str, name: FrameworkName) -> None:
    """A whole load has the arrays of its framework."""
    assert_type(fastio.load(path), dict[str, npt.NDArray[Any]])
    assert_type(fastio.load(path, framework="np"), dict[str, npt.NDArray[Any]])
    assert_type(fastio.load(path, framework="torch"), dict[str, torch.Tensor])
    assert_type(fastio.load(path, framework="pt", device="cuda"), dict[str, torch.Tensor])
    assert_type(fastio.load(path, framework=name), dict[str, Any])
    assert_type(fastio.start_load(path, framework="torch"), fastio.LoadHandle)
    assert_type(load_file(path), dict[str, torch.Tensor])


def stores(store: fastio.Store) -> None:
    """So has a store."""
    assert_type(store.load(), dict[str, npt.NDArray[Any]])
    assert_type(store.load(framework="pytorch"), dict[str, torch.Tensor])
    assert_type(store.start_load(framework="torch", device=0), fastio.LoadHandle)
    assert_type(store.reader(framework="torch"), fastio.Reader)


def readers(reader: fastio.Reader) -> None:
    """A reader is like a mapping of views."""
    assert_type(reader["a"], fastio.TensorView)
    assert_type(reader.items(), ItemsView[str, fastio.TensorView])
    assert_type(reader.values(), ValuesView[fastio.TensorView])
    assert_type(reader.get("a"), fastio.TensorView | None)
    assert_type(reader.get("a", 0), fastio.TensorView | int | None)
    assert_type(reader.report.events, tuple[fastio.Event, ...])


def misspelled(path: str, store: fastio.Store, name: str) -> None:
    """An unknown framework is an error, everywhere; so is a str of unknown value."""
    fastio.load(path, framework="pytroch")  # type: ignore[call-overload]
    fastio.start_load(path, framework="Torch")  # type: ignore[arg-type]
    fastio.load(path, framework=name)  # type: ignore[call-overload]
    fastio.load(path, framework=None)  # type: ignore[call-overload]
    fastio.open(path, framework="nunpy")  # type: ignore[arg-type]
    fastio.safe_open(path, framework="pit")  # type: ignore[arg-type]
    fastio.safe_open(path, "torhc")  # type: ignore[arg-type]
    store.load(framework="toch")  # type: ignore[call-overload]
    store.reader(framework="toch")  # type: ignore[arg-type]
    store.stream(framework="toch")  # type: ignore[arg-type]
