"""GGUF files: quantised blocks, metadata, and hostile headers."""

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import fastio
from fastio.formats.gguf import TYPES


def _write(path: Path, writer: gguf.GGUFWriter) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_types_are_those_of_the_gguf_package() -> None:
    expected = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {number: (t.name, t.values, t.nbytes) for number, t in TYPES.items()} == expected


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "MXFP4"])
def test_quantised_tensors_come_as_blocks_that_gguf_dequantises(tmp_path: Path, kind: str) -> None:
    quantised = gguf.GGMLQuantizationType[kind]
    values = np.random.default_rng(1).random((3, 2, 512), np.float32)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("w", gguf.quants.quantize(values, quantised), raw_dtype=quantised)
    writer.add_tensor("norm", values[0, 0])
    path = _write(tmp_path / "m.gguf", writer)
    loaded = fastio.load(path)
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert np.array_equal(loaded["w"], reader["w"].data)
    assert np.array_equal(loaded["norm"], values[0, 0])
    with fastio.open(path) as opened:
        assert json.loads(opened.metadata["gguf.types"]) == {"w": kind}
        rows = opened["w"][1:2]
    expected = gguf.quants.dequantize(reader["w"].data, quantised)
    assert np.array_equal(gguf.quants.dequantize(rows, quantised), expected[1:2])


def test_metadata_come_as_texts(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_name("a model")
    writer.add_uint32("llama.block_count", 7)
    writer.add_float32("scale", 0.5)
    writer.add_bool("flag", True)
    writer.add_array("tokens", ["a", "é", ""])
    writer.add_array("scores", [1.5, -2.0])
    writer.add_custom_alignment(4096)
    writer.add_tensor("w", np.arange(5, dtype=np.float32))
    path = _write(tmp_path / "m.gguf", writer)
    with fastio.open(path) as reader:
        assert dict(reader.metadata) == {
            "general.architecture": "llama",
            "general.name": "a model",
            "general.alignment": "4096",
            "llama.block_count": "7",
            "scale": "0.5",
            "flag": "true",
            "tokens": '["a", "\\u00e9", ""]',
            "scores": "[1.5, -2.0]",
        }
        assert reader.info("w").offset % 4096 == 0
        assert np.array_equal(reader.tensor("w"), np.arange(5))


def test_a_long_vocabulary_is_read_on_from_the_first_bytes(tmp_path: Path) -> None:
    tokens = [f"token {at}" for at in range(50_000)]
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_array("tokens", tokens)
    writer.add_tensor("w", np.ones(5, np.float32))
    with fastio.open(_write(tmp_path / "m.gguf", writer)) as reader:
        assert json.loads(reader.metadata["tokens"]) == tokens
        assert np.array_equal(reader.tensor("w"), np.ones(5))


# ---- hostile headers


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def _header(
    *, version: int = 3, tensors: int = 0, pairs: int = 0, rest: bytes = b"", order: str = "<"
) -> bytes:
    return b"GGUF" + struct.pack(f"{order}IQQ", version, tensors, pairs) + rest + bytes(64)


def _tensor(name: bytes, sizes: list[int], kind: int, offset: int) -> bytes:
    numbers = struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)
    return _text(name) + numbers


_ARRAYS = struct.pack("<IQ", 9, 1)
_REFUSED: dict[str, tuple[bytes, str]] = {
    "version 1": (_header(version=1), "is GGUF of version 1"),
    "big-endian": (_header(order=">"), "is big-endian GGUF.*gguf-convert-endian"),
    "tensors": (_header(tensors=2**60), "1152921504606846976 tensors.*has room"),
    "pairs": (_header(pairs=2**60), "has room"),
    "a string": (_header(pairs=1, rest=struct.pack("<Q", 2**63)), "bytes in a string"),
    "dimensions": (
        _header(tensors=1, rest=_text(b"w") + struct.pack("<I", 2**31)),
        "2147483648 dimensions",
    ),
    "too many dimensions": (
        _header(tensors=1, rest=_tensor(b"w", [1] * 65, 0, 0)),
        "65 dimensions",
    ),
    "product": (_header(tensors=1, rest=_tensor(b"w", [2**40, 2**40], 0, 0)), r"2\*\*56 values"),
    "type": (_header(tensors=1, rest=_tensor(b"w", [1], 77, 0)), "'w' has the type 77"),
    "half a block": (_header(tensors=1, rest=_tensor(b"w", [33], 8, 0)), "rows of 33 values.*32"),
    "offset": (_header(tensors=1, rest=_tensor(b"w", [4], 0, 2**63)), "cut off"),
    "overlap": (
        _header(tensors=2, rest=_tensor(b"v", [4], 0, 0) + _tensor(b"w", [4], 0, 8)),
        "'w' shares bytes with 'v'",
    ),
    "one name": (
        _header(tensors=2, rest=_tensor(b"w", [1], 0, 0) + _tensor(b"w", [1], 0, 8)),
        "two tensors 'w'",
    ),
    "one key": (
        _header(pairs=2, rest=(_text(b"k") + struct.pack("<IB", 0, 1)) * 2),
        "the key 'k' twice",
    ),
    "value type": (_header(pairs=1, rest=_text(b"k") + struct.pack("<I", 13)), "value of type 13"),
    "array type": (
        _header(pairs=1, rest=_text(b"k") + struct.pack("<IIQ", 9, 13, 1)),
        "value of type 13",
    ),
    "array": (
        _header(pairs=1, rest=_text(b"k") + struct.pack("<IIQ", 9, 4, 2**40)),
        "1099511627776 values",
    ),
    "arrays in arrays": (
        _header(pairs=1, rest=_text(b"k") + struct.pack("<I", 9) + _ARRAYS * 1000),
        "arrays in arrays",
    ),
    "alignment": (
        _header(pairs=1, rest=_text(b"general.alignment") + struct.pack("<II", 4, 24)),
        "general.alignment 24.*power of two",
    ),
    "text for alignment": (
        _header(pairs=1, rest=_text(b"general.alignment") + struct.pack("<I", 8) + _text(b"x")),
        "general.alignment 'x'",
    ),
}


@pytest.mark.parametrize("case", list(_REFUSED))
def test_a_hostile_header_is_refused(tmp_path: Path, case: str) -> None:
    data, words = _REFUSED[case]
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(fastio.FormatError, match=words) as raised:
        fastio.load(path)
    assert raised.value.path == str(path)


@pytest.mark.parametrize("name", [b"w\xff", b"\xf0\x9f\x98"])
def test_a_name_that_is_no_utf_8_is_kept(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(_header(tensors=1, rest=_tensor(name, [4], 0, 0)))
    loaded: dict[str, Any] = fastio.load(path)
    assert [each.encode(errors="surrogateescape") for each in loaded] == [name]
