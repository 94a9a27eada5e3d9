"""fastio's saves under safetensors' names: the bytes are safetensors' own, safetensors reads the
files, and the caller's `except` catches the errors. Deliberate differences are in `_OTHERWISE`,
with the reason.
"""

import collections
import json
import os
import types
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

import fastio
from fastio import frameworks
from samples import bytes_of, data_start
from saving.beside import (
    FRAMEWORKS,
    Refused,
    Side,
    assert_same_tensors,
    both,
    kind,
    metadata_seen_by_safetensors,
    sides,
    values,
)

_OWN_KEYS = {"fastio.header", "fastio.version", "fastio.checksums"}
# F4 has no dtype in numpy; it is saved there as uint8.
_DTYPES = {
    framework: sorted(frameworks.framework(framework).DTYPES.keys() - _left_out)
    for framework, _left_out in (("pt", set[str]()), ("np", {"F4"}))
}
_NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(
    lambda name: name != "__metadata__"
)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def pair(framework: Any, tmp_path: Path) -> tuple[Side, Side]:
    """Both, for tensors of one framework."""
    return sides(framework, tmp_path)


def _all_kinds(framework: Any) -> dict[str, Any]:
    """A tensor of each dtype, in no order, and some of odd shapes."""
    tensors = {f"of {dtype}": values(framework, dtype, (3, 4)) for dtype in _DTYPES[framework]}
    for name, shape in {"scalar": (), "empty": (0, 4), "ä\n": (5,), "": (2, 1, 3)}.items():
        tensors[name] = values(framework, "F32", shape)
    return tensors


# ---- bytes --------------------------------------------------------------------------------------


@st.composite
def _tensors(draw: Any, framework: Any) -> dict[str, Any]:
    shapes = st.lists(st.integers(0, 5), max_size=3)
    found: dict[str, Any] = {}
    for name in draw(st.lists(_NAMES, max_size=6, unique=True)):
        dtype, shape = draw(st.sampled_from(_DTYPES[framework])), draw(shapes)
        if dtype == "F4":
            shape = [*shape, 2 * draw(st.integers(0, 3))]
        found[name] = values(framework, dtype, tuple(shape), seed=len(found))
    return found


@pytest.mark.parametrize("framework", FRAMEWORKS)
@hypothesis.given(data=st.data())
def test_saved_bytes_are_those_of_safetensors(framework: Any, data: st.DataObject) -> None:
    theirs, ours = (
        getattr(library, {"pt": "torch", "np": "numpy"}[framework])
        for library in (safetensors, fastio)
    )
    tensors = data.draw(_tensors(framework))
    # With more keys safetensors orders them at random.
    metadata = data.draw(st.none() | st.dictionaries(_TEXT, _TEXT, max_size=1))
    hypothesis.assume(tensors or metadata != {})  # safetensors then writes an invalid file
    same = ours.save(tensors, metadata) == theirs.save(tensors, metadata)
    assert same


def test_bytes_of_every_dtype_are_those_of_safetensors(pair: tuple[Side, Side]) -> None:
    framework = FRAMEWORKS[pair[0].drop_in is safetensors.numpy]
    tensors = _all_kinds(framework)
    theirs, ours = both(pair, lambda side: side.drop_in.save(tensors, {"made by": "a test"}))
    assert type(ours) is bytes
    assert ours == theirs
    assert_same_tensors(pair[1].drop_in.load(ours), tensors)


def test_many_keys_of_metadata_are_sorted(pair: tuple[Side, Side], framework: Any) -> None:
    tensors, metadata = {"w": values(framework, "F32", (3,))}, {key: f"={key}" for key in "cab"}
    theirs, ours = both(pair, lambda side: side.drop_in.save(tensors, metadata))
    assert len(ours) == len(theirs)
    assert ours[-12:] == theirs[-12:]
    headers = [json.loads(saved[8:-12]) for saved in (theirs, ours)]
    assert headers[0] == headers[1]
    assert list(headers[1]) == ["__metadata__", "w"]
    assert list(headers[1]["__metadata__"]) == sorted(metadata)


def test_no_tensors_and_empty_metadata_come_to_a_file(framework: Any, tmp_path: Path) -> None:
    theirs, ours = sides(framework, tmp_path)
    saved = ours.drop_in.save({}, {})
    assert safetensors.deserialize(saved) == []
    with pytest.raises(safetensors.SafetensorError):  # which cannot read its own output
        safetensors.deserialize(theirs.drop_in.save({}, {}))


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metadata",
    [None, {}, {"a": ""}, {"format": "np"}, {"b": "ä\n", "a": '"', "": "\0"}],
    ids=["none", "empty", "one", "format", "many"],
)
def test_a_file_is_read_by_both_and_has_the_metadata_that_was_given(
    metadata: dict[str, str] | None, pair: tuple[Side, Side], framework: Any
) -> None:
    tensors, ours = _all_kinds(framework), pair[1]
    answers = both(pair, lambda side: side.drop_in.save_file(tensors, side.path, metadata))
    assert answers == (None, None)
    # safetensors saves some dtypes that it cannot load.
    loadable = {name: tensor for name, tensor in tensors.items() if _is_loaded(tensor)}
    with safetensors.safe_open(ours.path, framework) as file:
        assert_same_tensors({name: file.get_tensor(name) for name in loadable}, loadable)
    ours.drop_in.save_file(loadable, ours.path, metadata)
    assert_same_tensors(pair[0].drop_in.load_file(ours.path), loadable)
    ours.drop_in.save_file(tensors, ours.path, metadata)
    assert_same_tensors(fastio.load(ours.path, framework=framework, verify="require"), tensors)
    same = _data(ours.path) == _data(pair[0].path)
    assert same
    expected = metadata or {"format": "pt"}
    assert metadata_seen_by_safetensors(ours.path) == (expected, _OWN_KEYS)
    with fastio.safe_open(ours.path, framework) as file:
        assert file.metadata() == expected


def _is_loaded(tensor: Any) -> bool:
    if isinstance(tensor, np.ndarray):
        return bool(tensor.dtype.isbuiltin == 1)
    return bool(tensor.dtype != torch.float4_e2m1fn_x2)


def _data(path: Path) -> bytes:
    return path.read_bytes()[data_start(path) :]


def test_metadata_of_a_sealed_file_may_be_handed_on(
    pair: tuple[Side, Side], framework: Any
) -> None:
    ours, tensors = pair[1], {"w": values(framework, "F32", (3,))}
    ours.drop_in.save_file(tensors, ours.path, {"a": "b"})
    with safetensors.safe_open(ours.path, framework) as file:
        copied = file.metadata()
    assert copied.keys() == {"a"} | _OWN_KEYS
    other = {"other": values(framework, "F32", (5,))}
    ours.drop_in.save_file(other, ours.folder / "other", copied)
    assert_same_tensors(
        fastio.load(ours.folder / "other", framework=framework, verify="require"), other
    )
    assert fastio.safe_open(ours.folder / "other", framework).metadata() == {"a": "b"}
    assert ours.drop_in.save(other, copied) == pair[0].drop_in.save(other, {"a": "b"})


class _Path:
    """An argument for `os.fspath`."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __fspath__(self) -> str:
        return self._path


@pytest.mark.parametrize("made", [str, Path, _Path], ids=lambda made: made.__name__)
def test_a_filename_may_be_a_str_or_a_path(
    made: Any, pair: tuple[Side, Side], framework: Any
) -> None:
    tensors = {"w": values(framework, "F32", (3,))}
    for side in pair:
        side.drop_in.save_file(tensors, made(side.path))
        assert_same_tensors(side.drop_in.load_file(side.path), tensors)


def test_arguments_by_position_and_by_name(pair: tuple[Side, Side], framework: Any) -> None:
    tensors, metadata = {"w": values(framework, "F32", (3,))}, {"a": "b"}
    named: dict[str, Any] = {{"pt": "tensors", "np": "tensor_dict"}[framework]: tensors}
    for call in (
        lambda side: side.drop_in.save(tensors, metadata),
        lambda side: side.drop_in.save(tensors, metadata=metadata),
        lambda side: side.drop_in.save(metadata=metadata, **named),
    ):
        theirs, ours = both(pair, call)
        assert ours == theirs != pair[0].drop_in.save(tensors)
    for call in (
        lambda side: side.drop_in.save_file(tensors, side.path, metadata),
        lambda side: side.drop_in.save_file(tensors, filename=side.path, metadata=metadata),
        lambda side: side.drop_in.save_file(filename=str(side.path), metadata=metadata, **named),
    ):
        assert both(pair, call) == (None, None)
        assert fastio.safe_open(pair[1].path, framework).metadata() == metadata
        pair[1].path.unlink()


def test_a_file_that_cannot_be_saved_leaves_the_old_one(
    pair: tuple[Side, Side], framework: Any
) -> None:
    ours = pair[1]
    ours.drop_in.save_file({"w": values(framework, "F32", (3,))}, ours.path)
    before = ours.path.read_bytes()
    for tensors, metadata in (({"w": None}, None), ({"w": values(framework, "U8", (3,))}, {1: 2})):
        with pytest.raises((TypeError, ValueError)):
            ours.drop_in.save_file(tensors, ours.path, metadata)
    assert ours.path.read_bytes() == before
    assert os.listdir(ours.folder) == [ours.path.name]


# ---- layouts in memory --------------------------------------------------------------------------

_ARRAY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize(
    "array",
    [
        _ARRAY.T,
        np.asfortranarray(_ARRAY),
        _ARRAY[::-1],
        _ARRAY[:, ::2, 1:],
        np.broadcast_to(np.float32(7), (3, 4)),
        _ARRAY.astype(">f4"),
        _ARRAY.astype(">f4").T,
        _ARRAY.astype(">f8")[:, 1],
        _ARRAY.astype(">c8")[..., ::-1],
        np.arange(3, dtype=">u2"),
    ],
)
def test_arrays_of_any_layout_are_saved_right(array: Any, tmp_path: Path) -> None:
    expected = {"w": np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))}
    assert_same_tensors(safetensors.numpy.load(fastio.numpy.save({"w": array})), expected)
    fastio.numpy.save_file({"w": array}, tmp_path / "file")
    assert_same_tensors(safetensors.numpy.load_file(tmp_path / "file"), expected)


def test_conjugated_and_negated_views_are_saved_right(tmp_path: Path) -> None:
    tensor = torch.complex(torch.arange(3.0), torch.ones(3)).conj()
    assert torch.equal(fastio.torch.load(fastio.torch.save({"w": tensor}))["w"], tensor)
    negated = torch._neg_view(torch.arange(3.0))
    fastio.torch.save_file({"w": negated}, tmp_path / "file")
    assert safetensors.torch.load_file(tmp_path / "file")["w"].tolist() == [0, -1, -2]


def test_a_parameter_and_a_part_of_a_storage_are_saved(tmp_path: Path) -> None:
    pair = sides("pt", tmp_path)
    storage = torch.arange(12.0)
    tensors = {
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "head": storage[:4],
        "tail": storage[4:],
        "no more": storage[:0],
        "row": torch.ones(3, 1).T,
    }
    theirs, ours = both(pair, lambda side: side.drop_in.save(tensors))
    assert ours == theirs


# ---- refusals -----------------------------------------------------------------------------------

_W = torch.arange(6.0).reshape(2, 3)
_A = np.arange(6.0).reshape(2, 3)
_REFUSED: dict[str, tuple[str, Any, Any]] = {
    "a list": ("pt", [_W], None),
    "None": ("pt", None, None),
    "a module": ("pt", torch.nn.Linear(2, 2), None),
    "a mapping that is no dict": ("pt", types.MappingProxyType({"w": _W}), None),
    "an array in torch": ("pt", {"w": _A}, None),
    "a value that is None": ("pt", {"w": None}, None),
    "a sparse tensor": ("pt", {"w": _W.to_sparse()}, None),
    "a transposed tensor": ("pt", {"w": _W.T}, None),
    "a tensor with steps": ("pt", {"w": _W[:, ::2]}, None),
    "an expanded tensor": ("pt", {"w": torch.ones(1, 3).expand(2, 3)}, None),
    "a tensor twice": ("pt", {"w": _W, "x": _W}, None),
    "parts that overlap": ("pt", {"w": _W.view(-1)[:4], "x": _W.view(-1)[3:]}, None),
    "a tensor and its transpose": ("pt", {"w": _W, "x": _W.T}, None),
    "shared, and one is sparse": ("pt", {"w": _W, "x": _W, "y": _W.to_sparse()}, None),
    "on meta": ("pt", {"w": torch.empty(2, device="meta")}, None),
    "a single pair of F4": ("pt", {"w": values("pt", "F4", (2,))[0]}, None),
    "a name that is no str": ("pt", {1: _W}, None),
    "an array's name that is no str": ("np", {1: _A}, None),
    "complex128": ("np", {"w": _A.astype(np.complex128)}, None),
    "objects": ("np", {"w": np.array([None])}, None),
    "text": ("np", {"w": np.array(["a"])}, None),
    "a record": ("np", {"w": np.zeros(2, "f4,i4")}, None),
    "dates": ("np", {"w": np.array([1], "M8[s]")}, None),
    "metadata of int": ("pt", {"w": _W}, {"a": 1}),
    "a key that is no str": ("np", {"w": _A}, {1: "a"}),
    "metadata as pairs": ("np", {"w": _A}, [("a", "b")]),
}


@pytest.mark.parametrize("what", _REFUSED)
@pytest.mark.parametrize("function", ["save", "save_file"])
def test_inputs_that_safetensors_refuses_are_refused(
    what: str, function: str, tmp_path: Path
) -> None:
    framework, tensors, metadata = _REFUSED[what]

    def call(side: Side) -> Any:
        if function == "save":
            return side.drop_in.save(tensors, metadata)
        return side.drop_in.save_file(tensors, side.path, metadata)

    pair = sides(framework, tmp_path)
    theirs, ours = both(pair, call)
    assert isinstance(theirs, Refused)
    assert isinstance(ours, Refused)
    assert isinstance(ours.error, kind(theirs.error)), repr(ours.error)
    assert os.listdir(pair[1].folder) == []


@pytest.mark.parametrize("filename", [b"bytes", None, 1, "", ".", "no/such/folder"], ids=repr)
def test_a_filename_that_safetensors_refuses_is_refused(
    filename: Any, pair: tuple[Side, Side], framework: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {"w": values(framework, "F32", (3,))}
    monkeypatch.chdir(pair[1].folder)
    theirs, ours = both(pair, lambda side: side.drop_in.save_file(tensors, filename))
    assert isinstance(ours.error, kind(theirs.error)), repr(ours.error)
    assert os.listdir(pair[1].folder) == []


_COMPLEX = torch.complex(torch.zeros(2), torch.ones(2)).conj()
_OTHERWISE: dict[str, tuple[str, Any, type[Exception] | None, type[Exception] | None]] = {
    # Inputs that safetensors does not check and fails on.
    "a list of arrays": ("np", [_A], AttributeError, TypeError),
    "no array": ("np", {"w": [1.0]}, AttributeError, TypeError),
    "a scalar of numpy": ("np", {"w": np.float32(1)}, AttributeError, TypeError),
    "complex128": ("pt", {"w": _W.to(torch.complex128)}, KeyError, fastio.DtypeError),
    "text that is no UTF-8": ("pt", {"\ud800": _W}, UnicodeEncodeError, fastio.UsageError),
    # Unreadable files, or files that lack tensors of the caller.
    "the name of the metadata": ("np", {"__metadata__": _A}, None, fastio.UsageError),
    "a mask": ("np", {"w": np.ma.masked_array(_A, _A > 3)}, None, TypeError),
    # fastio has no reason to refuse it.
    "a tensor in numpy": ("np", {"w": _W}, AttributeError, None),
}


@pytest.mark.parametrize("what", _OTHERWISE)
def test_deliberate_differences_to_safetensors(what: str, tmp_path: Path) -> None:
    framework, tensors, *expected = _OTHERWISE[what]
    answers = both(sides(framework, tmp_path), lambda side: side.drop_in.save(tensors))
    for answer, error in zip(answers, expected, strict=True):
        if error is None:
            assert isinstance(answer, bytes)
        else:
            assert isinstance(answer.error, error)


def test_safetensors_still_writes_wrong_bytes_where_fastio_writes_right_ones() -> None:
    for array in (_A.T, np.asfortranarray(_A)):
        read = safetensors.numpy.load(safetensors.numpy.save({"w": array}))["w"]
        assert read.shape == array.shape
        assert read.tolist() != array.tolist()
    assert bytes_of(
        safetensors.torch.load(safetensors.torch.save({"w": _COMPLEX}))["w"]
    ) != bytes_of(_COMPLEX.resolve_conj())


def test_an_ordered_dict_is_a_dict(pair: tuple[Side, Side], framework: Any) -> None:
    tensors = collections.OrderedDict(w=values(framework, "F32", (3,)))
    theirs, ours = both(pair, lambda side: side.drop_in.save(tensors))
    assert ours == theirs
