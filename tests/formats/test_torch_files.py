"""PyTorch's files: names, views, shared storages; and a pickle runs nothing."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastio

_BASE = torch.arange(1200.0).reshape(30, 40)
_VIEWS: dict[str, torch.Tensor] = {
    "base": _BASE,
    "tied": _BASE,
    "turned": _BASE.t(),
    "box": _BASE[3:7, 2:9],
    "row": _BASE[5],
    "every third": _BASE[:, ::3],
    "expanded": _BASE[:1].expand(7, 40),
    "scalar": _BASE[2, 3],
    "empty": _BASE[:0],
    "own": torch.ones(3, dtype=torch.float64),
    "long": torch.arange(2_000_000, dtype=torch.int32).reshape(1000, 2000).t(),
}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "old"])
def test_views_and_shared_storages_come_as_tensors_of_their_own(
    tmp_path: Path, is_zip: bool, engine: Any
) -> None:
    path = tmp_path / "model.pt"
    torch.save(_VIEWS, path, _use_new_zipfile_serialization=is_zip)
    options = fastio.Options(engine=engine, mapping="never")
    report = fastio.Report()
    loaded = fastio.load(path, framework="torch", options=options, report=report)
    assert set(loaded) == set(_VIEWS)
    for name, tensor in _VIEWS.items():
        assert torch.equal(loaded[name], tensor)
        assert loaded[name].is_contiguous()
    encodings = {each.encoding: set(each.tensors) for each in report.decoded}
    assert encodings["strided view"] >= {"turned", "box", "every third", "expanded", "long"}
    assert encodings["shared storage"] >= {"row", "scalar"}
    with fastio.open(path, framework="torch", options=options) as reader:
        assert torch.equal(reader["long"][5:9, 100:200], _VIEWS["long"][5:9, 100:200])
        assert torch.equal(reader.tensor("box"), _VIEWS["box"])
        assert {name for name, _ in reader.stream()} == set(_VIEWS)


def test_containers_become_dotted_names_and_other_values_metadata(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    path = tmp_path / "checkpoint.pt"
    checkpoint = {
        "model": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "notes": ["a", None, float("inf")],
        "dtype": torch.float16,
        "shape": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "history": [torch.zeros(2), {"loss": 0.5}],
    }
    torch.save(checkpoint, path)
    loaded = fastio.load(path, framework="torch")
    for name, tensor in module.state_dict().items():
        assert torch.equal(loaded[f"model.{name}"], tensor)
    for at, state in optimizer.state_dict()["state"].items():
        assert torch.equal(loaded[f"optimizer.state.{at}.exp_avg"], state["exp_avg"])
    assert torch.equal(loaded["history.0"], torch.zeros(2))
    with fastio.open(path) as reader:
        metadata = dict(reader.metadata)
    assert '"betas": [0.9, 0.999]' in metadata.pop("optimizer.param_groups")
    assert metadata == {
        "epoch": "3",
        "notes": '["a", null, Infinity]',
        "dtype": '"torch.float16"',
        "shape": "[2, 3]",
        "device": '"cpu"',
        "history.1": '{"loss": 0.5}',
    }


def test_a_single_tensor_is_named_by_its_file(tmp_path: Path) -> None:
    torch.save(_BASE, tmp_path / "embedding.pt")
    assert list(fastio.load(tmp_path / "embedding.pt")) == ["embedding"]
    torch.save(torch.nn.Parameter(_BASE), tmp_path / "layer.0.bin")
    assert list(fastio.load(tmp_path / "layer.0.bin")) == ["layer.0"]


def test_a_folder_of_an_older_release_of_transformers_is_loaded(tmp_path: Path) -> None:
    torch.save({"a": _BASE}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": _BASE.t()}, tmp_path / "pytorch_model-00002-of-00002.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(
        '{"weight_map": {"a": "pytorch_model-00001-of-00002.bin", '
        '"b": "pytorch_model-00002-of-00002.bin"}}'
    )
    for source in (tmp_path, index):
        loaded = fastio.load(source, framework="torch")
        assert torch.equal(loaded["a"], _BASE)
        assert torch.equal(loaded["b"], _BASE.t())
    index.unlink()
    torch.save({"c": _BASE}, tmp_path / "pytorch_model.bin")
    assert list(fastio.load(tmp_path)) == ["c"]


def test_a_file_of_a_big_endian_machine_is_swapped(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.arange(60.0).reshape(5, 12), "b": torch.arange(3).to(torch.uint8)}, path)
    changed = tmp_path / "big.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("byteorder"):
                content = b"big"
            elif entry.filename.endswith("data/0"):
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            new.writestr(entry.filename, content)
    loaded = fastio.load(changed)
    assert np.array_equal(loaded["w"], np.arange(60, dtype=np.float32).reshape(5, 12))
    assert np.array_equal(loaded["b"], [0, 1, 2])


# ---- what is refused


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "old"])
def test_a_conjugate_view_is_refused_and_not_taken_for_its_storage(
    tmp_path: Path, is_zip: bool
) -> None:
    numbers = torch.arange(3).to(torch.complex64) * (1 + 2j)
    for view in (numbers.conj(), numbers.conj().imag):
        torch.save({"w": view}, tmp_path / "m.pt", _use_new_zipfile_serialization=is_zip)
        with pytest.raises(fastio.FormatError, match="resolve_conj"):
            fastio.load(tmp_path / "m.pt")
    torch.save({"w": numbers.conj().resolve_conj()}, tmp_path / "m.pt")
    assert torch.equal(fastio.load(tmp_path / "m.pt", framework="torch")["w"], numbers.conj())


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"t": torch.ones(1), 1: 5, "1": 6},
        {"t": torch.ones(1), "a": {1: 5, "1": 6}},
        {"a": {"b": 1, "t": torch.ones(1)}, "a.b": 2},
        {"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)},
    ],
)
def test_two_values_that_would_have_one_name_are_refused(tmp_path: Path, checkpoint: Any) -> None:
    torch.save(checkpoint, tmp_path / "m.pt")
    with pytest.raises(fastio.FormatError, match=r"has two (values|tensors) that are called"):
        fastio.load(tmp_path / "m.pt")


def test_a_single_value_is_metadata(tmp_path: Path) -> None:
    torch.save(5, tmp_path / "m.pt")
    with fastio.open(tmp_path / "m.pt") as reader:
        assert list(reader) == []
        assert dict(reader.metadata) == {"m": "5"}


class _Runs:
    def __init__(self, *what: Any) -> None:
        self._what = what

    def __reduce__(self) -> Any:
        return self._what


_RAN: list[str] = []


@pytest.mark.parametrize(
    ("harmful", "named"),
    [
        (_Runs(os.system, ("false",)), "posix.system"),
        (_Runs(eval, ("1",)), "builtin__.eval"),
        (_Runs(_RAN.append, ("ran",)), "builtin__.getattr"),
        (np.float64(3), "numpy"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "old"])
def test_a_pickle_that_asks_for_anything_else_is_refused_by_name(
    tmp_path: Path, harmful: Any, named: str, is_zip: bool
) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": _BASE, "x": harmful}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(fastio.FormatError, match=r"asks for .*which was not run") as raised:
        fastio.load(path)
    assert named in str(raised.value)
    assert _RAN == []


def _file_of(data: bytes, *storages: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", data)
        for key, content in storages:
            archive.writestr(f"m/data/{key}", content)
    return file.getvalue()


def _tensor(
    *,
    key: bytes = b"0",
    count: int = 4,
    offset: int = 0,
    shape: int = 4,
    stride: int = 1,
    storage: bytes = b"ctorch\nFloatStorage\n",
) -> bytes:
    """The pickle of one tensor of one dimension."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    named = b"(X\x07\0\0\0storage" + storage + b"X\x01\0\0\0" + key + b"X\x03\0\0\0cpu"
    sizes = number(offset) + number(shape) + b"\x85" + number(stride) + b"\x85"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return b"\x80\x02" + call + named + number(count) + b"tQ" + sizes + b"\x89)tR."


_GOOD = ("0", bytes(16))
_BAD_PICKLES: dict[str, tuple[bytes, str]] = {
    "beyond its storage": (_file_of(_tensor(offset=1), _GOOD), "ends at byte 20 of its storage"),
    "strides beyond it": (_file_of(_tensor(stride=2), _GOOD), "ends at byte 28 of its storage"),
    "no storage": (_file_of(_tensor(key=b"1"), _GOOD), "no storage '1'"),
    "negative offset": (_file_of(_tensor(offset=-1), _GOOD), "sizes"),
    "negative stride": (_file_of(_tensor(stride=-1), _GOOD), "sizes"),
    "expanded for ever": (_file_of(_tensor(shape=2**40, stride=0), _GOOD), "share storages"),
    "huge": (_file_of(_tensor(shape=2**60, stride=0), _GOOD), r"2\*\*56 values"),
    "a storage of tensors": (_file_of(_tensor(storage=b"N"), _GOOD), "persistent id"),
    "a call of a text": (_file_of(b"\x80\x02X\x01\0\0\0a)R."), "a call of str"),
    "a call of a class": (_file_of(b"\x80\x02ctorch\nFloatStorage\n)R."), "a call of _Kind"),
    "nothing on the stack": (_file_of(b"\x80\x02R."), "damaged or cut off"),
    "too much on it": (_file_of(b"\x80\x02NN."), "damaged or cut off"),
    "an opcode of no pickle": (_file_of(b"\x80\x02\xff."), "opcode 0xff"),
    "an extension": (_file_of(b"\x80\x02\x82\x01."), "opcode 0x82"),
    "a long number": (_file_of(b"\x80\x02\x8a\xff" + bytes(255) + b"."), "255 bytes"),
    "unhashable key": (_file_of(b"\x80\x02}]Ns."), "wrong place"),
    "keys of keys": (_file_of(b"\x80\x02})" + b"\x85" * 10**6 + b"Ns."), "wrong place"),
    "members of members": (_file_of(b"\x80\x04\x8f()" + b"\x85" * 10**6 + b"\x90."), "wrong place"),
    "a set of them": (
        _file_of(b"\x80\x02c__builtin__\nset\n])" + b"\x85" * 10**6 + b"a\x85R."),
        "wrong place",
    ),
    "a device of tuples": (
        _file_of(b"\x80\x02ctorch\ndevice\n)" + b"2\x86" * 60 + b"\x85R."),
        "a device of something else",
    ),
    "the mark as a value": (_file_of(b"\x80\x02](a."), "something else than values"),
    "no end": (_file_of(b"\x80\x02N"), "damaged or cut off"),
    "no pickle": (_file_of(b"").replace(b"data.pkl", b"data.pk_"), "zip file"),
}


@pytest.mark.parametrize("case", list(_BAD_PICKLES))
def test_a_bad_pickle_is_refused(tmp_path: Path, case: str) -> None:
    data, words = _BAD_PICKLES[case]
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    with pytest.raises(fastio.FormatError, match=words) as raised:
        fastio.load(path)
    assert raised.value.path == str(path)


def test_a_deflated_pickle_is_refused(tmp_path: Path) -> None:
    """It would be a bomb: each of its bytes takes up to a hundred bytes of memory."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + b"}" * (4 << 20) + b".")
    with pytest.raises(fastio.FormatError, match="deflated"):
        fastio.load(path)


def test_a_tensor_within_its_storage_is_loaded(tmp_path: Path) -> None:
    """The samples above are refused for what is wrong with them alone."""
    path = tmp_path / "model.pt"
    path.write_bytes(_file_of(_tensor(), ("0", np.arange(4, dtype=np.float32).tobytes())))
    assert fastio.load(path)["model"].tolist() == [0, 1, 2, 3]


def test_a_program_is_no_file_of_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": _BASE}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/code/__torch__/model.py", "def forward(self): ...")
    with pytest.raises(fastio.FormatError, match=r"TorchScript.*torch\.jit\.load"):
        fastio.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(7, 2) + data[21:],
        lambda data: data[:-100],
    ],
    ids=["protocol", "cut off"],
)
def test_a_bad_row_of_pickles_is_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": _BASE}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(fastio.FormatError, match=r"protocol 7|cut off|of its storage"):
        fastio.load(path)
