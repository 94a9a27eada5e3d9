"""fastio under safetensors' names beside safetensors. Each call is made on both and has the same
answer, or an error that the other's `except` catches. Deliberate differences are in `_TAKES_MORE`
and `_REFUSES`, with the reason.
"""

import contextlib
import functools
import inspect
import os
import pickle
import shutil
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

import fastio
import fastio.numpy
import fastio.torch
import testbed
from fastio.catalog.dtypes import DTYPES
from samples import bytes_of, data_start, eventually, flip, open_files, write

_FRAMEWORKS = ["pt", "np"]
_METADATA = {"format": "pt", "made by": "a test"}
_IN_NUMPY = (
    *("BOOL", "U8", "I8", "U16", "I16", "F16", "U32", "I32", "F32", "U64", "I64", "F64", "C64"),
)
_IN_TORCH = (
    *_IN_NUMPY,
    *("BF16", "F8_E5M2", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"),
)
# Neither the order of the names nor that of the sizes; large enough that loops are read ahead.
_SPEC: dict[str, tuple[str, tuple[int, ...]]] = {
    "w": ("F32", (3, 4, 5)),
    "layers.10": ("F16", (1025, 1023)),
    "layers.2": ("I8", (1000, 1001)),
    "scalar": ("F64", ()),
    "empty": ("F32", (0, 4)),
    "Z": ("U8", (5,)),
    "ä": ("I32", (2, 3)),
    "layers.1": ("F32", (700, 1000)),
    "": ("BOOL", (3,)),
}

# ---- the two beside each other ------------------------------------------------------------------


class _Side(NamedTuple):
    """One of the two libraries, and a file that it alone reads, so that its page cache stays as
    set.
    """

    library: types.ModuleType
    drop_in: types.ModuleType
    framework: Any
    path: Path

    def open(self, **arguments: Any) -> Any:
        return self.library.safe_open(self.path, self.framework, **arguments)


def _sides(framework: Any, theirs: Path, ours: Path) -> tuple[_Side, _Side]:
    name = {"pt": "torch", "np": "numpy"}[framework]
    return (
        _Side(safetensors, getattr(safetensors, name), framework, theirs),
        _Side(fastio, getattr(fastio, name), framework, ours),
    )


class _Refused(NamedTuple):
    error: Exception


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return _Refused(error)


def _is_tensor(value: object) -> bool:
    return isinstance(value, (np.ndarray, torch.Tensor))


def _assert_equal(ours: Any, theirs: Any) -> None:
    if _is_tensor(theirs):
        assert type(ours) is type(theirs)
        assert ours.dtype == theirs.dtype
        assert tuple(ours.shape) == tuple(theirs.shape)
        assert str(ours.device) == str(theirs.device)
        if isinstance(theirs, np.ndarray):
            assert ours.flags.writeable == theirs.flags.writeable
            assert ours.flags.c_contiguous
            same = ours.tobytes() == theirs.tobytes()
        else:
            same = bytes_of(ours.contiguous()) == bytes_of(theirs.contiguous())
        assert same  # `==` in the assertion would print them
    elif isinstance(theirs, Mapping):
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            _assert_equal(ours[key], value)
    elif isinstance(theirs, (list, tuple)):
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            _assert_equal(one, other)
    else:
        assert type(ours) is type(theirs)
        assert ours == theirs


def _kind(error: Exception) -> type[Exception]:
    """The error that fastio must raise for this error of safetensors."""
    if isinstance(error, safetensors.SafetensorError):
        return fastio.FastioError
    return next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")


def _assert_same_outcome(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, _Refused):
        assert isinstance(ours, _Refused), f"safetensors refuses it: {theirs.error!r}"
        assert isinstance(ours.error, _kind(theirs.error)), repr(ours.error)
    else:
        if isinstance(ours, _Refused):
            raise ours.error
        _assert_equal(ours, theirs)


def _same(sides: tuple[_Side, _Side], call: Callable[[_Side], Any]) -> Any:
    """Make a call on both; return its result."""
    theirs, ours = (_outcome(functools.partial(call, side)) for side in sides)
    _assert_same_outcome(ours, theirs)
    return ours


def _named(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Sorted by name: safetensors returns the tensors of bytes in random order."""
    return {name: answer[name] for name in sorted(answer)}


# ---- files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    """One file for each framework, sealed and not."""
    folder = tmp_path_factory.mktemp("files")
    found = {}
    for framework, dtypes in (("np", _IN_NUMPY), ("pt", _IN_TORCH)):
        spec = {**_SPEC, **{f"of.{dtype}": (dtype, (3, 8)) for dtype in dtypes}}
        plain = write(folder / f"{framework}.safetensors", spec, metadata=_METADATA)
        found[framework, False] = plain
        found[framework, True] = fastio.seal(plain, folder / f"{framework}.sealed.safetensors")
    return found


@pytest.fixture(params=_FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=["cold", "warm"])
def temperature(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=[True, False], ids=["sealed", "unsealed"])
def sides(
    request: pytest.FixtureRequest,
    framework: Any,
    temperature: str,
    written: dict[tuple[str, bool], Path],
    tmp_path: Path,
) -> Iterator[tuple[_Side, _Side]]:
    """safetensors with a plain file, fastio with the same one cold or warm, sealed or not."""
    ours = Path(shutil.copyfile(written[framework, request.param], tmp_path / "ours.safetensors"))
    with contextlib.ExitStack() as stack:
        if temperature == "warm":
            stack.enter_context(testbed.kept_warm(ours))
        else:
            testbed.evict(ours)
        yield _sides(framework, written[framework, False], ours)


@pytest.fixture
def plain_sides(framework: Any, written: dict[tuple[str, bool], Path]) -> tuple[_Side, _Side]:
    """Both with the same plain file, for tests in which reading plays no part."""
    return _sides(framework, written[framework, False], written[framework, False])


# ---- names and arguments ------------------------------------------------------------------------

_FOR_ITS_OWN_USE = {"storage_ptr", "storage_size"}


def _public(module: types.ModuleType) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__module__", "").partition(".")[0] in ("safetensors", "builtins", "")
    } | {"deserialize"}


def _parameters(function: Any) -> list[tuple[str, Any, bool]]:
    """Name, kind, and whether there is a default, of each parameter."""
    return [
        (parameter.name, parameter.kind, parameter.default is not parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    ]


def test_every_name_of_safetensors_exists(framework: Any) -> None:
    theirs, ours = _sides(framework, Path(), Path())
    expected = _public(theirs.drop_in) - _FOR_ITS_OWN_USE
    assert {"deserialize", "load", "load_file", "safe_open", "save", "save_file"} <= expected
    assert set(ours.drop_in.__all__) == expected
    assert all(hasattr(ours.drop_in, name) for name in expected)
    for name in ("safe_open", "deserialize", "serialize", "serialize_file", "TensorSpec"):
        assert getattr(ours.drop_in, name) is getattr(fastio, name)
    assert fastio.SafetensorError is fastio.FastioError


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *(("torch", name) for name in ("load", "load_file", "load_model")),
        *(("torch", name) for name in ("save", "save_file", "save_model")),
        *(("numpy", name) for name in ("load", "load_file", "save", "save_file")),
    ],
)
def test_functions_take_the_same_arguments(module: str, name: str) -> None:
    theirs = inspect.signature(getattr(getattr(safetensors, module), name)).parameters
    ours = inspect.signature(getattr(getattr(fastio, module), name)).parameters
    assert [(one.name, one.kind, one.default) for one in ours.values()] == [
        (one.name, one.kind, one.default) for one in theirs.values()
    ]


@pytest.mark.parametrize("name", ["deserialize", "serialize", "serialize_file", "TensorSpec"])
def test_functions_of_bytes_and_addresses_take_the_same_arguments(name: str) -> None:
    theirs, ours = getattr(safetensors, name), getattr(fastio, name)
    assert _parameters(ours) == _parameters(theirs)


def test_safe_open_takes_the_same_arguments_and_two_by_name() -> None:
    theirs = _parameters(safetensors.safe_open)
    ours = _parameters(fastio.safe_open)
    assert ours[: len(theirs)] == theirs
    by_name = inspect.Parameter.KEYWORD_ONLY
    assert ours[len(theirs) :] == [("verify", by_name, True), ("options", by_name, True)]


def test_safe_open_has_the_same_methods() -> None:
    public = [name for name in dir(safetensors.safe_open) if not name.startswith("_")]
    ours = {name for name in dir(fastio.safe_open) if not name.startswith("_")}
    assert ours - set(public) <= {"get_tensor_meta"}  # which safetensors has from 0.9 on
    assert ours >= set(public)
    for name in public:
        theirs = _parameters(getattr(safetensors.safe_open, name))
        assert _parameters(getattr(fastio.safe_open, name)) == theirs


def test_a_slice_has_the_same_methods(plain_sides: tuple[_Side, _Side]) -> None:
    def public(side: _Side) -> list[str]:
        part = side.open().get_slice("w")
        return [name for name in dir(type(part)) if not name.startswith("_")]

    assert _same(plain_sides, public) == ["get_dtype", "get_shape"]


@pytest.mark.parametrize(
    "opened",
    [
        lambda side: side.library.safe_open(side.path, side.framework),
        lambda side: side.library.safe_open(str(side.path), side.framework, "cpu"),
        lambda side: side.library.safe_open(side.path, side.framework, None),
        lambda side: side.library.safe_open(side.path, framework=side.framework, device="cpu"),
        lambda side: side.library.safe_open(
            filename=side.path, framework=side.framework, device="cpu", backend="pread"
        ),
        lambda side: side.library.safe_open(side.path, side.framework, backend="mmap"),
        lambda side: side.drop_in.safe_open(side.path, side.framework),
    ],
)
def test_it_opens_by_position_and_by_name(plain_sides: tuple[_Side, _Side], opened: Any) -> None:
    _same(plain_sides, lambda side: opened(side).get_tensors())


@pytest.mark.parametrize("name", ["pt", "torch", "pytorch", "np", "numpy"])
def test_frameworks_have_all_their_names(name: str, written: dict[tuple[str, bool], Path]) -> None:
    path = written["np", False]
    sides = _sides("np", path, path)
    _same(sides, lambda side: side.library.safe_open(path, name).get_tensor("w"))


# ---- results ------------------------------------------------------------------------------------


def test_names_come_in_the_same_order(sides: tuple[_Side, _Side]) -> None:
    keys = _same(sides, lambda side: side.open().keys())
    offset_keys = _same(sides, lambda side: side.open().offset_keys())
    assert keys == sorted(offset_keys) != offset_keys


def test_metadata_equals_the_stored_metadata(sides: tuple[_Side, _Side]) -> None:
    assert _same(sides, lambda side: _named(side.open().metadata())) == _named(_METADATA)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("metadata", [None, {"a": ""}])
def test_a_file_without_metadata_has_none(
    sealed: bool, metadata: Any, framework: Any, tmp_path: Path
) -> None:
    plain = write(tmp_path / "plain", {"w": ("F32", (3,))}, metadata=metadata)
    ours = fastio.seal(plain, tmp_path / "sealed") if sealed else plain
    theirs, found = (side.open().metadata() for side in _sides(framework, plain, ours))
    assert theirs == metadata
    assert found == ({"format": "pt"} if sealed and metadata is None else metadata)


@pytest.mark.parametrize("order", ["keys", "offset_keys"])
def test_tensors_one_by_one(sides: tuple[_Side, _Side], order: str) -> None:
    def one_by_one(side: _Side) -> dict[str, Any]:
        with side.open() as file:
            return {name: file.get_tensor(name) for name in getattr(file, order)()}

    assert len(_same(sides, one_by_one)) > 20


def test_a_tensor_twice_and_by_keyword(sides: tuple[_Side, _Side]) -> None:
    def twice(side: _Side) -> list[Any]:
        file = side.open()
        return [file.get_tensor("layers.2"), file.get_tensor(name="layers.2")]

    first, second = _same(sides, twice)
    first[...] = 0
    assert np.asarray(second).any()  # each owns its memory


def test_all_tensors_at_once(sides: tuple[_Side, _Side]) -> None:
    tensors = _same(sides, lambda side: side.open().get_tensors())
    assert list(tensors) == sides[1].open().offset_keys()


def test_load_file(sides: tuple[_Side, _Side]) -> None:
    _same(sides, lambda side: side.drop_in.load_file(side.path))
    _same(sides, lambda side: side.drop_in.load_file(filename=str(side.path), backend="pread"))
    if sides[0].framework == "pt":
        _same(sides, lambda side: side.drop_in.load_file(side.path, "cpu"))
        _same(sides, lambda side: side.drop_in.load_file(side.path, device="cpu"))


def test_tensors_that_were_read_can_be_written_to_and_the_file_stays(
    sides: tuple[_Side, _Side],
) -> None:
    ours = sides[1]
    before = ours.path.read_bytes()
    for tensor in ours.open().get_tensors().values():
        tensor[...] = 0
        assert bytes_of(tensor).count(0) == len(bytes_of(tensor))
    same = ours.path.read_bytes() == before
    assert same


# ---- slices -------------------------------------------------------------------------------------

_INDICES: dict[str, Any] = {
    **{repr(index): index for index in (0, 1, -1, -3, 2, 3, 5, -4, -6, 2**70)},
    "...": ...,
    "()": (),
    "None": None,
    "None, 0": (None, 0),
    "0, None": (0, None),
    "..., None": (..., None),
    ":": slice(None),
    "0:1": slice(0, 1),
    "1:": slice(1, None),
    ":2": slice(None, 2),
    ":3": slice(None, 3),
    "1:3": slice(1, 3),
    "::2": slice(None, None, 2),
    "1::2": slice(1, None, 2),
    "::100": slice(None, None, 100),
    "-1:": slice(-1, None),
    ":-1": slice(None, -1),
    "-2:-1": slice(-2, -1),
    "2:1": slice(2, 1),
    "2:2": slice(2, 2),
    "0:99": slice(0, 99),
    "99:": slice(99, None),
    "-99:99": slice(-99, 99),
    "::-1": slice(None, None, -1),
    "2:0:-1": slice(2, 0, -1),
    "::0": slice(None, None, 0),
    ":, ::0": (slice(None), slice(None, None, 0)),
    "0, 0": (0, 0),
    "0, -1, 2": (0, -1, 2),
    "0, 0, 0, 0": (0, 0, 0, 0),
    "0, ..., 0": (0, ..., 0),
    "..., 0": (..., 0),
    "..., 1:3": (..., slice(1, 3)),
    "1:3, ...": (slice(1, 3), ...),
    "..., ...": (..., ...),
    ":, 1": (slice(None), 1),
    ":, 1:3": (slice(None), slice(1, 3)),
    ":, :, ::3": (slice(None), slice(None), slice(None, None, 3)),
    "1:, 1, ::2": (slice(1, None), 1, slice(None, None, 2)),
    ":, 9": (slice(None), 9),
    "np.int64(1)": np.int64(1),
    "np.uint8(1)": np.uint8(1),
    "np.array(1)": np.array(1),
    "torch.tensor(1)": torch.tensor(1),
    "torch.tensor(-1), :": (torch.tensor(-1), slice(None)),
    "np.int64(0):np.int64(2)": slice(np.int64(0), np.int64(2)),
    "torch.tensor(0):2": slice(torch.tensor(0), 2),
    "[]": [],
    "[0]": [0],
    "[0, -1, 0]": [0, -1, 0],
    "[7]": [7],
    "range(2)": range(2),
    "np.array([1, 0])": np.array([1, 0]),
    "np.array([[1, 0]])": np.array([[1, 0]]),
    "np.array([1, 0]), 1": (np.array([1, 0]), 1),
    "torch.tensor([1, 0])": torch.tensor([1, 0]),
    "torch.tensor([1, 0]), :, 1:": (torch.tensor([1, 0]), slice(None), slice(1, None)),
    "[True, False, True]": [True, False, True],
    "torch.tensor([True, False, True])": torch.tensor([True, False, True]),
    # Parts of packed weights, as transformers takes them for tensor parallelism.
    ":, [0, 2], ...": (slice(None), [0, 2], ...),
    "..., [0, 2, 1]": (..., [0, 2, 1]),
    "[0, 1], [1, 2]": ([0, 1], [1, 2]),
    "a mask of all axes": torch.arange(60).reshape(3, 4, 5) > 20,
    "True": True,
    "False": False,
    "torch.tensor(True)": torch.tensor(True),
    "[[0, 1], [1, 0]]": [[0, 1], [1, 0]],
    "'x'": "x",
    "b'x'": b"x",
    "1.0": 1.0,
    "0, 1.5": (0, 1.5),
    "[1.5, 'x']": [1.5, "x"],
    "object": object(),
    "{}": {},
    "'a':": slice("a", None),
    "0.0:1.0": slice(0.0, 1.0),
}

_NUMPY_TAKES = (
    *("None", "None, 0", "0, None", "..., None", "-1:", ":-1", "-2:-1", "2:1", "2:2", "0:99"),
    *("99:", "-99:99", "::-1", "2:0:-1", ":2", ":3", "1:3", "1:", "...", ":", "0:1", "::2"),
    *("1::2", "::100", "..., 1:3", "1:3, ...", ":, 1", ":, 1:3", "..., 0", "[0]", "[0, -1, 0]"),
    *("range(2)", "np.array([1, 0])", "np.array([[1, 0]])", "np.array([1, 0]), 1"),
    *("torch.tensor([1, 0])", "torch.tensor([1, 0]), :, 1:", "[True, False, True]"),
    *("torch.tensor([True, False, True])", "[[0, 1], [1, 0]]", "1:, 1, ::2"),
    *("np.int64(0):np.int64(2)", "torch.tensor(0):2", "[]", "..., [0, 2, 1]"),
)
_TAKES_MORE: dict[str, tuple[tuple[str, ...], str]] = {
    "np": (
        _NUMPY_TAKES,
        "of ranges safetensors takes those within the tensor only and with a part that is not "
        "empty, and no arrays: fastio means what numpy means",
    ),
    "pt": (("::-1", "2:0:-1"), "torch has no negative steps, fastio has"),
}
_REFUSES: dict[str, tuple[tuple[str, ...], str]] = {
    "np": (
        ("True", "False", "torch.tensor(True)"),
        "safetensors takes a bool for an int, which numpy does not",
    ),
    "pt": ((), ""),
}
_OTHERWISE: dict[str, tuple[tuple[str, ...], str]] = {
    "np": ((), ""),
    "pt": (
        ("[[0, 1], [1, 0]]", str(2**70), str(-(2**70))),
        "torch takes nested lists for a tuple, and warns that it will not for long; it calls an "
        "int of more than 64 bits a ValueError, fastio an IndexError as every other out of range",
    ),
}


def _by_numpy(path: Path, name: str, index: Any, framework: Any) -> Any:
    """The part that numpy selects from the whole tensor."""
    whole = safetensors.numpy.load_file(path)[name]
    if isinstance(index, torch.Tensor):
        index = index.numpy()
    elif isinstance(index, tuple):
        index = tuple(one.numpy() if isinstance(one, torch.Tensor) else one for one in index)
    part = np.ascontiguousarray(whole[index]).reshape(whole[index].shape)
    return torch.from_numpy(part) if framework == "pt" else part


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
@pytest.mark.parametrize("index", list(_INDICES))
def test_a_slice(
    sides: tuple[_Side, _Side], index: str, written: dict[tuple[str, bool], Path]
) -> None:
    for name in ("w", "Z", "scalar", "empty"):
        _compare_slices(sides, name, index, written["np", False])


def _compare_slices(sides: tuple[_Side, _Side], name: str, index: str, path: Path) -> None:
    framework = sides[0].framework
    theirs, ours = (
        _outcome(functools.partial(_part, side, name=name, index=_INDICES[index])) for side in sides
    )
    if index in _OTHERWISE[framework][0]:
        return
    if isinstance(theirs, _Refused) and not isinstance(ours, _Refused):
        assert index in _TAKES_MORE[framework][0], theirs.error
        _assert_equal(ours, _by_numpy(path, name, _INDICES[index], framework))
    elif isinstance(ours, _Refused) and not isinstance(theirs, _Refused):
        assert index in _REFUSES[framework][0], ours.error
        assert isinstance(ours.error, fastio.FastioError)
    elif isinstance(theirs, _Refused) and (name == "scalar" or framework == "np"):
        # The call has several errors; either may be reported.
        assert isinstance(ours.error, (fastio.FastioError, _kind(theirs.error)))
    else:
        _assert_same_outcome(ours, theirs)


def test_a_single_value_is_an_array_of_no_axes(sides: tuple[_Side, _Side]) -> None:
    value = _same(sides, lambda side: side.open().get_slice("w")[0, 1, 2])
    assert value.shape == ()
    assert _is_tensor(value)


def test_a_slice_says_shape_and_dtype(sides: tuple[_Side, _Side]) -> None:
    def said(side: _Side) -> list[Any]:
        file = side.open()
        slices = [file.get_slice(name=name) for name in file.keys()]  # noqa: SIM118
        return [(one.get_shape(), one.get_dtype()) for one in slices]

    _same(sides, said)


def test_a_slice_of_each_large_tensor(sides: tuple[_Side, _Side]) -> None:
    for name in ("layers.10", "layers.2", "layers.1"):
        for index in (..., slice(3, 500), 7, (slice(None), slice(2, 100, 3)), (..., -1)):
            _same(sides, functools.partial(_part, name=name, index=index))


def _part(side: _Side, *, name: str, index: Any) -> Any:
    return side.open().get_slice(name)[index]


def test_a_slice_is_iterated_like_a_tensor(plain_sides: tuple[_Side, _Side]) -> None:
    if plain_sides[0].framework == "np":
        pytest.skip("safetensors' own loops for ever: it raises no IndexError")
    _same(plain_sides, lambda side: list(side.open().get_slice("w")))


def test_a_slice_has_no_length_and_no_shape(plain_sides: tuple[_Side, _Side]) -> None:
    _same(plain_sides, lambda side: len(side.open().get_slice("w")))
    _same(plain_sides, lambda side: side.open().get_slice("w").shape)


_STEPS = st.one_of(st.none(), st.integers(1, 7))
_BOUNDS = st.one_of(st.none(), st.integers(-9, 9))
_ITEMS = st.one_of(
    st.integers(-6, 6), st.builds(slice, _BOUNDS, _BOUNDS, _STEPS), st.none(), st.just(...)
)


@hypothesis.given(st.lists(_ITEMS, max_size=5).map(tuple))
@hypothesis.settings(max_examples=300)
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
def test_any_index_of_torch(written: dict[tuple[str, bool], Path], index: tuple[Any, ...]) -> None:
    sides = _sides("pt", written["pt", False], written["pt", True])
    _same(sides, lambda side: side.open().get_slice("w")[index])


# ---- missing names ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get_tensor", "get_slice"])
@pytest.mark.parametrize(
    "name", ["W", "__metadata__", "layers", None, 3, b"w", ["w"], ("w",), np.str_("w"), True]
)
def test_a_missing_name_is_a_key_error(
    plain_sides: tuple[_Side, _Side], method: str, name: Any
) -> None:
    def asked(side: _Side) -> Any:
        got = getattr(side.open(), method)(name)
        return got if _is_tensor(got) else got.get_shape()

    _same(plain_sides, asked)


def test_a_missing_name_is_a_python_key_error_too(plain_sides: tuple[_Side, _Side]) -> None:
    with pytest.raises(KeyError, match="did you mean 'layers"):
        plain_sides[1].open().get_tensor("layer.10")


@pytest.mark.parametrize(
    "call",
    [
        iter,
        len,
        lambda file: "w" in file,
        lambda file: file["w"],
        lambda file: file.get_tensor(),
        lambda file: file.get_tensor("w", "Z"),
        lambda file: file.get_slice(),
        lambda file: file.get_tensors("w"),
        lambda file: file.__exit__(),
    ],
)
def test_unsupported_selections_are_refused(plain_sides: tuple[_Side, _Side], call: Any) -> None:
    assert isinstance(_same(plain_sides, lambda side: call(side.open())), _Refused)


# ---- its life -----------------------------------------------------------------------------------

_USES: dict[str, Callable[[Any], Any]] = {
    "keys": lambda file: file.keys(),
    "offset_keys": lambda file: file.offset_keys(),
    "metadata": lambda file: file.metadata(),
    "get_tensor": lambda file: file.get_tensor("w"),
    "get_tensor of another": lambda file: file.get_tensor("is not there"),
    "get_tensors": lambda file: file.get_tensors(),
    "get_slice": lambda file: file.get_slice("w"),
}


@pytest.mark.parametrize("use", list(_USES))
def test_after_the_end_it_cannot_be_used(plain_sides: tuple[_Side, _Side], use: str) -> None:
    def ended(side: _Side) -> Any:
        file = side.open()
        assert file.__exit__(None, None, None) is None
        assert file.__exit__(None, None, None) is None
        return _USES[use](file)

    assert isinstance(_same(plain_sides, ended).error, fastio.SafetensorError)


def test_a_slice_outlives_its_file(sides: tuple[_Side, _Side]) -> None:
    def outlived(side: _Side) -> list[Any]:
        with side.open() as file:
            slices = [file.get_slice(name) for name in ("w", "layers.10", "layers.1", "scalar")]
            file.get_tensor("layers.2")
        del file
        return [[one.get_shape(), one.get_dtype(), one[...]] for one in slices] + [
            slices[1][3:7, ::5],
            slices[0][1],
        ]

    _same(sides, outlived)


def test_a_file_is_closed_with_its_last_slice(sides: tuple[_Side, _Side]) -> None:
    before = open_files()
    file = sides[1].open()
    part = file.get_slice("layers.1")
    for name in file.offset_keys()[:4]:  # a loop, which is read ahead
        file.get_tensor(name)
    file.__exit__(None, None, None)
    assert part._reader._access._ahead is None  # no tensor that was read ahead stays in memory
    assert part[0].shape == (1000,)
    del part
    assert eventually(lambda: open_files() == before)


def test_without_with_a_file_is_closed_with_the_object(sides: tuple[_Side, _Side]) -> None:
    before = open_files()
    file = sides[1].open()
    for name in file.offset_keys()[:4]:
        file.get_tensor(name)
    del file
    assert eventually(lambda: open_files() == before)


def test_with_gives_the_object_itself_and_lets_errors_through(
    plain_sides: tuple[_Side, _Side],
) -> None:
    def with_twice(side: _Side) -> Any:
        with side.open() as file:
            assert file.__enter__() is file
            assert file.__enter__() is file
            raise LookupError("of the caller")

    assert isinstance(_same(plain_sides, with_twice).error, LookupError)


@pytest.mark.parametrize("use", ["nothing", *_USES])
def test_with_twice_closes_at_the_first_end(plain_sides: tuple[_Side, _Side], use: str) -> None:
    def nested(side: _Side) -> Any:
        with side.open() as file:
            with file:
                pass
            with file:  # entered again, and still closed
                return _USES[use](file) if use in _USES else 0

    _same(plain_sides, nested)


def test_it_is_hashable_and_equal_to_itself_only(plain_sides: tuple[_Side, _Side]) -> None:
    def in_a_set(side: _Side) -> list[Any]:
        one, other = side.open(), side.open()
        kept = {one, other, one}
        for file in kept:
            file.__exit__(None, None, None)
        part = one  # closed, and hashable still
        return [len(kept), part in kept, one == other, one != other, bool(one), hash(one) == 0]

    _same(plain_sides, in_a_set)


def test_slices_are_hashable(plain_sides: tuple[_Side, _Side]) -> None:
    def in_a_set(side: _Side) -> int:
        file = side.open()
        return len({file.get_slice("w"), file.get_slice("w")})

    assert _same(plain_sides, in_a_set) == 2


def test_it_can_be_pickled_which_safetensors_cannot(plain_sides: tuple[_Side, _Side]) -> None:
    theirs, ours = (side.open() for side in plain_sides)
    assert isinstance(_outcome(lambda: pickle.dumps(theirs)), _Refused)
    _assert_equal(pickle.loads(pickle.dumps(ours)).get_tensor("w"), theirs.get_tensor("w"))


@pytest.mark.parametrize("how", ["get_tensor", "get_slice", "get_tensors"])
def test_four_threads_at_once(sides: tuple[_Side, _Side], how: str) -> None:
    expected = sides[0].open().get_tensors()
    file = sides[1].open()
    slices = {name: file.get_slice(name) for name in expected if how == "get_slice"}
    together = threading.Barrier(4)
    got: list[Any] = [None] * 4

    def read(thread: int) -> None:
        together.wait()
        order = list(expected) if thread % 2 else sorted(expected, reverse=thread == 2)
        if how == "get_tensors":
            got[thread] = file.get_tensors()
        elif how == "get_slice":
            got[thread] = {name: slices[name][...] for name in order}
        else:
            got[thread] = {name: file.get_tensor(name) for name in order}

    threads = [threading.Thread(target=read, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for tensors in got:
        assert tensors is not None
        _assert_equal(_named(tensors), _named(expected))


# ---- wrong inputs -------------------------------------------------------------------------------


class _Path:
    def __init__(self, path: Any) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path


_WRONG_FILES: dict[str, Callable[[Path, bytes], Any]] = {
    "missing": lambda folder, good: folder / "missing",
    "nothing": lambda folder, good: "",
    "a folder": lambda folder, good: folder,
    "empty": lambda folder, good: _with(folder, b""),
    "seven bytes": lambda folder, good: _with(folder, good[:7]),
    "garbage": lambda folder, good: _with(folder, b"this is no safetensors file at all\n" * 9),
    "zeros": lambda folder, good: _with(folder, bytes(100)),
    "no JSON": lambda folder, good: _with(folder, (2).to_bytes(8, "little") + b"[]"),
    "truncated in its header": lambda folder, good: _with(folder, good[:40]),
    "truncated": lambda folder, good: _with(folder, good[:-1]),
    "with a byte too many": lambda folder, good: _with(folder, good + b"\0"),
    "bytes": lambda folder, good: os.fsencode(_with(folder, good)),
    "a path of bytes": lambda folder, good: _Path(os.fsencode(_with(folder, good))),
    "a path of int": lambda folder, good: _Path(3),
    "a path": lambda folder, good: _Path(str(_with(folder, good))),
    "None": lambda folder, good: None,
    "int": lambda folder, good: 3,
    "a list": lambda folder, good: [str(_with(folder, good))],
    "an open file": lambda folder, good: _with(folder, good).open("rb"),
}


def _with(folder: Path, content: bytes) -> Path:
    path = folder / "made"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("file", list(_WRONG_FILES))
def test_invalid_files_are_refused(
    plain_sides: tuple[_Side, _Side], file: str, tmp_path: Path
) -> None:
    good = plain_sides[0].path.read_bytes()
    path = _WRONG_FILES[file](tmp_path, good)
    _same(plain_sides, lambda side: side.library.safe_open(path, side.framework).keys())
    _same(plain_sides, lambda side: side.drop_in.load_file(path))
    if plain_sides[0].framework == "pt":
        model = torch.nn.Linear(2, 2)
        _same(plain_sides, lambda side: side.drop_in.load_model(model, path, strict=False)[0])
    if hasattr(path, "close"):
        path.close()


def test_errors_of_the_kernel_keep_their_reason(plain_sides: tuple[_Side, _Side]) -> None:
    """safetensors raises FileNotFoundError for every error of open(2)."""
    theirs, ours = plain_sides
    below_a_file = theirs.path / "x"
    with pytest.raises(FileNotFoundError):
        theirs.library.safe_open(below_a_file, "np")
    with pytest.raises(fastio.ReadError, match="ENOTDIR"):
        ours.library.safe_open(below_a_file, "np")


def test_a_folder_is_no_file(plain_sides: tuple[_Side, _Side]) -> None:
    """Though fastio.load takes one."""
    ours = plain_sides[1]
    with pytest.raises(IsADirectoryError):
        ours.library.safe_open(ours.path.parent, "np")


@pytest.mark.parametrize("wrong", ["PT", "nope", "", "numpy ", None, 1, b"pt", ["pt"]])
def test_an_unknown_framework_name_is_refused(plain_sides: tuple[_Side, _Side], wrong: Any) -> None:
    refused = _same(plain_sides, lambda side: side.library.safe_open(side.path, wrong).keys())
    assert isinstance(refused, _Refused)


@pytest.mark.parametrize("wrong", ["nope", "", "MMAP", "uring", None, 1, b"mmap"])
def test_an_invalid_backend_is_refused(plain_sides: tuple[_Side, _Side], wrong: Any) -> None:
    for call in (
        lambda side: side.open(backend=wrong).keys(),
        lambda side: side.drop_in.load_file(side.path, backend=wrong),
    ):
        assert isinstance(_same(plain_sides, call), _Refused)


# A device that torch lacks here: safetensors opens, and the first tensor is a RuntimeError.
@pytest.mark.parametrize(
    "device", ["nope", "", "cuda:x", "meta", "CPU", -1, 1.5, b"cpu", ["cpu"], "disk", "mps"]
)
def test_an_invalid_device_is_refused(plain_sides: tuple[_Side, _Side], device: Any) -> None:
    for call in (
        lambda side: side.open(device=device).get_tensor("w"),
        lambda side: side.open(device=device).get_tensors(),
        lambda side: side.open(device=device).get_slice("w")[...],
    ):
        assert isinstance(_same(plain_sides, call), _Refused)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", 0, np.int64(0)])
def test_an_accelerator(plain_sides: tuple[_Side, _Side], device: Any) -> None:
    if torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    refused = _same(plain_sides, lambda side: side.open(device=device).get_tensor("w"))
    assert isinstance(refused, _Refused)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:0", 0])
def test_tensors_go_to_a_gpu(written: dict[tuple[str, bool], Path], device: Any) -> None:
    sides = _sides("pt", written["pt", False], written["pt", True])

    def moved(side: _Side) -> list[Any]:
        file = side.open(device=device)
        given = [file.get_tensor("w"), file.get_slice("w")[1:], file.get_tensors()["layers.1"]]
        return [(str(tensor.device), tensor.cpu()) for tensor in given]

    _same(sides, moved)


def test_torch_devices_are_accepted_unlike_in_safetensors(
    written: dict[tuple[str, bool], Path],
) -> None:
    path = written["pt", False]
    expected = safetensors.torch.load_file(path)["w"]
    devices: list[Any] = [torch.device("cpu"), "cpu:0"]
    for device in devices:
        assert torch.equal(fastio.torch.load_file(path, device)["w"], expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda side: side.library.safe_open(),
        lambda side: side.library.safe_open(side.path),
        lambda side: side.library.safe_open(side.path, side.framework, "cpu", "mmap"),
        lambda side: side.library.safe_open(side.path, side.framework, nope=1),
        lambda side: side.library.deserialize(),
        lambda side: side.library.deserialize(data=b""),
        lambda side: side.drop_in.load(),
        lambda side: side.drop_in.load_file(),
        lambda side: side.drop_in.load_file(side.path, "cpu", "mmap"),
    ],
)
def test_arguments_too_few_or_too_many(plain_sides: tuple[_Side, _Side], call: Any) -> None:
    assert isinstance(_same(plain_sides, call).error, TypeError)


# ---- bytes --------------------------------------------------------------------------------------

_NOT_IN_LOAD = {"F8_E8M0", "F4"}  # safetensors' load has no name for them, its get_tensor has


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], bytes]:
    folder = tmp_path_factory.mktemp("contents")
    found = {}
    for framework, dtypes in (("np", _IN_NUMPY), ("pt", _IN_TORCH)):
        spec = {f"of.{dtype}": (dtype, (3, 8)) for dtype in dtypes if dtype not in _NOT_IN_LOAD}
        plain = write(folder / framework, {**_SPEC, **spec}, metadata=_METADATA)
        found[framework, False] = plain.read_bytes()
        found[framework, True] = fastio.seal(plain).read_bytes()
    return found


@pytest.mark.parametrize("sealed", [True, False])
def test_bytes_are_deserialized(
    framework: Any, sealed: bool, contents: dict[tuple[str, bool], bytes]
) -> None:
    data = contents[framework, sealed]
    theirs, ours = safetensors.deserialize(data), fastio.deserialize(data)
    assert type(ours) is type(theirs)
    assert all(type(item) is tuple for item in ours)
    expected = {name: _named(tensor) for name, tensor in theirs}
    _assert_equal(_named({name: _named(tensor) for name, tensor in ours}), _named(expected))
    assert ours[0][0] == "w"  # in the order of the data
    _assert_equal(fastio.deserialize(bytes=data), ours)


@pytest.mark.parametrize("sealed", [True, False])
def test_bytes_are_loaded(
    framework: Any, sealed: bool, contents: dict[tuple[str, bool], bytes]
) -> None:
    data = contents[framework, sealed]
    sides = _sides(framework, Path(), Path())
    _same(sides, lambda side: _named(side.drop_in.load(data)))
    _same(sides, lambda side: _named(side.drop_in.load(data=data)))


@pytest.mark.parametrize(
    "wrong",
    [
        bytearray,
        memoryview,
        lambda data: np.frombuffer(data, np.uint8),
        lambda data: list(data[:9]),
        lambda data: "text",
        lambda data: None,
        lambda data: 3,
        lambda data: b"",
        lambda data: data[:7],
        lambda data: b"garbage, and no length" * 9,
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:8] + b"?" + data[9:],
    ],
)
@pytest.mark.parametrize("call", ["deserialize", "load"])
def test_invalid_bytes_are_refused(
    framework: Any, contents: dict[tuple[str, bool], bytes], wrong: Any, call: str
) -> None:
    data = wrong(contents[framework, False])
    sides = _sides(framework, Path(), Path())
    refused = _same(sides, lambda side: getattr(side.drop_in, call)(data))
    assert isinstance(refused, _Refused)


@pytest.mark.parametrize("call", ["deserialize", "load"])
@pytest.mark.parametrize("at", [0, 0.5, 1])
def test_sealed_bytes_with_one_flipped_are_refused(
    framework: Any, contents: dict[tuple[str, bool], bytes], call: str, at: float
) -> None:
    data = bytearray(contents[framework, True])
    start = 8 + int.from_bytes(data[:8], "little")
    data[start + int(at * (len(data) - start - 1))] ^= 1
    ours = _sides(framework, Path(), Path())[1]
    with pytest.raises(fastio.ChecksumError) as caught:
        getattr(ours.drop_in, call)(bytes(data))
    assert caught.value.tensors


# ---- damage -------------------------------------------------------------------------------------

_READS: dict[str, Callable[[_Side], Any]] = {
    "get_tensor": lambda side: side.open().get_tensor("layers.1"),
    "get_tensors": lambda side: side.open().get_tensors(),
    "get_slice": lambda side: side.open().get_slice("layers.1")[300:500, ::2],
    "get_slice of all": lambda side: side.open().get_slice("layers.1")[...],
    "load_file": lambda side: side.drop_in.load_file(side.path),
}


@pytest.mark.parametrize("read", list(_READS))
def test_a_damaged_file_is_refused_and_its_sound_tensors_are_read(
    framework: Any,
    temperature: str,
    read: str,
    written: dict[tuple[str, bool], Path],
    tmp_path: Path,
) -> None:
    path = Path(shutil.copyfile(written[framework, True], tmp_path / "damaged"))
    info = fastio.open(path).info("layers.1")
    flip(path, info.offset + info.nbytes // 2)
    side = _sides(framework, path, path)[1]
    with testbed.kept_warm(path) if temperature == "warm" else contextlib.nullcontext():
        if temperature == "cold":
            testbed.evict(path)
        with pytest.raises(fastio.ChecksumError) as caught:
            _READS[read](side)
        assert "layers.1" in caught.value.tensors
        assert isinstance(caught.value, fastio.SafetensorError)
        _assert_equal(
            side.open().get_tensor("w"), _sides(framework, path, path)[0].open().get_tensor("w")
        )
        unverified = side.open(verify=False).get_tensor("layers.1")
        _assert_equal(unverified, _sides(framework, path, path)[0].open().get_tensor("layers.1"))


def test_a_file_whose_header_was_changed_is_refused(
    framework: Any, written: dict[tuple[str, bool], Path], tmp_path: Path
) -> None:
    path = Path(shutil.copyfile(written[framework, True], tmp_path / "damaged"))
    raw = path.read_bytes()
    flip(path, raw.index(b'"a test"') + 3)
    assert data_start(path) == 8 + int.from_bytes(raw[:8], "little")
    with pytest.raises(fastio.SafetensorError):
        fastio.safe_open(path, framework)


# ---- dtypes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_each_dtype_is_held_as_safetensors_holds_it_or_better(
    framework: Any, dtype: str, tmp_path: Path
) -> None:
    path = write(tmp_path / dtype, {"x": (dtype, (4, 8))})
    sides = _sides(framework, path, path)
    theirs, ours = (side.open() for side in sides)
    assert ours.get_slice("x").get_shape() == theirs.get_slice("x").get_shape() == [4, 8]
    assert ours.get_slice("x").get_dtype() == theirs.get_slice("x").get_dtype() == dtype
    calls: list[Callable[[_Side], Any]] = [
        lambda side: side.open().get_tensor("x"),
        lambda side: side.open().get_tensors(),
        lambda side: side.open().get_slice("x")[1:3],
        lambda side: side.drop_in.load_file(path),
        lambda side: side.drop_in.load(path.read_bytes()),
    ]
    if dtype.startswith("F6_"):
        for call in calls:
            with pytest.raises(TypeError, match=f"'x'.*{dtype}") as caught:
                call(sides[1])
            assert isinstance(caught.value, fastio.SafetensorError)
        return
    for call in calls:
        expected, got = (_outcome(functools.partial(call, side)) for side in sides)
        if isinstance(expected, _Refused):  # fastio has a name for it, safetensors does not
            assert dtype in _NOT_IN_LOAD or (framework == "np" and dtype not in _IN_NUMPY)
            assert not isinstance(got, _Refused), got.error
        else:
            _assert_same_outcome(got, expected)
    ((_, raw),) = safetensors.deserialize(path.read_bytes())
    assert bytes_of(ours.get_tensor("x")) == bytes(raw["data"])


# ---- models -------------------------------------------------------------------------------------


class _Tied(torch.nn.Module):
    """An embedding and a head of one weight, and a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(6, 4)
        self.body = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight


class _Views(torch.nn.Module):
    """Buffers that share a storage: all of it, and parts that touch or do not."""

    def __init__(self, *parts: slice, whole: bool) -> None:
        super().__init__()
        storage = torch.zeros(12)
        if whole:
            self.register_buffer("whole", storage)
        for number, part in enumerate(parts):
            self.register_buffer(f"part{number}", storage[part])


def _loaded(side: _Side, make: Callable[[], torch.nn.Module], path: Path, **arguments: Any) -> Any:
    """The sorted result of load_model, and the model's values afterwards."""
    torch.manual_seed(0)
    model = make()
    answer = side.drop_in.load_model(model, path, **arguments)
    assert type(answer) is tuple
    missing, unexpected = answer
    assert type(missing) is set
    assert type(unexpected) is list
    return [sorted(missing), sorted(unexpected), dict(model.state_dict())]


def _same_load(path: Path, make: Callable[[], torch.nn.Module], folder: Path) -> Any:
    """Load it with both, plain and sealed, strictly and loosely; return the loose result."""
    sealed = fastio.seal(path, folder / "sealed")
    for ours in (path, sealed):
        for strict in (True, False):
            theirs, got = (
                _outcome(functools.partial(_loaded, side, make, side.path, strict=strict))
                for side in _sides("pt", path, ours)
            )
            _assert_same_outcome(got, theirs)
            if strict and "key(s) in state_dict" in str(theirs):
                assert str(got.error) == str(theirs.error)
    return got


def _saved(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    safetensors.torch.save_file(
        {name: tensor.detach().clone() for name, tensor in tensors.items()}, path
    )
    return path


_STATE = {
    "embed.weight": torch.arange(24.0).reshape(6, 4),
    "body.weight": torch.ones(4, 4),
    "body.bias": torch.full((4,), 2.0),
    "head.weight": -torch.arange(24.0).reshape(6, 4),
}


@pytest.mark.parametrize(
    ("left_out", "added", "missing", "unexpected"),
    [
        (("head.weight",), (), [], []),
        (("embed.weight",), (), [], []),
        ((), (), [], ["head.weight"]),
        (("embed.weight", "head.weight"), (), ["embed.weight"], []),
        (("head.weight", "body.bias"), (), ["body.bias"], []),
        (("head.weight",), ("more",), [], ["more"]),
        (("head.weight", "body.bias"), ("more", "another"), ["body.bias"], ["another", "more"]),
    ],
)
def test_tied_weights_and_names_that_are_missing_or_unexpected(
    left_out: tuple[str, ...],
    added: tuple[str, ...],
    missing: list[str],
    unexpected: list[str],
    tmp_path: Path,
) -> None:
    state = {name: tensor for name, tensor in _STATE.items() if name not in left_out}
    path = _saved(tmp_path / "file", state | dict.fromkeys(added, torch.zeros(2)))
    outcome = _same_load(path, _Tied, tmp_path)
    assert outcome[:2] == [missing, unexpected]


@pytest.mark.parametrize("saved_by", [_saved, fastio.save])
def test_equal_values_under_tied_names_are_no_surprise(saved_by: Any, tmp_path: Path) -> None:
    """`fastio.save` writes each name of a state dict; safetensors calls the second unexpected."""
    torch.manual_seed(1)
    saved = _Tied()
    saved.embed.weight.data[0, 0] = torch.nan
    path = tmp_path / "file"
    if saved_by is fastio.save:
        fastio.save(saved.state_dict(), path)
    else:
        _saved(path, saved.state_dict())
    for strict in (True, False):
        model = _Tied()
        assert fastio.torch.load_model(model, path, strict=strict) == (set(), [])
        for name, tensor in saved.state_dict().items():
            assert bytes_of(model.state_dict()[name]) == bytes_of(tensor)
        assert model.head.weight is model.embed.weight


def test_a_transposed_tie_is_loaded_from_both_names(tmp_path: Path) -> None:
    class _Transposed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Parameter(torch.randn(4, 6))
            self.b = torch.nn.Parameter(self.a.data.t())

    saved, loaded = _Transposed(), _Transposed()
    path = fastio.save(saved.state_dict(), tmp_path / "file")
    assert fastio.torch.load_model(loaded, path) == (set(), [])
    assert torch.equal(loaded.b, saved.a.t())
    other = {"a": saved.a, "b": torch.zeros(6, 4)}
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"b"'):
        fastio.torch.load_model(_Transposed(), fastio.save(other, tmp_path / "other"))


def test_tied_names_that_a_hook_gives_are_loaded(tmp_path: Path) -> None:
    """huggingface/safetensors#645: the names of the file are not those of the model."""

    class _Hooked(_Tied):
        def __init__(self) -> None:
            super().__init__()
            self.register_load_state_dict_pre_hook(self._rename)

        @staticmethod
        def _rename(_module: Any, state: dict[str, Any], _prefix: str, *_: Any) -> None:
            for name in [name for name in state if name.startswith("model.")]:
                state[name.removeprefix("model.")] = state.pop(name)

    torch.manual_seed(1)
    saved = _Tied()
    state = {f"model.{name}": tensor for name, tensor in saved.state_dict().items()}
    path = fastio.save(state, tmp_path / "file")
    for strict in (True, False):
        model = _Hooked()
        assert fastio.torch.load_model(model, path, strict=strict) == (set(), [])
        assert torch.equal(model.head.weight, saved.embed.weight)


def test_a_file_of_save_model_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(1)
    saved = _Tied()
    path = tmp_path / "file"
    safetensors.torch.save_model(saved, str(path))
    missing, unexpected, state = _same_load(path, _Tied, tmp_path)
    assert (missing, unexpected) == ([], [])
    _assert_equal(state, dict(saved.state_dict()))


def test_a_wrong_shape_is_refused_strictly_or_not(tmp_path: Path) -> None:
    path = _saved(tmp_path / "file", _STATE | {"body.weight": torch.ones(4, 5)})
    assert isinstance(_same_load(path, _Tied, tmp_path).error, RuntimeError)


def test_a_wrong_dtype_is_converted(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in _STATE.items() if name != "head.weight"}
    outcome = _same_load(_saved(tmp_path / "file", state), _Tied, tmp_path)
    assert outcome[2]["body.weight"].dtype is torch.float32


@pytest.mark.parametrize(
    ("parts", "whole", "in_file"),
    [
        ((slice(0, 6),), True, ("whole",)),
        ((slice(0, 6),), True, ("part0",)),
        ((slice(0, 6),), True, ("whole", "part0")),
        ((slice(0, 6), slice(6, 12)), True, ("whole",)),
        ((slice(0, 6), slice(6, 12)), False, ("part0", "part1")),
        ((slice(0, 7), slice(6, 12)), False, ("part0", "part1")),
        ((slice(0, 7), slice(6, 12)), True, ("whole",)),
        ((slice(0, 12), slice(0, 12)), True, ("part1",)),
        ((slice(0, 0), slice(3, 4)), True, ("whole", "part0")),
        ((slice(2, 8), slice(3, 4), slice(5, 6)), False, ("part0",)),
    ],
)
def test_views_of_one_storage(
    parts: tuple[slice, ...], whole: bool, in_file: tuple[str, ...], tmp_path: Path
) -> None:
    def make() -> torch.nn.Module:
        return _Views(*parts, whole=whole)

    state = make().state_dict()
    path = _saved(tmp_path / "file", {name: torch.ones_like(state[name]) for name in in_file})
    _same_load(path, make, tmp_path)


def test_a_model_on_meta_stays_there(tmp_path: Path) -> None:
    def make() -> torch.nn.Module:
        with torch.device("meta"):
            return torch.nn.Linear(4, 4)

    state = {"weight": torch.ones(4, 4), "more": torch.ones(1)}
    path = _saved(tmp_path / "file", state)
    for side in _sides("pt", path, path):
        with pytest.warns(UserWarning, match="meta"):
            missing, unexpected = side.drop_in.load_model(make(), path, strict=False)
        assert (missing, unexpected) == ({"bias"}, ["more"])


def test_load_model_by_position_and_by_name(tmp_path: Path) -> None:
    path = _saved(tmp_path / "file", {"weight": torch.ones(2, 2), "bias": torch.ones(2)})
    for ours in (path, fastio.seal(path, tmp_path / "sealed")):
        sides = _sides("pt", path, ours)
        _same(sides, lambda side: side.drop_in.load_model(torch.nn.Linear(2, 2), side.path))
        _same(
            sides,
            lambda side: side.drop_in.load_model(
                model=torch.nn.Linear(2, 2),
                filename=str(side.path),
                strict=True,
                device="cpu",
                backend="pread",
            ),
        )
        _same(
            sides,
            lambda side: side.drop_in.load_model(torch.nn.Linear(2, 2), side.path, False, "cpu"),
        )
        _same(sides, lambda side: side.drop_in.load_model(None, side.path))
        _same(sides, lambda side: side.drop_in.load_model({}, side.path))


def test_a_damaged_file_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    path = fastio.seal(_saved(tmp_path / "file", {"weight": torch.ones(2, 2)}))
    flip(path, data_start(path))
    model = torch.nn.Linear(2, 2)
    before = model.weight.detach().clone()
    with pytest.raises(fastio.ChecksumError):
        fastio.torch.load_model(model, path, strict=False)
    assert torch.equal(model.weight, before)
