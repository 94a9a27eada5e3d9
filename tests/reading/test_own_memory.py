"""Returned tensors belong to the caller: his writes show in no other tensor, and are never taken
for damage.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastio
import testbed
from samples import bytes_of, expected_bytes, write_even

_LIMITS = [1 << 20, 1_500_000, 2 << 20, 2_400_000, None]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Tensors that share the chunks of a sealed file."""
    return fastio.seal(write_even(tmp_path / "model", 12, 200_000))


@pytest.mark.parametrize("limit", _LIMITS)
@pytest.mark.parametrize("mapping", ["auto", "never"])
def test_writes_into_tensors_of_a_stream_are_not_taken_for_damage(
    model: Path, limit: int | None, mapping: Any
) -> None:
    expected = expected_bytes(model)
    with testbed.kept_warm(model):
        reader = fastio.open(model, options=fastio.Options(mapping=mapping))
        for _ in range(2):
            seen = []
            for name, tensor in reader.stream(memory_limit_bytes=limit):
                assert tensor.tobytes() == expected[name]
                tensor[...] ^= 255
                seen.append(name)
            assert seen == reader.keys()
        for tensors in (reader.load(), {name: reader.tensor(name) for name in reader}):
            assert {name: t.tobytes() for name, t in tensors.items()} == expected


def test_two_streams_side_by_side_are_not_each_others(model: Path) -> None:
    expected = expected_bytes(model)
    with testbed.kept_warm(model), fastio.open(model) as reader:
        streams = [reader.stream(memory_limit_bytes=1 << 20) for _ in range(2)]
        for (name, one), (_, other) in zip(*streams, strict=True):
            one[...] = 0
            assert other.tobytes() == expected[name]
            other[...] = 1


def test_a_stream_that_was_left_holds_nothing_against_the_next(model: Path) -> None:
    limit = 2 << 20
    with testbed.kept_warm(model):
        reader = fastio.open(model)
        _, held = next(iter(reader.stream(memory_limit_bytes=limit)))
        expected = bytes(held.tobytes())
        assert len(list(reader.stream(memory_limit_bytes=limit))) == 12
        assert len(list(fastio.open(model).stream(memory_limit_bytes=limit))) == 12
        assert held.tobytes() == expected


def test_names_may_come_from_an_iterator(model: Path) -> None:
    with fastio.open(model) as reader:
        assert [name for name, _ in reader.stream(iter(["t3", "t1"]))] == ["t1", "t3"]  # type: ignore[arg-type]


def test_autograd_is_told_that_a_tensor_was_filled(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(_file_of_ones())
    weight, x = torch.ones(3, requires_grad=True), torch.zeros(3)
    product = (weight * x).sum()
    fastio.load_into(path, {"x": x})
    assert bytes_of(x) == np.ones(3, np.float32).tobytes()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
    with torch.inference_mode():
        untracked = torch.zeros(3)
    fastio.load_into(path, {"x": untracked})
    assert untracked.tolist() == [1, 1, 1]


def _file_of_ones() -> bytes:
    header = b'{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'
    return len(header).to_bytes(8, "little") + header + np.ones(3, np.float32).tobytes()


@pytest.mark.parametrize("step", [2**62, -(2**63), 10**18])
def test_a_step_beyond_all_strides_takes_one_row(model: Path, step: int) -> None:
    with fastio.open(model) as reader:
        whole = reader["t5"][...]
        assert np.array_equal(reader["t5"][::step], whole[::step])


def test_modules_are_imported_when_they_are_used() -> None:
    testbed.run_python("import fastio; fastio.uring.Ring; fastio.torch.load_file").check()
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = fastio.nothing_of_that_name
