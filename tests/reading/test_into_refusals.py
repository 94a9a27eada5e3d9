"""load_into refuses unsuitable targets before the first byte: all targets stay unchanged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastio
from samples import CHUNK_BYTES, write, write_even

_SHAPE = (8, 6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "model", {"a": ("F32", _SHAPE), "b": ("F32", _SHAPE)})


def _read_only() -> Any:
    array = np.full(_SHAPE, 7, np.float32)
    array.flags.writeable = False
    return array


def _without_memory() -> Any:
    tensor = torch.zeros(_SHAPE)
    tensor.untyped_storage().resize_(16)
    return tensor


_REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "read-only": (_read_only, ValueError, "read-only"),
    "another shape": (lambda: np.zeros((6, 8), np.float32), ValueError, r"\[6, 8\]"),
    "flat": (lambda: np.zeros(48, np.float32), ValueError, "shape"),
    "another dtype": (lambda: np.zeros(_SHAPE, np.int32), TypeError, "int32"),
    "another byte order": (lambda: np.zeros(_SHAPE, ">f4"), TypeError, ">f4"),
    "another torch dtype": (lambda: torch.zeros(_SHAPE, dtype=torch.float16), TypeError, "float16"),
    "on no device": (lambda: torch.zeros(_SHAPE, device="meta"), TypeError, "meta"),
    "sparse": (lambda: torch.zeros(_SHAPE).to_sparse(), TypeError, "not strided"),
    "expanded": (lambda: torch.zeros(1, 6).expand(8, 6), ValueError, "overlaps itself"),
    "broadcast": (
        lambda: np.lib.stride_tricks.as_strided(np.zeros(6, np.float32), _SHAPE, (0, 4)),
        ValueError,
        "overlaps itself",
    ),
    "windows": (
        lambda: np.lib.stride_tricks.as_strided(np.zeros(13, np.float32), _SHAPE, (4, 4)),
        ValueError,
        "overlaps itself",
    ),
    "without its memory": (_without_memory, ValueError, "storage"),
    "a list": (lambda: [[0.0] * 6] * 8, TypeError, "list"),
    "None": (lambda: None, TypeError, "NoneType"),
    "a view": (lambda: memoryview(bytearray(192)), TypeError, "memoryview"),
}


@pytest.mark.parametrize("kind", _REFUSED)
@pytest.mark.parametrize("name", ["a", "b"])
def test_unsuitable_targets_are_refused_by_name(path: Path, name: str, kind: str) -> None:
    make, error, words = _REFUSED[kind]
    fine = np.full(_SHAPE, 7, np.float32)
    targets = {"a": fine, "b": fine, name: make()}
    with pytest.raises(error, match=words) as raised:
        fastio.load_into(path, targets)
    assert repr(name) in str(raised.value)
    assert (fine == 7).all()


def test_complex_values_that_are_conjugated_in_no_memory_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model", {"c": ("C64", (3,))})
    target = torch.zeros(3, dtype=torch.complex64).conj()
    with pytest.raises(TypeError, match="in memory"):
        fastio.load_into(path, {"c": target})


def test_a_dtype_that_the_framework_lacks_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model", {"f6": ("F6_E2M3", (4,))})
    with pytest.raises(TypeError, match="F6_E2M3"):
        fastio.load_into(path, {"f6": np.zeros(3, np.uint8)})


_BASE = 600


def _overlapping(kind: str) -> dict[str, Any]:
    base = np.full(_BASE, 7, np.uint8)
    if kind == "the same":
        return {"a": base[:40], "b": base[:40], "c": base[100:140]}
    if kind == "by a byte":
        return {"a": base[:40], "b": base[100:140], "c": base[39:79]}
    if kind == "interleaved":
        return {"a": base[0:400:10], "b": base[5:205:5], "c": base[410:450]}
    assert kind == "two in the gaps of a third"
    return {"a": base[:560:14], "b": base[1:560:14], "c": base[15:574:14]}


@pytest.mark.parametrize(
    "kind", ["the same", "by a byte", "interleaved", "two in the gaps of a third"]
)
@pytest.mark.parametrize("turned", [False, True])
def test_targets_that_overlap_are_refused(tmp_path: Path, kind: str, turned: bool) -> None:
    path = write(tmp_path / "model", dict.fromkeys("abc", ("U8", (40,))))
    targets = _overlapping(kind)
    if turned:
        targets = {name: array[::-1] for name, array in targets.items()}
    with pytest.raises(ValueError, match="overlap"):
        fastio.load_into(path, targets)
    assert all((array == 7).all() for array in targets.values())


def test_two_that_overlap_in_the_gaps_of_a_third_are_found(tmp_path: Path) -> None:
    path = write(tmp_path / "model", {"a": ("U8", (10,)), "b": ("U8", (2,)), "c": ("U8", (2,))})
    base = np.zeros(40, np.uint8)
    with pytest.raises(ValueError, match="'b' and 'c' overlap"):
        fastio.load_into(path, {"a": base[::4], "b": base[1:3], "c": base[2:4]})
    fastio.load_into(path, {"a": base[::4], "b": base[1:3], "c": base[5:7]})
    assert base.any()


def test_names_are_checked_first(path: Path) -> None:
    fine = {name: np.full(_SHAPE, 7, np.float32) for name in ("a", "b")}
    with pytest.raises(fastio.TensorNotFoundError) as raised:
        fastio.load_into(path, {**fine, "bb": np.zeros(1)})
    assert raised.value.matches[:1] == ("b",)
    with pytest.raises(fastio.TensorNotFoundError):
        fastio.load_into(path, {"a": fine["a"], "nothing": fine["b"]}, strict=False)
    with pytest.raises(ValueError, match="tensors has no 'b', and 1 of the 2 names"):
        fastio.load_into(path, {"a": fine["a"]})
    with pytest.raises(TypeError, match="must be a str"):
        fastio.load_into(path, {**fine, 1: fine["a"]})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="must be a mapping"):
        fastio.load_into(path, list(fine))  # type: ignore[arg-type]
    assert all((array == 7).all() for array in fine.values())


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"verify": "yes"}, ValueError),
        ({"options": {}}, TypeError),
        ({"report": {}}, TypeError),
    ],
)
def test_invalid_arguments_are_refused(path: Path, arguments: Any, kind: Any) -> None:
    fine = {name: np.full(_SHAPE, 7, np.float32) for name in ("a", "b")}
    with pytest.raises(kind):
        fastio.load_into(path, fine, **arguments)
    assert all((array == 7).all() for array in fine.values())


def test_a_limit_below_a_block_is_refused_and_one_of_a_block_is_enough(
    tmp_path: Path, engine: Any
) -> None:
    path = fastio.seal(write_even(tmp_path / "model", 4, CHUNK_BYTES))
    targets = {f"t{i}": np.full(CHUNK_BYTES + 1, 7, np.uint8)[1:] for i in range(4)}

    def options(limit: int) -> fastio.Options:
        return fastio.Options(
            engine=engine, cache="keep", block_bytes=CHUNK_BYTES, memory_limit_bytes=limit
        )

    with pytest.raises(fastio.MemoryLimitError) as raised:
        fastio.load_into(path, targets, options=options(CHUNK_BYTES - 1))
    assert raised.value.asked_bytes == CHUNK_BYTES
    assert all((array == 7).all() for array in targets.values())
    fastio.load_into(path, targets, options=options(CHUNK_BYTES))
    assert not any((array == 7).all() for array in targets.values())
