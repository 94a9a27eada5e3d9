"""Bad input: a typed error at once that names tensor or path, and the old file is still there."""

import os
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

import fastio
from fastio.formats import checksums, headers

_GOOD = np.arange(3)


def _taken_away(step: int = 1) -> torch.Tensor:
    """Like sharded training, which gathers its tensors."""
    tensor = torch.ones(10)[::step]
    tensor.untyped_storage().resize_(0)
    return tensor


class _Name(str):
    """A str that equals only itself."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return fastio.save({"old": _GOOD}, tmp_path / "model.safetensors")


_TENSORS: dict[str, tuple[Any, type[Exception], str]] = {
    "no mapping": ([("a", _GOOD)], TypeError, "list"),
    "a name that is no str": ({"good": _GOOD, 7: _GOOD}, TypeError, "7"),
    "names that are equal as str": (
        {_Name("same"): _GOOD, _Name("same"): _GOOD},
        fastio.UsageError,
        "same",
    ),
    "the name of the metadata": ({"__metadata__": _GOOD}, fastio.UsageError, "__metadata__"),
    "a name that is no text": ({"a\udc80": _GOOD}, fastio.UsageError, "UTF-8"),
    "no tensor": ({"bad one": [1.0, 2.0]}, TypeError, "bad one"),
    "a scalar": ({"bad one": np.float32(3)}, TypeError, "bad one"),
    "objects": ({"bad one": np.array([{}, None])}, fastio.DtypeError, "bad one"),
    "text": ({"bad one": np.array(["text"])}, fastio.DtypeError, "bad one"),
    "times": ({"bad one": np.array(["2020-01-01"], "M8[s]")}, fastio.DtypeError, "bad one"),
    "complex128": ({"bad one": np.ones(2, np.complex128)}, fastio.DtypeError, "complex128"),
    "longdouble": ({"bad one": np.ones(2, np.longdouble)}, fastio.DtypeError, "bad one"),
    "records": ({"bad one": np.zeros(2, "i4,f4")}, fastio.DtypeError, "bad one"),
    "masked": ({"bad one": np.ma.masked_array([1, 2], [True, False])}, TypeError, "bad one"),
    "complex128 of torch": ({"bad one": torch.ones(2) + 1j * torch.ones(2, dtype=torch.double)},
                            fastio.DtypeError, "bad one"),
    "sparse": ({"bad one": torch.eye(3).to_sparse()}, TypeError, "bad one"),
    "meta": ({"bad one": torch.empty(3, device="meta")}, TypeError, "bad one"),
    "taken away": ({"bad one": _taken_away()}, ValueError, "bad one"),
    "steps through what was taken away": ({"bad one": _taken_away(step=2)}, ValueError, "bad one"),
    "conjugated": ({"bad one": torch.ones(2, dtype=torch.complex64).conj()}, TypeError, "bad one"),
}  # fmt: skip


@pytest.mark.parametrize("case", _TENSORS)
@pytest.mark.parametrize("save", [fastio.save, fastio.start_save])
def test_invalid_tensors_and_names_are_refused(path: Path, case: str, save: Any) -> None:
    tensors, kind, named = _TENSORS[case]
    before = path.read_bytes()
    with pytest.raises(kind, match=named):
        save(tensors, path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


_ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "metadata is no mapping": ({"metadata": "x"}, TypeError, "metadata"),
    "a key that is no str": ({"metadata": {1: "x"}}, TypeError, "1"),
    "a value that is no str": ({"metadata": {"key": 1}}, TypeError, "key"),
    "metadata that is no text": ({"metadata": {"key": "\udc80"}}, fastio.UsageError, "key"),
    "shard_bytes of 0": ({"shard_bytes": 0}, ValueError, "shard_bytes"),
    "shard_bytes is no number": ({"shard_bytes": "five"}, ValueError, "shard_bytes='five'"),
    "shard_bytes is not whole": ({"shard_bytes": 1.5}, ValueError, "shard_bytes=1.5"),
    "shard_bytes is a list": ({"shard_bytes": [5]}, TypeError, "shard_bytes"),
    "chunk_bytes too small": ({"chunk_bytes": 2**15}, ValueError, "chunk_bytes"),
    "chunk_bytes too large": ({"chunk_bytes": 2**25}, ValueError, "chunk_bytes"),
    "chunk_bytes is no power": ({"chunk_bytes": 3 * 2**16}, ValueError, "chunk_bytes"),
    "snapshot": ({"snapshot": "move"}, ValueError, "move"),
    "options": ({"options": {}}, TypeError, "options"),
    "report": ({"report": {}}, TypeError, "report"),
}


@pytest.mark.parametrize("case", _ARGUMENTS)
def test_arguments_that_cannot_be(path: Path, case: str) -> None:
    arguments, kind, named = _ARGUMENTS[case]
    before = path.read_bytes()
    save = fastio.start_save if "snapshot" in arguments else fastio.save
    with pytest.raises(kind, match=named):
        save({"a": _GOOD}, path, **arguments)
    assert path.read_bytes() == before


@pytest.mark.parametrize("bad", [7, ["x"], None, 1.5])
def test_an_invalid_path_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="path"):
        fastio.save({"a": _GOOD}, bad)


@pytest.mark.parametrize("sealed", [True, False])
def test_a_header_that_would_be_too_long(
    path: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    # Below the format's 100 MB, so that this takes less than a minute.
    for module in (checksums, headers):
        monkeypatch.setattr(module, "HEADER_BYTES_MAX", 100_000)
    before = path.read_bytes()
    tensors = {f"{i:060}": _GOOD for i in range(1000)}
    with pytest.raises(fastio.FormatError, match="100000") as raised:
        fastio.save(tensors, path, checksums=sealed)
    assert raised.value.path == str(path)
    assert path.read_bytes() == before
    folder = fastio.save(tensors, path.parent / "folder", shard_bytes=5000, checksums=sealed)
    assert len(fastio.load(folder)) == 1000


def test_a_mapping_that_is_no_dict_is_taken(path: Path) -> None:
    fastio.save(MappingProxyType({"a": _GOOD}), path, metadata=MappingProxyType({"k": "v"}))
    with fastio.open(path) as reader:
        assert (list(reader.keys()), reader.metadata["k"]) == (["a"], "v")


@pytest.mark.parametrize(
    "prepare",
    [lambda path: None, lambda path: path.unlink()],
    ids=["an old file", "no file"],
)
def test_a_limit_below_one_block_is_an_error(
    path: Path, engine: Any, prepare: Callable[[Path], None]
) -> None:
    prepare(path)
    there = os.listdir(path.parent)
    options = fastio.Options(memory_limit_bytes=2**20 - 1, engine=engine)
    with pytest.raises(fastio.MemoryLimitError) as raised:
        fastio.save({"a": _GOOD}, path, options=options)
    assert (raised.value.asked_bytes, raised.value.limit_bytes) == (2**20, 2**20 - 1)
    assert os.listdir(path.parent) == there


def test_a_failed_save_leaves_its_report_empty(path: Path) -> None:
    report = fastio.Report()
    fastio.save({"a": _GOOD}, path, report=report)
    assert report.tensors == 1
    with pytest.raises(fastio.WriteError):
        fastio.save({"a": _GOOD}, path.parent, report=report)
    assert report == fastio.Report()


def _wrapped() -> torch.Tensor:
    """Like DTensor, and tensors that hold quantized ones."""

    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls, inner: torch.Tensor) -> "Wrapper":
            made: Wrapper = torch.Tensor._make_wrapper_subclass(cls, inner.shape)
            return made

        @classmethod
        def __torch_dispatch__(cls, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    return Wrapper(torch.ones(3, 4))


def _fake() -> torch.Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(3, 4)


_NO_VALUES: dict[str, Callable[[], Any]] = {
    "wrapper": _wrapped,
    "fake": _fake,
    "functional": lambda: torch._to_functional_tensor(torch.ones(3)),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", _NO_VALUES)
@pytest.mark.parametrize("checksums", [True, False])
def test_a_tensor_that_has_no_values_of_its_own(path: Path, kind: str, checksums: bool) -> None:
    before = path.read_bytes()
    with pytest.raises(TypeError, match="bad one"):
        fastio.save({"bad one": _NO_VALUES[kind]()}, path, checksums=checksums)
    assert path.read_bytes() == before


def test_a_plain_subclass_is_a_tensor(path: Path) -> None:
    class Named(torch.Tensor):
        pass

    fastio.save({"a": torch.ones(3).as_subclass(Named)}, path)
    assert torch.equal(fastio.load(path, framework="torch")["a"], torch.ones(3))


def test_a_file_is_not_called_as_a_folder(tmp_path: Path) -> None:
    with pytest.raises(fastio.WriteError, match="shard_bytes"):
        fastio.save({"a": _GOOD}, f"{tmp_path}/checkpoint/")
    assert os.listdir(tmp_path) == []
    fastio.save({"a": _GOOD}, f"{tmp_path}/checkpoint/", shard_bytes=np.int64(100))
    assert (tmp_path / "checkpoint").is_dir()
