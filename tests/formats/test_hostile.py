"""Whatever bytes a file has, a load of it ends with its tensors or with one of fastio's errors."""

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastio


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.asfortranarray(np.arange(60, dtype=">i4").reshape(5, 12)))
    return file.getvalue()


def _npz(save: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    save(file, a=np.arange(60).reshape(5, 12), text=np.array(["a", "bcd"]))
    return file.getvalue()


def _torch(*, is_zip: bool) -> bytes:
    weight = torch.arange(60.0).reshape(5, 12)
    model = {"weight": weight, "tied": weight.t(), "state": [{"lr": 0.1}, (1, None)]}
    file = io.BytesIO()
    torch.save(model, file, _use_new_zipfile_serialization=is_zip)
    return file.getvalue()


def _gguf(folder: Path) -> bytes:
    writer = gguf.GGUFWriter(folder / "sample", "llama")
    writer.add_array("tokens", ["a", "b"])
    writer.add_tensor("weight", np.arange(60, dtype=np.float32).reshape(5, 12))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (folder / "sample").read_bytes()


def _hdf5() -> bytes:
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        values = np.arange(60, dtype=np.float32).reshape(5, 12)
        file["group/raw"] = values
        file.create_dataset("gzip", data=values, chunks=(2, 5), compression="gzip", shuffle=True)
        file.attrs["x"] = 1
    return data.getvalue()


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return {
        "npy": _npy(),
        "npz": _npz(np.savez),
        "npz, deflated": _npz(np.savez_compressed),
        "torch": _torch(is_zip=True),
        "torch, old": _torch(is_zip=False),
        "hdf5": _hdf5(),
        "gguf": _gguf(tmp_path_factory.mktemp("gguf")),
    }


_GGUF_PADDING = 16  # behind its only tensor of 240 bytes, up to a multiple of 32
_FORMATS = ["npy", "npz", "npz, deflated", "torch", "torch, old", "gguf", "hdf5"]
_CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.floats(0, 1), st.integers(0, 255)),
        st.tuples(st.just("number"), st.floats(0, 1), st.integers(0, 2**64 - 1)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.integers(0, 40)),
        st.tuples(st.just("repeat"), st.floats(0, 1), st.integers(0, 40)),
    ),
    min_size=1,
    max_size=4,
)


def _changed(data: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    changed = bytearray(data)
    for what, where, value in changes:
        at = int(where * len(changed))
        if what == "set":
            changed[at : at + 1] = bytes([value])
        elif what == "number":
            changed[at : at + 8] = value.to_bytes(8, "little")
        elif what == "cut":
            del changed[at : at + value]
        else:
            changed[at:at] = changed[at : at + value]
    return bytes(changed)


@pytest.mark.parametrize("format", _FORMATS)
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(changes=_CHANGES)
def test_changed_bytes_end_in_tensors_or_in_a_typed_error(
    tmp_path: Path, samples: dict[str, bytes], format: str, changes: Any
) -> None:
    path = tmp_path / "model.file"
    path.write_bytes(_changed(samples[format], changes))
    try:
        fastio.load(path)
    except fastio.FastioError as refusal:
        found: BaseException = refusal
    except MemoryError as shortage:
        found = shortage
    else:
        return
    assert str(path) in str(found)


@pytest.mark.parametrize("format", _FORMATS)
def test_a_truncated_file_is_refused_unless_padding_was_cut_off(
    tmp_path: Path, samples: dict[str, bytes], format: str
) -> None:
    path = tmp_path / "model.file"
    data = samples[format]
    path.write_bytes(data)
    whole = {name: array.tobytes() for name, array in fastio.load(path).items()}
    most = len(data) - (_GGUF_PADDING if format == "gguf" else 0)
    for nbytes in range(most, len(data)):
        path.write_bytes(data[:nbytes])
        assert {name: array.tobytes() for name, array in fastio.load(path).items()} == whole
    for nbytes in (*range(0, most, max(most // 97, 1)), most - 1):
        path.write_bytes(data[:nbytes])
        with pytest.raises(fastio.FormatError) as raised:
            fastio.load(path)
        assert raised.value.path == str(path)


_BOMBS: dict[str, bytes] = {
    # A memo index and a text of four billions; 2**40 leaves in shared lists.
    "pickle, memo": b"\x80\x02]r\xff\xff\xff\xff0.",
    "pickle, text": b"\x80\x02X\xff\xff\xff\xff.",
    "pickle, lists": b"\x80\x02]q\x00" + b"]q\x01(h\x00h\x00eq\x00" * 40 + b".",
    "pickle, itself": b"\x80\x02]q\x00h\x00a.",
    "pickle, deep": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
}


@pytest.mark.parametrize("bomb", list(_BOMBS))
def test_a_small_pickle_takes_little_memory(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", _BOMBS[bomb])
        archive.writestr("model/version", "3")
    tracemalloc.start()
    try:
        with pytest.raises(fastio.FormatError, match=r"pickle|containers"):
            fastio.load(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
