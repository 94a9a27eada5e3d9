"""Encoded tensors are decoded on the host: a load to a device refuses them before it reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import toy_format
from fastio.formats import known
from testbed.double import Double, OnDouble, tensor_like
from toy_format import Part, Tensor, deflated, write_toy

_VALUES = np.arange(5000, dtype=np.float32)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(known, "FORMATS", (toy_format.FORMAT, *known.FORMATS))
    tensors = {
        "deflated": Tensor("F32", (5000,), [Part("deflate", deflated(_VALUES))]),
        "raw": Tensor("F32", (5000,), _VALUES.tobytes()),
    }
    return write_toy(tmp_path / "model.toy", tensors, is_sealed=True)


def test_an_encoded_tensor_on_a_device_is_refused_with_what_to_do(
    double: Double, path: Path, options: fastio.Options
) -> None:
    there = {name: tensor_like(double, _VALUES) for name in ("deflated", "raw")}
    before = {name: tensor.numpy().tobytes() for name, tensor in there.items()}
    loads: list[Callable[[], Any]] = [
        lambda: fastio.load(path, device="cuda:0", options=options),
        lambda: fastio.start_load(path, device="cuda:0", options=options),
        lambda: fastio.load_into(path, there, options=options),
        lambda: list(fastio.open(path, options=options).stream(device="cuda:0")),
    ]
    for load in loads:
        with pytest.raises(fastio.UsageError, match=r"'deflated' is encoded.*load it to the CPU"):
            load()
    assert {name: tensor.numpy().tobytes() for name, tensor in there.items()} == before


def test_a_map_sends_raw_tensors_to_a_device_and_encoded_ones_to_the_host(
    double: Double, path: Path, options: fastio.Options
) -> None:
    report = fastio.Report()
    found: Any = fastio.load(
        path, device_map={"raw": "cuda:1", "": "cpu"}, options=options, report=report
    )
    assert list(found) == ["deflated", "raw"]
    assert isinstance(found["raw"], OnDouble)
    assert found["raw"].numpy().tobytes() == _VALUES.tobytes()
    assert np.array_equal(found["deflated"], _VALUES)
    assert [each.tensors for each in report.decoded] == [("deflated",)]
    assert report.nbytes == 2 * _VALUES.nbytes
