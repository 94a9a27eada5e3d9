"""Metadata that another tool copied from a sealed file: the new file is an unsealed one. It loads,
is reported once, and can be sealed.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

import fastio
import fastio.numpy
import fastio.torch

_ARRAYS: dict[str, Any] = {
    "lora.down": np.arange(12, dtype=np.float32),
    "lora.up": np.ones((3, 4), np.float16),
}
_CHANGED: dict[str, Any] = {
    "lora.down": np.arange(12, dtype=np.float32) / 2,
    "lora.up": np.zeros((3, 4), "f2"),
}
_OWN_KEYS = {"fastio.header", "fastio.version", "fastio.checksums"}

Metadata = dict[str, str]


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    # No other test uses this file: each file is reported once in a process.
    metadata = {"tag": tmp_path.name}
    return fastio.save(_ARRAYS, tmp_path / "sealed.safetensors", metadata=metadata)


def _metadata(path: Path) -> Metadata:
    """Metadata as every tool sees it."""
    with safetensors.safe_open(path, "np") as file:
        found: Metadata = file.metadata()
    assert found.keys() >= _OWN_KEYS
    return found


@pytest.fixture
def copied(sealed: Path, tmp_path: Path) -> Path:
    """Other weights with the metadata of a sealed file, written by safetensors."""
    path = tmp_path / "copied.safetensors"
    safetensors.numpy.save_file(_CHANGED, path, _metadata(sealed))
    return path


def _same(found: dict[str, Any], expected: dict[str, Any] = _CHANGED) -> bool:
    arrays = {name: np.asarray(value) for name, value in found.items()}
    return arrays.keys() == expected.keys() and all(
        np.array_equal(arrays[name], value) and arrays[name].dtype == value.dtype
        for name, value in expected.items()
    )


# ---- every way to load it -----------------------------------------------------------------------


def _filled(path: Path) -> dict[str, Any]:
    arrays = {name: np.empty_like(value) for name, value in _CHANGED.items()}
    fastio.load_into(path, arrays)
    return arrays


def _streamed(path: Path) -> dict[str, Any]:
    with fastio.open(path) as reader:
        return dict(reader.stream())


def _read_one_by_one(path: Path) -> dict[str, Any]:
    with fastio.open(path) as reader:
        return {name: reader[name][...] for name in reader}


def _opened(path: Path) -> dict[str, Any]:
    with fastio.safe_open(path, "np") as file:
        assert file.metadata() == {"tag": path.parent.name, "format": "pt"}
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _deserialized(path: Path) -> dict[str, Any]:
    return {
        name: np.frombuffer(entry["data"], {"F32": "f4", "F16": "f2"}[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in fastio.deserialize(path.read_bytes())
    }


_WAYS_TO_LOAD: dict[str, Callable[[Path], dict[str, Any]]] = {
    "load": fastio.load,
    "load without verifying": lambda path: fastio.load(path, verify=False),
    "load into torch": lambda path: fastio.load(path, framework="torch"),
    "load some": lambda path: fastio.load(path, names=list(_CHANGED)),
    "load a list": lambda path: fastio.load([path]),
    "load_into": _filled,
    "stream": _streamed,
    "parts": _read_one_by_one,
    "safe_open": _opened,
    "numpy.load_file": fastio.numpy.load_file,
    "torch.load_file": fastio.torch.load_file,
    "numpy.load": lambda path: fastio.numpy.load(path.read_bytes()),
    "torch.load": lambda path: fastio.torch.load(path.read_bytes()),
    "deserialize": _deserialized,
}


@pytest.mark.parametrize("way", _WAYS_TO_LOAD)
def test_a_file_with_copied_metadata_loads_and_is_reported_once(
    copied: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert _same(_WAYS_TO_LOAD[way](copied))
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("fastio", "WARNING")
    for said in ("copied from a sealed file", "unverified", "fastio.seal"):
        assert said in record.getMessage()
    assert ("<bytes>" if "<bytes>" in record.getMessage() else str(copied)) in record.getMessage()


def test_other_contents_of_the_same_name_are_reported_again(
    sealed: Path, copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fastio.load(copied)
    safetensors.numpy.save_file(_CHANGED, copied, {**_metadata(sealed), "tag": "y"})
    fastio.load(copied)
    assert len(caplog.records) == 2


def test_listeners_receive_an_event(copied: Path) -> None:
    told: list[fastio.Event] = []
    before = fastio.on_event(told.append)
    try:
        fastio.load(copied)
    finally:
        fastio.on_event(before)
    (event,) = told
    assert (event.kind, event.path) == ("fallback", str(copied))


def test_a_file_with_copied_metadata_is_listed_as_unverified(sealed: Path, copied: Path) -> None:
    report = fastio.Report()
    fastio.load([copied], report=report)
    assert (report.unverified, report.chunks_verified) == ((str(copied),), 0)
    fastio.load_into(copied, {n: np.empty_like(a) for n, a in _CHANGED.items()}, report=report)
    assert report.unverified == (str(copied),)
    with fastio.open(copied) as reader:
        assert reader.report.unverified == (str(copied),)
        assert reader.metadata == {"tag": copied.parent.name, "format": "pt"}
    assert "lora.up" in fastio.load(sealed, verify="require")


def test_a_file_with_copied_metadata_is_refused_if_verification_is_required(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = {name: np.empty_like(value) for name, value in _CHANGED.items()}
    for load in (
        lambda: fastio.load(copied, verify="require"),
        lambda: fastio.open(copied, verify="require"),
        lambda: fastio.load_into(copied, arrays, verify="require"),
        lambda: fastio.safe_open(copied, "np", verify="require"),
    ):
        with pytest.raises(fastio.FormatError, match="copied from a sealed file") as raised:
            load()
        assert "fastio.seal" in str(raised.value)
    assert caplog.messages == []  # a refused file is not reported as well


def test_one_file_of_a_folder_may_have_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = fastio.save(_ARRAYS, tmp_path / "model", shard_bytes=40)
    paths = sorted(folder.glob("*.safetensors"))
    assert len(paths) == 2
    changed = paths[1]
    tensors = safetensors.numpy.load_file(changed)
    safetensors.numpy.save_file(tensors, changed, _metadata(changed))
    report = fastio.Report()
    assert _same(fastio.load(folder, report=report), _ARRAYS)
    assert report.unverified == (str(changed),)
    assert len(caplog.records) == 1
    # A load of the other file is verified.
    (other,) = set(_ARRAYS) - set(tensors)
    fastio.load(folder, names=[other], verify="require")


# ---- every way to copy it -----------------------------------------------------------------------


def _parsed(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]


def _edited(path: Path, change: Callable[[Metadata], None], *, alignment: int = 8) -> None:
    """The header written anew with other metadata, as editors of tags do, and the data kept."""
    header, data = _parsed(path)
    change(header["__metadata__"])
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % alignment)
    assert (8 + len(text)) % 4096
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _by_torch(path: Path) -> None:
    safetensors.torch.save_file(
        {name: torch.from_numpy(array) for name, array in _ARRAYS.items()}, path, _metadata(path)
    )


def _only(*keys: str) -> Callable[[Path], None]:
    def change(metadata: Metadata) -> None:
        for key in set(metadata) - set(keys):
            del metadata[key]

    return lambda path: _edited(path, change)


_WAYS_TO_COPY: dict[str, Callable[[Path], None]] = {
    "safetensors.torch": _by_torch,
    "a tag edited": lambda path: _edited(path, lambda m: m.update(tag="edited")),
    "nothing edited": lambda path: _edited(path, lambda m: None),
    "a tag added": lambda path: _edited(path, lambda m: m.update(more="x" * 50)),
    "a tag added, not padded": lambda path: _edited(path, lambda m: m.update(a="x"), alignment=1),
    "padded to a line": lambda path: _edited(path, lambda m: m.update(a="x"), alignment=64),
    "padded to a sector": lambda path: _edited(path, lambda m: m.update(a="x"), alignment=512),
    "sorted": lambda path: _edited(
        path, lambda m: m.update({key: m.pop(key) for key in sorted(m)})
    ),
    "reversed": lambda path: _edited(
        path, lambda m: m.update({key: m.pop(key) for key in sorted(m, reverse=True)})
    ),
    "only the digest": _only("fastio.header"),
    "only the version": _only("fastio.version"),
    "only the table": _only("fastio.checksums"),
    "all but the digest": _only("fastio.version", "fastio.checksums", "tag"),
    "a version to come": lambda path: _edited(path, lambda m: m.update({"fastio.version": "2"})),
    "a key that fastio has not": lambda path: _edited(path, lambda m: m.update({"fastio.x": ""})),
    "a prefix put before": lambda path: _edited(
        path, lambda m: m.update({f"fastio.base.{key}": m.pop(key) for key in list(m)})
    ),
}


@pytest.mark.parametrize("way", _WAYS_TO_COPY)
def test_however_it_was_copied_it_loads_and_can_be_sealed(sealed: Path, way: str) -> None:
    _WAYS_TO_COPY[way](sealed)
    report = fastio.Report()
    assert _same(fastio.load(sealed, report=report), _ARRAYS)
    assert report.unverified == (str(sealed),)
    with fastio.open(sealed) as reader:
        users = dict(reader.metadata)
    assert not any(key.startswith("fastio.") for key in users)
    fastio.seal(sealed)
    assert _same(fastio.load(sealed, verify="require"), _ARRAYS)
    with fastio.open(sealed) as reader:
        assert reader.metadata == (users or {"format": "pt"})
    before = sealed.read_bytes()
    assert fastio.seal(sealed).read_bytes() == before


def test_a_header_of_the_length_of_a_sealed_one_may_be_damaged(
    sealed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the headers that others pad to 8 bytes, one in 512 cannot be told from damage."""
    header, data = _parsed(sealed)
    header["__metadata__"]["tag"] = "y"
    text = json.dumps(header, separators=(",", ":")).encode().ljust(4096 - 8)
    sealed.write_bytes(struct.pack("<Q", len(text)) + text + data)
    arrays = {name: np.empty_like(value) for name, value in _ARRAYS.items()}
    for load in (
        lambda: fastio.load(sealed),
        lambda: fastio.load(sealed, verify="require"),
        lambda: fastio.open(sealed),
        lambda: fastio.load_into(sealed, arrays),
        lambda: fastio.safe_open(sealed, "np"),
        lambda: fastio.numpy.load_file(sealed),
        lambda: fastio.numpy.load(sealed.read_bytes()),
        lambda: fastio.deserialize(sealed.read_bytes()),
        lambda: fastio.seal(sealed),
    ):
        with pytest.raises(fastio.FormatError) as raised:
            load()
        for said in ("damaged", "copied from another", "verify=False", "force=True"):
            assert said in str(raised.value)
    assert caplog.messages == []
    assert _same(fastio.load(sealed, verify=False), _ARRAYS)
    fastio.load_into(sealed, arrays, verify=False)
    assert _same(arrays, _ARRAYS)
    with fastio.open(sealed, verify=False) as reader:
        assert _same(reader.load(), _ARRAYS)
        assert reader.report.unverified == (str(sealed),)
    assert _same(fastio.safe_open(sealed, "np", verify=False).get_tensors(), _ARRAYS)
    assert len(caplog.messages) == 1
    fastio.seal(sealed, force=True)
    assert _same(fastio.load(sealed, verify="require"), _ARRAYS)


def test_damage_is_reported_before_the_names_that_it_changed(sealed: Path, tmp_path: Path) -> None:
    content = sealed.read_bytes()
    sealed.write_bytes(content.replace(b'"lora.up":', b'"lora.uq":'))
    arrays = {name: np.empty_like(value) for name, value in _ARRAYS.items()}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(_ARRAYS, sealed.name)}))
    for load in (
        lambda: fastio.load(sealed, names=["lora.up"]),
        lambda: fastio.load_into(sealed, arrays),
        lambda: fastio.load_into(sealed, arrays, strict=False),
    ):
        with pytest.raises(fastio.FormatError, match="the checksum of its header"):
            load()
    for load in (
        lambda: fastio.load(index),
        lambda: fastio.load(index, names=["lora.up"]),
        lambda: fastio.load_into(index, arrays),
    ):
        with pytest.raises(fastio.FormatError, match=r"sealed\.safetensors"):
            load()
    with pytest.raises(fastio.TensorNotFoundError, match=r"lora\.uq"):
        fastio.load(sealed, names=["lora.up"], verify=False)


@pytest.mark.parametrize("verify", [True, False])
def test_offsets_that_do_not_fit_are_refused_for_every_value_of_verify(
    sealed: Path, copied: Path, verify: bool
) -> None:
    for path in (sealed, copied):
        content = path.read_bytes()
        assert content.count(b'"data_offsets":[0,48]') == 1
        path.write_bytes(content.replace(b'"data_offsets":[0,48]', b'"data_offsets":[0,44]'))
        with pytest.raises(fastio.FormatError, match="lora"):
            fastio.load(path, verify=verify)
        path.write_bytes(content.replace(b'"dtype":"F32"', b'"dtype":"F23"'))
        with pytest.raises(fastio.FormatError, match="unknown dtype 'F23'"):
            fastio.load(path, verify=verify)
        path.write_bytes(content + b"\0")
        with pytest.raises(fastio.FormatError, match="behind its last tensor"):
            fastio.load(path, verify=verify)


# ---- every way fastio writes it -----------------------------------------------------------------


def _saved_in_a_store(folder: Path, metadata: Metadata) -> Metadata:
    with fastio.Store.create([folder], replicas=1) as store:
        store.save(_ARRAYS, metadata=metadata)
    (shard,) = (folder / "shards").iterdir()
    assert _same(fastio.load(shard, verify="require"), _ARRAYS)
    with fastio.open(folder) as reader:
        return dict(reader.metadata)


def _saved(path: Path, write: Callable[[], object]) -> Metadata:
    write()
    assert _same(fastio.load(path, verify="require"), _ARRAYS)
    with fastio.open(path) as reader:
        return dict(reader.metadata)


_TENSORS = {name: torch.from_numpy(array) for name, array in _ARRAYS.items()}
_WAYS_TO_WRITE: dict[str, Callable[[Path, Metadata], Metadata]] = {
    "save": lambda path, m: _saved(path, lambda: fastio.save(_ARRAYS, path, metadata=m)),
    "save of shards": lambda path, m: _saved(
        path, lambda: fastio.save(_ARRAYS, path, metadata=m, shard_bytes=40)
    ),
    "torch.save_file": lambda path, m: _saved(
        path, lambda: fastio.torch.save_file(_TENSORS, path, m)
    ),
    "numpy.save_file": lambda path, m: _saved(
        path, lambda: fastio.numpy.save_file(_ARRAYS, path, m)
    ),
    "a store": _saved_in_a_store,
}


@pytest.mark.parametrize("way", _WAYS_TO_WRITE)
def test_fastio_copies_the_users_part_only(sealed: Path, tmp_path: Path, way: str) -> None:
    target = tmp_path / "written"
    if way == "a store":
        target.mkdir()
    assert _WAYS_TO_WRITE[way](target, _metadata(sealed)) == {
        "tag": tmp_path.name,
        "format": "pt",
    }


def test_bytes_with_only_fastios_copied_keys_have_no_metadata(sealed: Path) -> None:
    own = {key: value for key, value in _metadata(sealed).items() if key.startswith("fastio.")}
    assert fastio.numpy.save(_ARRAYS, own) == fastio.numpy.save(_ARRAYS)
    assert fastio.torch.save(_TENSORS, own) == fastio.torch.save(_TENSORS)


def test_bytes_have_the_users_part_only(sealed: Path) -> None:
    for content in (
        fastio.numpy.save(_ARRAYS, _metadata(sealed)),
        fastio.torch.save(_TENSORS, _metadata(sealed)),
    ):
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        assert header["__metadata__"] == {"tag": sealed.parent.name, "format": "pt"}
