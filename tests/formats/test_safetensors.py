"""The header parser accepts the format and refuses everything else with the offset."""

import json
import re
import struct
from pathlib import Path
from typing import Any, cast

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors as reference
from safetensors.numpy import save_file

import fastio
from fastio import _native
from fastio.catalog import Shard
from fastio.catalog.dtypes import DTYPES
from fastio.formats import safetensors

_HEADER_AT = 8
_TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def _content(header: str | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(text)) + text + data


def _with(data_bytes: int = 8, name: str = "w", **fields: Any) -> bytes:
    """A file of one tensor with some fields changed; None leaves a field out."""
    entry = {k: v for k, v in {**_TENSOR, **fields}.items() if v is not None}
    return _content(json.dumps({name: entry}), bytes(data_bytes))


def _two(a: list[int], b: list[int], data_bytes: int) -> bytes:
    entries = {
        name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for name, (begin, end) in {"a": a, "b": b}.items()
    }
    return _content(json.dumps(entries), bytes(data_bytes))


def _nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def _locate(path: Path, content: bytes) -> Shard:
    path.write_bytes(content)
    return safetensors.locate(_native.File(path))


_W = '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
_DEEP = '{"w":' * 50_000

# The fault, the file, words of the message, and its offset (None: any offset).
_BAD: dict[str, tuple[bytes, tuple[str, ...], int | None]] = {
    "empty": (b"", ("0 bytes long",), 0),
    "7 bytes": (b"\x02" + bytes(6), ("7 bytes long",), 0),
    "header of 0 bytes": (_content(b"", b"{}"), ("gives its header 0 bytes",), 0),
    "header of 1 byte": (_content(b"{", b"}"), ("gives its header 1 bytes",), 0),
    "header longer than the file": (
        struct.pack("<Q", 95) + bytes(92),
        ("95 bytes", "2 to 100000000", "92 follow"),
        0,
    ),
    "header of 2**63": (struct.pack("<Q", 2**63) + bytes(92), (str(2**63),), 0),
    "header of 2**64 - 1": (struct.pack("<Q", 2**64 - 1) + bytes(92), (str(2**64 - 1),), 0),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", ("LFS pointer",), 0),
    "a zip": (b"PK\x03\x04" + bytes(100), ("a zip file",), 0),
    "GGML": (b"lmgg" + bytes(100), ("a GGML file",), 0),
    "a shape of many fractions": (
        _content('{"w":{"dtype":"F32","shape":[' + "0.5," * 99_999 + '1],"data_offsets":[0,8]}}'),
        ("0.5",),
        None,
    ),
    "a shape of many objects": (
        _content('{"w":{"dtype":"F32","shape":[' + "{}," * 99_999 + '1],"data_offsets":[0,8]}}'),
        ("shape",),
        None,
    ),
    "not UTF-8": (_content(b'{"\xff":{}}'), ("not UTF-8",), 10),
    "a UTF-8 surrogate": (_content(b'{"\xed\xa0\x80":{}}'), ("not UTF-8",), 10),
    "half of a surrogate pair": (_content('{"\\ud800":1}'), ("surrogate",), None),
    "not JSON": (_content('{"w":}'), ("not JSON",), 13),
    "a trailing comma": (_content(_W + ",}", bytes(8)), ("not JSON",), None),
    "a trailing comma behind metadata": (_content('{"__metadata__":{},}'), ("not JSON",), None),
    "NaN": (_content('{"w":NaN}'), ("NaN",), 13),
    "a control character": (_content('{"w\x01":1}'), ("not JSON",), 11),
    "no object": (_content("[]"), ("begins with b'['",), 8),
    "a string": (_content('"w"'), ("begins with",), 8),
    "nothing but spaces": (_content("    "), ("begins with b''",), 8),
    "a form feed first": (_content("\f{}"), ("begins with b'\\x0c'",), 8),
    "spaces and a letter": (_content("  x{}"), ("begins with b'x'",), 10),
    "a byte order mark": (_content(b"\xef\xbb\xbf{}"), ("begins with",), 8),
    "nested deeply": (_content(_DEEP + "1" + "}" * 50_000), ("nests too deeply",), 8),
    "nested deeply in metadata": (
        _content('{"__metadata__":' + "[" * 50_000 + "]" * 50_000 + "}"),
        ("nests too deeply",),
        8,
    ),
    "padded with NUL": (_content(_W + "}\0\0", bytes(8)), ("ends with b'\\x00'",), None),
    "padded with form feeds": (_content(_W + "}\f", bytes(8)), ("ends with b'\\x0c'",), None),
    "padded with spaces of other kinds": (
        _content(_W + "}\u00a0", bytes(8)),
        ("ends with b'\\xa0'",),
        None,
    ),
    "two objects": (_content("{} {}"), ("not JSON",), 11),
    "a name twice": (_content(_W + "," + _W[1:] + "}", bytes(8)), ("'w' twice",), None),
    "a name twice, once escaped": (
        _content(_W + "," + _W[1:].replace("w", "\\u0077") + "}", bytes(8)),
        ("'w' twice",),
        None,
    ),
    "a field twice": (
        _content(_W[:-1] + ',"dtype":"F32"}}', bytes(8)),
        ("'dtype' twice",),
        None,
    ),
    "a field twice beside an escaped colon": (
        _content(_W.replace("w", "\\u003a")[:-1] + ',"dtype":"F32"}}', bytes(8)),
        ("'dtype' twice",),
        None,
    ),
    "metadata twice": (
        _content('{"__metadata__":{},"__metadata__":{}}'),
        ("'__metadata__' twice",),
        None,
    ),
    "a key of metadata twice": (
        _content('{"__metadata__":{"a":"1","a":"1"}}'),
        ("'a' twice",),
        None,
    ),
    "metadata that is null, and then not": (
        _content('{"__metadata__":null,"__metadata__":{}}'),
        ("'__metadata__' twice",),
        None,
    ),
    "metadata is false": (_content('{"__metadata__":false}'), ("__metadata__", "False"), 9),
    "metadata is nul": (_content('{"__metadata__":nul}'), ("not JSON",), 24),
    "metadata is a list": (_content('{"__metadata__":["a"]}'), ("__metadata__",), 9),
    "metadata is a number": (_content('{"__metadata__":1}'), ("__metadata__",), 9),
    "metadata of numbers": (_content('{"__metadata__":{"a":1}}'), ("'a'", "strings"), 25),
    "metadata of objects": (_content('{"__metadata__":{"a":{}}}'), ("'a'", "strings"), 25),
    "metadata of null": (_content('{"__metadata__":{"a":null}}'), ("'a'", "strings"), 25),
    "metadata twice, once escaped": (
        _content('{"__metadata__":{},"\\u005f_metadata__":{}}'),
        ("'__metadata__' twice",),
        None,
    ),
    "metadata first and last": (
        _content('{"__metadata__":{},' + _W[1:] + ',"__metadata__":{}}', bytes(8)),
        ("'__metadata__' twice",),
        None,
    ),
    "a key of metadata twice before a tensor": (
        _content('{"__metadata__":{"a":"1","a":"1"},' + _W[1:] + "}", bytes(8)),
        ("'a' twice",),
        None,
    ),
    "metadata of numbers before a tensor": (
        _content('{"__metadata__":{"a":1},' + _W[1:] + "}", bytes(8)),
        ("'a'", "strings"),
        25,
    ),
    "metadata of lists of pairs": (
        _content('{"__metadata__":[["a","b"]],' + _W[1:] + "}", bytes(8)),
        ("__metadata__",),
        9,
    ),
    "metadata of half a pair": (
        _content('{"__metadata__":{"a":"\\udc00"}}'),
        ("surrogate",),
        None,
    ),
    "metadata that is not UTF-8": (_content(b'{"__metadata__":{"a":"\xff"}}'), ("not UTF-8",), 30),
    "no comma behind metadata": (
        _content('{"__metadata__":{}"w":1}'),
        ("not JSON",),
        26,
    ),
    "metadata like a tensor": (
        _content(json.dumps({"w": _TENSOR, "__metadata__": _TENSOR}), bytes(8)),
        ("__metadata__",),
        None,
    ),
    "a tensor that is no object": (_content('{"w":[]}'), ("'w'", "no object"), 9),
    "a tensor that is null": (_content('{"w":null}'), ("'w'", "no object"), 9),
    "no dtype": (_with(dtype=None), ("'w'", "'shape'"), 9),
    "no shape": (_with(shape=None), ("'w'", "'dtype'"), 9),
    "no data_offsets": (_with(data_offsets=None), ("'w'", "'dtype'"), 9),
    "another field in the place of one": (_with(shape=None, size=[2]), ("'w'", "'size'"), 9),
    "an ignored field twice": (
        _content(_W[:-1] + ',"strides":1,"strides":1}}', bytes(8)),
        ("'strides' twice",),
        None,
    ),
    "a field twice within an ignored one": (
        _content(_W[:-1] + ',"more":[{"a":1,"a":2}]}}', bytes(8)),
        ("'a' twice",),
        None,
    ),
    "half of a surrogate pair within an ignored field": (
        _content(_W[:-1] + ',"more":[["\\ud800"]]}}', bytes(8)),
        ("surrogate",),
        None,
    ),
    "an ignored field that nests deeply": (_with(more=_nested(126)), ("'w'", "too deeply"), 9),
    "an ignored field beyond all numbers": (
        _content(_W[:-1] + ',"more":1e999}}', bytes(8)),
        ("not JSON", "beyond"),
        8,
    ),
    "an ignored field of 400 digits": (
        _content(_W[:-1] + f',"more":{"9" * 400}}}}}', bytes(8)),
        ("not JSON", "beyond"),
        8,
    ),
    "an ignored field that is NaN": (_content(_W[:-1] + ',"more":NaN}}', bytes(8)), ("NaN",), None),
    "an unknown dtype": (_with(dtype="F128"), ("'w'", "unknown dtype 'F128'", "BF16"), 9),
    "a dtype in lower case": (_with(dtype="f32"), ("unknown dtype 'f32'",), 9),
    "a dtype that is a number": (_with(dtype=4), ("'w'", "dtype 4"), 9),
    "a dtype with a colon": (_with(dtype=":F32"), ("unknown dtype",), 9),
    "a dtype that is null": (_content(_W.replace('"F32"', "null") + "}", bytes(8)), ("None",), 9),
    "an empty dtype": (_with(dtype=""), ("unknown dtype ''",), 9),
    "a shape that is a number": (_with(shape=2), ("'w'", "shape 2"), 9),
    "a shape that is null": (
        _content(_W.replace("[2]", "null") + "}", bytes(8)),
        ("shape None",),
        9,
    ),
    "a negative shape": (_with(shape=[-2]), ("'w'", "shape [-2]"), 9),
    "two negative lengths": (_with(shape=[-1, -2]), ("'w'", "shape [-1, -2]"), 9),
    "a shape of -0": (_content(_W.replace("[2]", "[-0]") + "}", bytes(8)), ("shape [-0.0]",), 9),
    "a fractional shape": (_with(shape=[2.0]), ("'w'", "shape [2.0]"), 9),
    "an exponent": (_content(_W.replace("[2]", "[2e0]") + "}", bytes(8)), ("shape [2.0]",), 9),
    "a shape of bool": (_with(shape=[True, 2]), ("'w'", "shape [True, 2]"), 9),
    "a shape of strings": (_with(shape=["2"]), ("'w'", "shape ['2']"), 9),
    "a huge shape": (_with(shape=[2**62]), ("'w'", "2**56 values"), 9),
    "a shape beyond 64 bits": (_with(shape=[2**64 + 2]), ("'w'", "2**56 values"), 9),
    "a shape that overflows": (_with(shape=[2**32, 2**32, 2]), ("'w'", "2**56 values"), 9),
    "a shape that overflows to its size": (
        _with(shape=[2**61 + 1, 2], data_offsets=[0, 8]),
        ("'w'", "2**56 values"),
        9,
    ),
    "an overflow hidden by a zero": (
        _with(0, shape=[2**62, 2**62, 0], data_offsets=[0, 0]),
        ("'w'", "2**56 values"),
        9,
    ),
    "65 dimensions": (_with(4, shape=[1] * 65, data_offsets=[0, 4]), ("65 dimensions",), 9),
    "a number of many digits": (
        _content(_W.replace("[2]", f"[{'9' * 5000}]") + "}", bytes(8)),
        ("not JSON", "smaller numbers"),
        8,
    ),
    "offsets of one number": (_with(data_offsets=[0]), ("'w'", "data_offsets [0]"), 9),
    "offsets of three numbers": (_with(data_offsets=[0, 8, 8]), ("data_offsets [0, 8, 8]",), 9),
    "no offsets": (_with(data_offsets=[]), ("'w'", "data_offsets []"), 9),
    "offsets that are null": (
        _content(_W.replace("[0,8]", "null") + "}", bytes(8)),
        ("data_offsets None",),
        9,
    ),
    "offsets that are an object": (_with(data_offsets={"0": 8}), ("data_offsets {'0': 8}",), 9),
    "offsets of bool": (_with(data_offsets=[False, 8]), ("data_offsets [False, 8]",), 9),
    "an offset of -0": (
        _content(_W.replace("[0,8]", "[-0,8]") + "}", bytes(8)),
        ("data_offsets [-0.0, 8]",),
        9,
    ),
    "both offsets at 2**63": (
        _with(shape=[0], data_offsets=[2**63, 2**63]),
        ("'w'", f"ends at byte {2**63}"),
        9,
    ),
    "offsets of 64 bits that wrap": (
        _with(data_offsets=[2**64, 2**64 + 8]),
        ("'w'", f"ends at byte {2**64 + 8}"),
        9,
    ),
    "an empty tensor beyond the file": (
        _two([0, 8], [9, 9], 8),
        ("'b'", "ends at byte 9"),
        None,
    ),
    "an empty tensor with bytes": (_with(shape=[0]), ("'w'", "8 bytes", "expected 0"), 9),
    "negative offsets": (_with(data_offsets=[-8, 0]), ("data_offsets [-8, 0]",), 9),
    "fractional offsets": (_with(data_offsets=[0, 8.0]), ("data_offsets [0, 8.0]",), 9),
    "offsets of strings": (_with(data_offsets=["0", "8"]), ("data_offsets",), 9),
    "reversed offsets": (_with(data_offsets=[8, 0]), ("'w'", "before it begins"), 9),
    "offsets beyond the file": (
        _with(data_offsets=[0, 16], shape=[4]),
        ("'w'", "byte 16", "8 bytes"),
        9,
    ),
    "offsets beyond 64 bits": (_with(data_offsets=[0, 2**64]), ("'w'", str(2**64)), 9),
    "offsets at odds with the shape": (_with(shape=[3]), ("'w'", "8 bytes", "expected 12"), 9),
    "offsets at odds with the dtype": (_with(dtype="F64"), ("'w'", "8 bytes", "expected 16"), 9),
    "half a byte": (
        _with(1, dtype="F4", shape=[1], data_offsets=[0, 1]),
        ("'w'", "expected 0.5"),
        9,
    ),
    "a byte and a half": (
        _with(2, dtype="F6_E2M3", shape=[2], data_offsets=[0, 2]),
        ("'w'", "2 bytes", "expected 1.5"),
        9,
    ),
    "overlapping": (_two([0, 6], [4, 8], 8), ("'b'", "overlaps"), None),
    "a hole at the start": (_two([1, 4], [4, 8], 8), ("'a'", "hole"), None),
    "a hole in between": (_two([0, 3], [4, 8], 8), ("'b'", "hole"), None),
    "one inside another": (_two([0, 8], [2, 6], 8), ("'b'", "overlaps"), None),
    "a hole at the start of an unordered file": (
        _two([4, 8], [1, 4], 8),
        ("'b'", "hole"),
        None,
    ),
    "a hole of an empty tensor": (_two([0, 4], [6, 6], 8), ("'b'", "hole"), None),
    "the same bytes twice": (_two([0, 8], [0, 8], 8), ("overlaps",), None),
    "an empty tensor inside another": (_two([0, 8], [4, 4], 8), ("overlaps",), None),
    "trailing bytes": (_two([0, 4], [4, 8], 9), ("1 bytes behind its last tensor",), None),
    "data and no tensors": (_content("{}", b"\0"), ("1 bytes behind",), 10),
    "no data at all": (_with(0), ("'w'", "ends at byte 8", "0 bytes"), 9),
    "cut off in the data": (_two([0, 4], [4, 8], 7), ("cut off",), None),
}


@pytest.mark.parametrize("what", _BAD)
def test_a_header_that_is_not_valid_is_refused(tmp_path: Path, what: str) -> None:
    content, words, offset = _BAD[what]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(fastio.FormatError) as raised:
        fastio.load(path)
    error = raised.value
    assert [word for word in (str(path), *words) if word not in str(error)] == []
    assert error.path == str(path)
    assert error.expected
    assert error.offset is not None
    assert 0 <= error.offset <= len(content)
    if offset is not None:
        assert error.offset == offset
    assert len(str(error)) < 2000


def test_a_header_beyond_the_formats_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001) + b"{")
        file.truncate(200_000_000)
    with pytest.raises(fastio.FormatError, match=re.escape("2 to 100000000 (the format's limit)")):
        fastio.load(path)


class _Recorded:
    """A file that is all zeros behind its first bytes, and records the ranges that are read."""

    path = "model.safetensors"

    def __init__(self, first: bytes, nbytes: int) -> None:
        self.nbytes = nbytes
        self.reads: list[tuple[int, int]] = []
        self._first = first

    def read(self, offset: int, nbytes: int) -> bytes:
        assert offset + nbytes <= self.nbytes
        self.reads.append((offset, nbytes))
        return self._first[offset : offset + nbytes].ljust(nbytes, b"\0")


@pytest.mark.parametrize("length", [0, 1, 100_000_001, 2**40, 2**63, 2**64 - 1])
def test_an_impossible_header_is_refused_after_its_first_bytes(length: int) -> None:
    file = _Recorded(struct.pack("<Q", length), 2**40)
    with pytest.raises(fastio.FormatError, match=f"gives its header {length} bytes"):
        safetensors.locate(cast(_native.File, file))
    assert file.reads == [(0, 2**17)]


@pytest.mark.parametrize("end", [2**17 - 1, 2**17, 2**17 + 1, 2**18])
def test_a_header_longer_than_the_first_read_is_taken_whole(end: int) -> None:
    padded = (_W + "}").ljust(end - _HEADER_AT)
    file = _Recorded(_content(padded), end + 8)
    shard = safetensors.locate(cast(_native.File, file))
    assert (shard.names, shard.begins.tolist(), shard.ends.tolist()) == (["w"], [end], [end + 8])
    # The data behind a long header is never read.
    assert max(offset + nbytes for offset, nbytes in file.reads) <= max(end, 2**17)


_GOOD: dict[str, tuple[bytes, list[str]]] = {
    "no tensors": (_content("{}"), []),
    "no tensors but metadata": (_content('{"__metadata__":{"a":"b"}}'), []),
    "one": (_with(), ["w"]),
    "padded with spaces": (_content(_W + "}     ", bytes(8)), ["w"]),
    "padded with newlines": (_content(_W + "}\n\n\n", bytes(8)), ["w"]),
    "padded with all that is whitespace in JSON": (_content(_W + "} \t\r\n ", bytes(8)), ["w"]),
    "a space first": (_content(" " + _W + "}", bytes(8)), ["w"]),
    "whitespace on both sides": (_content("\r\n\t " + _W + "}\n", bytes(8)), ["w"]),
    "no tensors within whitespace": (_content("\n{}\n"), []),
    "metadata is null": (_content('{"__metadata__":null,' + _W[1:] + "}", bytes(8)), ["w"]),
    "metadata is null, with spaces": (
        _content('{ "__metadata__" : null , ' + _W[1:] + "}", bytes(8)),
        ["w"],
    ),
    "metadata is null, last": (_content(_W + ',"__metadata__":null}', bytes(8)), ["w"]),
    "metadata is null, escaped": (_content(_W + ',"__metadata\\u005f_":null}', bytes(8)), ["w"]),
    "metadata is null, and nothing else": (_content('{"__metadata__":null}'), []),
    "a tensor called null": (
        _content('{"__metadata__":null,"null":' + _W[5:] + "}", bytes(8)),
        ["null"],
    ),
    "more fields": (_with(strides=[1], offset=None, device="cpu"), ["w"]),
    "a field more, first": (_content('{"w":{"x":0,' + _W[6:] + "}", bytes(8)), ["w"]),
    "a field more that holds what it likes": (
        _with(more={"dtype": [1.5, -0.0, True, None, {"w": ":}"}], "": "\u00e9"}),
        ["w"],
    ),
    "a field more called as the metadata": (_with(__metadata__={"a": "b"}), ["w"]),
    "a field more that is -0": (_content(_W[:-1] + ',"more":-0}}', bytes(8)), ["w"]),
    "a field more of 300 digits": (_with(more=10**300), ["w"]),
    "a field more that nests": (_with(more=_nested(125)), ["w"]),
    "a dtype escaped": (_content(_W.replace("dtype", "\\u0064type") + "}", bytes(8)), ["w"]),
    "spaces inside": (_content(_W.replace(":", " : ") + " }", bytes(8)), ["w"]),
    "newlines inside": (_content(_W.replace(",", ",\n\t\r") + "}", bytes(8)), ["w"]),
    "metadata last": (_content(_W + ',"__metadata__":{"a":"b"}}', bytes(8)), ["w"]),
    "empty metadata": (_content('{"__metadata__":{},' + _W[1:] + "}", bytes(8)), ["w"]),
    "a scalar": (_with(4, shape=[], data_offsets=[0, 4]), ["w"]),
    "64 dimensions": (_with(4, shape=[1] * 64, data_offsets=[0, 4]), ["w"]),
    "an empty tensor": (_with(0, shape=[0, 3], data_offsets=[0, 0]), ["w"]),
    "an empty name": (_with(name=""), [""]),
    "a name with a colon": (_with(name='a":b'), ['a":b']),
    "a name in Unicode, escaped": (_with(name="gewicht é 😀"), ["gewicht é 😀"]),
    "a name in Unicode": (
        _content(json.dumps({"é😀": _TENSOR}, ensure_ascii=False), bytes(8)),
        ["é😀"],
    ),
    "metadata in Unicode": (
        _content('{"__metadata__":{"é":"😀"},' + _W[1:] + "}", bytes(8)),
        ["w"],
    ),
    "metadata of a megabyte": (
        _content('{"__metadata__":{"a":"' + "}\\\\" * 400_000 + '"},' + _W[1:] + "}", bytes(8)),
        ["w"],
    ),
    "out of order": (_two([4, 8], [0, 4], 8), ["b", "a"]),
    "an empty tensor at a boundary": (_two([0, 8], [0, 0], 8), ["b", "a"]),
    "an empty tensor at the end": (_two([8, 8], [0, 8], 8), ["b", "a"]),
    "empty tensors at one place": (_two([0, 0], [0, 0], 0), ["a", "b"]),
    "an empty tensor in front of another": (_two([0, 0], [0, 8], 8), ["a", "b"]),
    "fields in another order": (
        _content(json.dumps({"w": dict(reversed(_TENSOR.items()))}), bytes(8)),
        ["w"],
    ),
    "metadata between tensors": (
        _content(
            '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"__metadata__":{"k":"v"},'
            '"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
            bytes(2),
        ),
        ["a", "b"],
    ),
    "metadata that looks like a tensor": (
        _content('{"__metadata__":{"dtype":"F32"},' + _W[1:] + "}", bytes(8)),
        ["w"],
    ),
    "a name as long as a page": (_with(name="w" * 5000), ["w" * 5000]),
    "a name with NUL, escaped": (_with(name="a\0b"), ["a\0b"]),
    "names that differ in case": (
        _content(
            '{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            '"W":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
            bytes(2),
        ),
        ["w", "W"],
    ),
    "an empty shape of a million": (_with(0, shape=[10**6, 0], data_offsets=[0, 0]), ["w"]),
    "packed": (_with(2, dtype="F4", shape=[2, 2], data_offsets=[0, 2]), ["w"]),
    "packed by six": (_with(3, dtype="F6_E2M3", shape=[4], data_offsets=[0, 3]), ["w"]),
}


@pytest.mark.parametrize("what", _GOOD)
def test_valid_headers_are_accepted(tmp_path: Path, what: str) -> None:
    content, names = _GOOD[what]
    shard = _locate(tmp_path / "model.safetensors", content)
    assert shard.names == names
    known = dict(reference.deserialize(content))
    assert known.keys() == set(names)
    assert shard.begins.tolist() == sorted(shard.begins.tolist())


def _assert_both_ways_agree(content: bytes) -> None:
    raw = content[: _HEADER_AT + int.from_bytes(content[:8], "little")]
    fast = safetensors._decode_fast("m", raw)
    if fast is not None:
        careful = safetensors._decode_carefully("m", raw)  # which raises if it does not accept it
        assert list(fast.entries.items()) == list(careful.entries.items())
        assert fast.metadata == careful.metadata


@pytest.mark.parametrize("what", [*_GOOD, *_BAD])
def test_both_ways_of_parsing_agree(what: str) -> None:
    _assert_both_ways_agree(_GOOD[what][0] if what in _GOOD else _BAD[what][0])


@pytest.mark.parametrize("character", ["x", "é", "😀", "}", '\\"', ":"])
@pytest.mark.parametrize("nbytes", [4090, 65500])
def test_metadata_may_end_anywhere(tmp_path: Path, nbytes: int, character: str) -> None:
    # It is decoded in pieces of growing sizes, which may end within a character.
    for size in range(nbytes, nbytes + 50):
        value = "x" * (size % 7) + character * (size // len(character.encode()))
        header = f'{{"__metadata__":{{"a":"{value}"}},' + _W[1:] + "}"
        content = _content(header, bytes(8))
        _assert_both_ways_agree(content)
        shard = _locate(tmp_path / "model.safetensors", content)
        assert shard.metadata == {"a": json.loads(f'"{value}"')}
        assert shard.names == ["w"]


def test_metadata_of_the_user_is_kept_and_fastios_own_hidden(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    users = {"format": "np", "fastio": "no key of ours", "Fastio.version": "nor this", "": ""}
    save_file({"w": np.zeros(2, np.float32)}, path, users)
    for file in (path, fastio.seal(path)):
        assert safetensors.locate(_native.File(file)).metadata == users


def test_a_table_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    text = '{"__metadata__":{"fastio.version":"0"},' + _W[1:] + "}"
    path.write_bytes(_content(text.ljust(4096 - _HEADER_AT), bytes(8)))
    with pytest.raises(fastio.FormatError):
        safetensors.locate(_native.File(path))
    shard = safetensors.locate(_native.File(path), ignore_table=True)
    assert (shard.table, shard.unsound) == (None, None)
    assert (shard.metadata, shard.names) == ({}, ["w"])


def test_an_unsound_table_is_kept_on_request(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    text = '{"__metadata__":{"fastio.version":"0"},' + _W[1:] + "}"
    for length, is_copied in ((4096, False), (4104, True)):
        path.write_bytes(_content(text.ljust(length - _HEADER_AT), bytes(8)))
        shard = safetensors.locate(_native.File(path), keep_unsound=True)
        assert (shard.table, shard.names) == (None, ["w"])
        assert shard.unsound is not None
        assert shard.unsound.is_copied is is_copied


def test_headers_of_common_writers_take_the_fast_parser(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arrays = {f"layer.{i}": np.zeros((2, i), np.float32) for i in range(3)}
    save_file(arrays, path, {"format": "np"})
    for file in (path, fastio.seal(path)):
        opened = _native.File(file)
        raw = safetensors._header_in(opened, safetensors.read_first(opened))
        assert safetensors._decode_fast("m", raw) is not None


def test_every_dtype_of_the_format_is_known() -> None:
    for dtype in DTYPES.values():
        nbytes = 8 * dtype.bits // 8
        content = _with(nbytes, dtype=dtype.name, shape=[8], data_offsets=[0, nbytes])
        assert dict(reference.deserialize(content))["w"]["dtype"] == dtype.name


# ---- properties

_names = st.text(max_size=12).filter(lambda name: name != "__metadata__")
_shapes = st.lists(st.integers(0, 5), max_size=4)


@st.composite
def _files(draw: st.DrawFn) -> bytes:
    """A valid file: tensors in any order, metadata anywhere, any amount of padding."""
    entries: list[tuple[str, Any]] = []
    end = 0
    for name in draw(st.lists(_names, unique=True, max_size=6)):
        dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
        shape = [*draw(_shapes), 8]  # whole bytes, whatever the dtype
        begin, end = end, end + int(np.prod(shape)) * dtype.bits // 8
        entry = {"dtype": dtype.name, "shape": shape, "data_offsets": [begin, end]}
        entries.append((name, dict(draw(st.permutations(list(entry.items()))))))
    if draw(st.booleans()):
        entries.append(("__metadata__", draw(st.dictionaries(st.text(), st.text(), max_size=3))))
    # Such keys are fastio's own, and mean a table.
    hypothesis.assume("fastio." not in repr(entries))
    text = json.dumps(
        dict(draw(st.permutations(entries))),
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": ")])),
    )
    return _content(text.encode() + b" " * draw(st.integers(0, 9)), bytes(end))


def _same_as_reference(content: bytes, shard: Shard) -> None:
    start = _HEADER_AT + int.from_bytes(content[:8], "little")
    known = dict(reference.deserialize(content))
    assert known.keys() == set(shard.names)
    at = start
    for row, name in enumerate(shard.names):
        assert known[name]["dtype"] == shard.dtypes[row]
        assert tuple(known[name]["shape"]) == shard.shapes[row]
        assert at == shard.begins[row]
        at = int(shard.ends[row])
        assert len(known[name]["data"]) == at - shard.begins[row]
    assert at == len(content)


@hypothesis.given(content=_files())
def test_a_valid_file_means_the_same_to_the_safetensors_package(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "valid.safetensors"
    _same_as_reference(content, _locate(path, content))
    _assert_both_ways_agree(content)


@hypothesis.given(content=_files(), data=st.data())
def test_a_damaged_file_that_is_accepted_is_accepted_by_safetensors_too(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        hypothesis.assume(damaged)
    _assert_both_ways_agree(bytes(damaged))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    try:
        shard = _locate(path, bytes(damaged))
    except fastio.FormatError:
        return
    _same_as_reference(bytes(damaged), shard)


@st.composite
def _doubtful_files(draw: st.DrawFn) -> bytes:
    """Valid JSON whose numbers may or may not fit together."""
    entries, at = {}, 0
    for name in draw(st.lists(st.sampled_from("abc"), unique=True, max_size=3)):
        dtype = DTYPES[draw(st.sampled_from(["F32", "F16", "U8", "F6_E2M3", "F4"]))]
        begin = draw(st.just(at) | st.integers(0, 9))
        at = draw(st.integers(begin, begin + 4) | st.integers(0, 9))
        count = max(0, at - begin) * 8 // dtype.bits
        shape = draw(st.sampled_from([[count], [1, count], []]) | st.lists(st.integers(0, 4)))
        entries[name] = {"dtype": dtype.name, "shape": shape, "data_offsets": [begin, at]}
    data_bytes = draw(st.just(at) | st.integers(0, 9))
    return _content(
        json.dumps(dict(draw(st.permutations(list(entries.items()))))), bytes(data_bytes)
    )


@hypothesis.settings(max_examples=300)
@hypothesis.given(content=_doubtful_files())
def test_numbers_that_fit_together_are_those_that_the_safetensors_package_takes(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "doubtful.safetensors"
    _assert_both_ways_agree(content)
    try:
        reference.deserialize(content)
    except reference.SafetensorError:
        with pytest.raises(fastio.FormatError):
            _locate(path, content)
    else:
        _same_as_reference(content, _locate(path, content))
