"""serialize, serialize_file and TensorSpec beside those of safetensors."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch

import fastio
from samples import nbytes_of
from saving.beside import (
    Refused,
    Side,
    assert_same_tensors,
    both,
    kind,
    metadata_seen_by_safetensors,
    outcome,
    sides,
)

_VALUES = np.arange(6, dtype=np.float32)
_ARGUMENTS: dict[str, Any] = {
    "dtype": "float32",
    "shape": [2, 3],
    "data_ptr": _VALUES.ctypes.data,
    "data_len": 24,
}
_LIBRARIES = (safetensors, fastio)
_DTYPES = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", "bfloat16", "complex64", "float8_e4m3fn"),
    *("float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2"),
)


def _spec(library: Any, **changed: Any) -> Any:
    return library.TensorSpec(**{**_ARGUMENTS, **changed})


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Side, Side]:
    """Both."""
    return sides("np", tmp_path)


def _changes() -> Iterator[dict[str, Any]]:
    """One argument after another, as a caller might pass it."""
    for dtype in (*_DTYPES, "F32", "float", "complex128", "float4_e2m1fn", "", 1, None, b"bool"):
        yield {"dtype": dtype, "shape": [2, 4]}
    yield {"dtype": np.dtype("float32")}
    yield {"dtype": torch.float32}
    shapes: tuple[Any, ...] = ((2, 3), torch.Size([2, 3]), np.array([2, 3]), [np.int64(6)])
    shapes += (range(3), b"ab", (), [-1], [2.0], "ab", None, {2: 3}, {2}, [2, [3]], 6)
    for shape in (*shapes, [2**63], [2**64]):
        yield {"shape": shape}
    for pairs in ([], [0], [2, 3], [2**62], [2**63]):
        yield {"dtype": "float4_e2m1fn_x2", "shape": pairs}
    for name in ("data_ptr", "data_len"):
        for number in (0, 5, np.int64(5), True, -1, 2**64 - 1, 2**64, 1.0, "x", None):
            yield {name: number}


@pytest.mark.parametrize("changed", tuple(_changes()), ids=repr)
def test_a_spec_has_the_arguments_and_fields_of_safetensors_own(changed: dict[str, Any]) -> None:
    theirs, ours = (outcome(functools.partial(_spec, library, **changed)) for library in _LIBRARIES)
    if isinstance(theirs, Refused):
        assert isinstance(ours, Refused)
        assert isinstance(ours.error, kind(theirs.error)), repr(ours.error)
        return
    for name in _ARGUMENTS:
        assert getattr(ours, name) == getattr(theirs, name)
        assert type(getattr(ours, name)) is type(getattr(theirs, name))
    assert repr(ours) == repr(theirs)


def test_a_spec_is_made_by_name_alone_and_stays_as_it_is() -> None:
    assert fastio.SafetensorError is fastio.FastioError
    for library in _LIBRARIES:
        with pytest.raises(TypeError):
            library.TensorSpec(*_ARGUMENTS.values())
        with pytest.raises(TypeError):
            library.TensorSpec(dtype="float32")
        spec = _spec(library)
        for name in (*_ARGUMENTS, "more"):
            with pytest.raises(AttributeError):
                setattr(spec, name, 1)


@pytest.mark.parametrize("metadata", [None, {}, {"ä": '"\n'}], ids=["none", "empty", "one"])
def test_bytes_are_those_of_safetensors(
    metadata: dict[str, str] | None, pair: tuple[Side, Side]
) -> None:
    raw = np.random.default_rng(0).integers(0, 2, 1 << 12, np.uint8)

    def specs(library: Any) -> dict[str, Any]:
        found = {}
        for dtype in _DTYPES:
            code = _spec(library, dtype=dtype).dtype
            pairs = 2 if code == "F4" else 1
            for shape in ((), (3, 4), (0, 2))[pairs - 1 :]:
                nbytes = nbytes_of(code, (*shape[:-1], shape[-1] * pairs) if shape else ())
                found[f"{dtype} {shape}"] = library.TensorSpec(
                    dtype=dtype, shape=shape, data_ptr=raw.ctypes.data, data_len=nbytes
                )
        return found

    theirs, ours = both(pair, lambda side: side.library.serialize(specs(side.library), metadata))
    assert type(ours) is bytes
    assert ours == theirs
    assert fastio.serialize(specs(safetensors), metadata) == theirs  # its own specs, too
    assert fastio.serialize(tensor_dict=specs(fastio), metadata=metadata) == theirs


def test_a_file_is_sealed_and_read_by_both(pair: tuple[Side, Side]) -> None:
    for side in pair:
        specs = {"w": _spec(side.library)}
        assert side.library.serialize_file(specs, side.path, {"a": "b"}) is None
        side.library.serialize_file(tensor_dict=specs, filename=str(side.path), metadata={"a": "b"})
    assert metadata_seen_by_safetensors(pair[1].path)[0] == {"a": "b"}
    expected = {"w": _VALUES.reshape(2, 3)}
    assert_same_tensors(safetensors.numpy.load_file(pair[1].path), expected)
    assert_same_tensors(fastio.load(pair[1].path, verify="require"), expected)
    assert fastio.safe_open(pair[1].path, "np").metadata() == {"a": "b"}


class _Duck:
    dtype, shape, data_ptr, data_len = "F32", (2, 3), _VALUES.ctypes.data, 24


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        (lambda spec: [("w", spec())], None),
        (lambda spec: None, None),
        (lambda spec: {"w": _ARGUMENTS}, None),
        (lambda spec: {"w": _VALUES}, None),
        (lambda spec: {"w": _Duck()}, None),
        (lambda spec: {1: spec()}, None),
        (lambda spec: {b"w": spec()}, None),
        (lambda spec: {"w": spec(data_len=23)}, None),
        (lambda spec: {"w": spec(data_len=25)}, None),
        (lambda spec: {"w": spec(data_len=0)}, None),
        (lambda spec: {"w": spec(shape=[2**40, 2**40])}, None),
        (lambda spec: {"w": spec(shape=[2**63, 8, 0], data_len=0)}, None),
        (lambda spec: {"w": spec(dtype="float4_e2m1fn_x2", shape=[], data_len=1)}, None),
        (lambda spec: {"w": spec()}, {"a": 1}),
        (lambda spec: {"w": spec()}, {1: "a"}),
        (lambda spec: {"w": spec()}, [("a", "b")]),
    ],
)
def test_inputs_that_safetensors_refuses_are_refused(
    tensors: Any, metadata: Any, pair: tuple[Side, Side]
) -> None:
    def specs(side: Side) -> Any:
        return tensors(functools.partial(_spec, side.library))

    for call in (
        lambda side: side.library.serialize(specs(side), metadata),
        lambda side: side.library.serialize_file(specs(side), side.path, metadata),
    ):
        theirs, ours = both(pair, call)
        assert isinstance(theirs, Refused)
        assert isinstance(ours, Refused)
        assert isinstance(ours.error, kind(theirs.error)), repr(ours.error)
    assert not list(pair[1].folder.iterdir())


def test_bytes_at_no_address_are_refused() -> None:
    """safetensors ends the process."""
    with pytest.raises(fastio.UsageError, match="address 0"):
        fastio.serialize({"w": _spec(fastio, data_ptr=0)})
    nothing = _spec(fastio, data_ptr=0, data_len=0, shape=[0, 3])
    assert fastio.numpy.load(fastio.serialize({"w": nothing}))["w"].shape == (0, 3)
