"""The examples in public docstrings run, and give what they show.

Those of `fastio.uring` run in ``uring/test_ring.py``, where a kernel without io_uring is a skip.
"""

import doctest
import importlib.util
import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
from fastio.store.collect import Collected
from fastio.store.status import Generation, Status

_HAS_TORCH = importlib.util.find_spec("torch") is not None

_WITHOUT_EXAMPLE = {
    "LaneTimes": "a record of times, which differ in every run",
    "Decoding": "loads of safetensors files decode nothing",
    "EngineStatus": "the example of engine_report shows one",
    "EngineReport": "the example of engine_report shows one",
    "Report.line": "its text has times, which differ in every run",
    **dict.fromkeys(
        [
            "LaneTimes.plus",
            "Decoding.plus",
            *(f"Report.{name}" for name in ("take", "note", "note_decoded", "add", "add_saved")),
            *(f"Report.{name}" for name in ("fall_back", "merge", "log", "clear")),
            "SaveHandle.release",
        ],
        "loads and saves call it, users do not",
    ),
}
"""Public callables that need no example, each with the reason."""


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods of a class, also those that it inherits from a class of fastio."""
    for name in dir(kind):
        value = inspect.getattr_static(kind, name)
        if isinstance(value, (classmethod, staticmethod)):
            value = value.__func__
        of_fastio = inspect.isfunction(value) and value.__module__.startswith("fastio.")
        if of_fastio and not name.startswith("_"):
            yield name, value


def _public() -> dict[str, Any]:
    """Every public function, class and method by name; errors say all in their message."""
    values = {name: getattr(fastio, name) for name in [*fastio.__all__, "open"]}
    values |= {f"store.{kind.__name__}": kind for kind in (Generation, Status, Collected)}
    seen = {id(value) for value in values.values()}
    for module in (fastio.numpy, fastio.torch) if _HAS_TORCH else (fastio.numpy,):
        for name in module.__all__:
            if id(getattr(module, name)) not in seen:
                values[f"{module.__name__.removeprefix('fastio.')}.{name}"] = getattr(module, name)
    found = {}
    for name, value in values.items():
        if callable(value) and not _is_error(value):
            found[name] = value
            if isinstance(value, type):
                found |= {f"{name}.{each}": method for each, method in _methods(value)}
    return found


def _example(name: str) -> doctest.DocTest | None:
    finder = doctest.DocTestFinder(recurse=False, exclude_empty=False)
    for found in finder.find(_PUBLIC[name], name, module=False, globs={}):
        if found.examples:
            return found
    return None


_PUBLIC = _public()


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names that examples use, in a folder with a file and a store of two roots."""
    monkeypatch.chdir(tmp_path)
    tensors = {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "bias": np.zeros(3, np.float32),
    }
    fastio.save(tensors, "model.safetensors")
    with fastio.Store.create(["disk0", "disk1"], replicas=2) as store:
        store.save(tensors)
        yield {"fastio": fastio, "np": np, "Path": Path, "shutil": shutil, "store": store}
    fastio.on_event(None)


@pytest.mark.parametrize("name", [name for name in _PUBLIC if _example(name) is not None])
def test_an_example_gives_what_it_shows(name: str, names: dict[str, Any]) -> None:
    example = _example(name)
    assert example is not None
    if any("torch" in step.source for step in example.examples):
        names["torch"] = pytest.importorskip("torch")
    example.globs = names
    told: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=told.append)
    assert told == []


def test_every_public_callable_has_an_example() -> None:
    without = {name for name in _PUBLIC if _example(name) is None}
    assert sorted(without - set(_WITHOUT_EXAMPLE)) == []
    assert sorted(set(_WITHOUT_EXAMPLE) - without) == []
