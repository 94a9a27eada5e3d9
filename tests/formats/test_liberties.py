"""The liberties that other writers take with a header. fastio reads those that safetensors reads,
with the same meaning, and can seal them. The exceptions are listed here.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import safetensors as reference

import fastio
from fastio.catalog import Shard
from fastio.formats import safetensors
from fastio.formats.safetensors import InMemory

_DATA = bytes(range(8))
_PLAIN = {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}
_W = '"w":' + json.dumps(_PLAIN)


def _file(header: str, data: bytes = _DATA) -> bytes:
    text = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data


def _located(content: bytes) -> Shard:
    return safetensors.locate(InMemory("m", len(content), content))


def _assert_same(content: bytes) -> None:
    shard = _located(content)
    expected = dict(reference.deserialize(content))
    assert sorted(shard.names) == sorted(expected)
    rows = zip(shard.names, shard.dtypes, shard.shapes, shard.begins, shard.ends, strict=True)
    for name, dtype, shape, begin, end in rows:
        assert (dtype, list(shape)) == (expected[name]["dtype"], expected[name]["shape"])
        assert content[begin:end] == bytes(expected[name]["data"])


# ---- headers that fastio reads ------------------------------------------------------------------

_READ: dict[str, str] = {
    # huggingface/safetensors#823, foundation-model-stack/fastsafetensors#96
    "null for no metadata": f'{{"__metadata__":null,{_W}}}',
    "null for no metadata, behind a tensor": f'{{{_W},"__metadata__":null}}',
    "null for no metadata, on lines": f'{{\n "__metadata__": null,\n {_W}\n}}',
    "a field more": f'{{"w":{json.dumps({**_PLAIN, "fmt": "KV_2LTD"})}}}',
    "fields more, first": f'{{"w":{json.dumps({"name": "w", "strides": [1], **_PLAIN})}}}',
    "a field more, an object": f'{{"w":{json.dumps({**_PLAIN, "x": {"dtype": ":", "y": [{}]}})}}}',
    "padded with newlines": f"{{{_W}}}".ljust(80, "\n"),
    "padded with tabs": f"{{{_W}}}".ljust(80, "\t"),
    "padded in front": f"{{{_W}}}".rjust(80),
    "lines that end as on Windows": f"\r\n{{\r\n{_W}\r\n}}\r\n",
    "all of them": f' {{"__metadata__":null,"w":{json.dumps({**_PLAIN, "x": None})}}}\n',
}


@pytest.mark.parametrize("what", _READ)
def test_headers_of_other_writers_are_read(tmp_path: Path, what: str) -> None:
    content = _file(_READ[what])
    _assert_same(content)
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert fastio.load(path)["w"].tobytes() == _DATA
    with fastio.safe_open(path, "np") as ours, reference.safe_open(path, "np") as theirs:
        assert ours.metadata() is theirs.metadata() is None
        assert ours.keys() == theirs.keys()


@pytest.mark.parametrize("what", _READ)
def test_a_header_with_a_liberty_seals_like_one_without(tmp_path: Path, what: str) -> None:
    paths = [tmp_path / "free.safetensors", tmp_path / "plain.safetensors"]
    for path, header in zip(paths, (_READ[what], f"{{{_W}}}"), strict=True):
        path.write_bytes(_file(header))
        fastio.seal(path)
        assert fastio.load(path, verify="require")["w"].tobytes() == _DATA
        assert reference.deserialize(path.read_bytes())[0][1]["data"] == _DATA
    assert paths[0].read_bytes() == paths[1].read_bytes()


# ---- headers that only safetensors reads --------------------------------------------------------

_REFUSED: dict[str, tuple[str, str]] = {
    "a tensor twice": (f"{{{_W},{_W}}}", "'w' twice"),
    "a key of metadata twice": (f'{{"__metadata__":{{"a":"1","a":"2"}},{_W}}}', "'a' twice"),
    "a field twice that is ignored": (f'{{{_W[:-1]},"x":1,"x":2}}}}', "'x' twice"),
    "a key twice, deep in what is ignored": (f'{{{_W[:-1]},"x":[{{"y":1,"y":2}}]}}}}', "'y' twice"),
    "an entry that is an array": ('{"w":["U8",[8],[0,8]]}', "no object"),
    "a dtype that is an object": (
        '{"w":{"dtype":{"U8":null},"shape":[8],"data_offsets":[0,8]}}',
        "has dtype",
    ),
    "65 dimensions": (f"{{{_W.replace('[8]', '[8' + ',1' * 64 + ']')}}}", "65 dimensions"),
    "a length that no array has, beside a zero": (
        f'{{{_W},"e":{{"dtype":"U8","shape":[0,{2**57}],"data_offsets":[8,8]}}}}',
        "2**56 values",
    ),
}


@pytest.mark.parametrize("what", _REFUSED)
def test_headers_that_only_safetensors_reads_are_refused(what: str) -> None:
    header, words = _REFUSED[what]
    content = _file(header)
    reference.deserialize(content)
    assert _is_listed(header)
    with pytest.raises(fastio.FormatError) as raised:
        _located(content)
    assert words in str(raised.value)


class _Doubled(Exception):
    """A key occurs twice in one object."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise _Doubled
    return dict(pairs)


def _is_listed(header: str) -> bool:
    """Whether a header that safetensors reads is one of those that fastio refuses."""
    try:
        members = json.loads(header, object_pairs_hook=_each_once)
    except _Doubled:
        return True
    members.pop("__metadata__", None)
    return any(
        isinstance(entry, list)
        or isinstance(entry["dtype"], dict)
        or len(entry["shape"]) > 64
        or math.prod(filter(None, entry["shape"])) > 2**56
        for entry in members.values()
    )


# ---- both ways ----------------------------------------------------------------------------------


def _nested(levels: int) -> str:
    return "[" * levels + "]" * levels


_IGNORED = [
    *["0", "-0", "1.5", "-1e5", '"a"', '"\\u00e9"', '"\\ud83d\\ude00"', '"\\/"', "true", "null"],
    *["[]", "{}", "[{}]", '{"a":[]}', '{"a":{"dtype":":"}}', _nested(125)],
]
_IGNORED_RARELY = [
    *["1e999", "9" * 400, "NaN", "nul", "01", '"\\ud800"', '["\\udc00"]', '"\\x"', '"\n"'],
    *['{"a":1,"a":1}', "[1,]", "[[,]]", _nested(126)],
]
_METADATA = ["null", "{}", '{"a":"b"}', '{"a":"\\n","":""}']
_METADATA_RARELY = [
    *['{"a":null}', '{"a":1}', '{"a":"1","a":"2"}', "[]", '""', "0", "false", '[["a","b"]]']
]
_NAMES = ['"a"', '"b"', '""', '"null"', '"\\"{:"', '"\u00e9"', '"__meta"', '"\\u0063"']


def _pick(draw: st.DrawFn, usual: list[str], rare: list[str]) -> str:
    return draw(st.sampled_from(rare if draw(st.integers(0, 59)) == 31 else usual))


def _is_rare(draw: st.DrawFn) -> bool:
    return draw(st.integers(0, 59)) == 31


def _entry(draw: st.DrawFn, begin: int, end: int) -> str:
    """The entry of a header for some bytes."""
    number = _pick(draw, ["{}"], ["{}.0", "{}e0", "-{}", "0{}", '"{}"'])
    count = number.format(end - begin)
    fields = {
        "dtype": _pick(draw, ['"U8"', '"U\\u0038"'], ['"BOOL"', '"u8"', '{"U8":null}', "null"]),
        "shape": _pick(draw, [f"[{count}]", f"[1,{count}]"], [count, "[]", f"[{count},0]"]),
        "data_offsets": f"[{begin},{number.format(end)}]",
    }
    if _is_rare(draw):
        return f"[{','.join(fields.values())}]"
    pairs = [(f'"{key}"', value) for key, value in fields.items()]
    for key in draw(st.lists(st.sampled_from(['"x"', '"\\u0079"', '""', '"DTYPE"']), max_size=2)):
        value = _pick(draw, _IGNORED, _IGNORED_RARELY)
        if _is_rare(draw) or key not in dict(pairs):
            pairs.append((key, value))
    if _is_rare(draw):
        pairs.append(draw(st.sampled_from(pairs)))
    if _is_rare(draw):
        pairs.pop(0)
    return _object(draw, draw(st.permutations(pairs)))


def _object(draw: st.DrawFn, pairs: list[tuple[str, str]]) -> str:
    space = _pick(draw, ["", "", " ", "\n", "\t", "\r"], ["\f", "\0", ","])
    members = (f"{key}{space}:{value}{space}" for key, value in pairs)
    return f"{{{space}{f',{space}'.join(members)}}}"


@st.composite
def _headers(draw: st.DrawFn) -> str:
    pairs, at = [], 0
    for name in draw(st.lists(st.sampled_from(_NAMES), max_size=3, unique=not _is_rare(draw))):
        end = at + draw(st.integers(0, 2))
        pairs.append((name, _entry(draw, at, end)))
        at = end
    if not _is_rare(draw):
        pairs.append(('"rest"', _entry(draw, at, len(_DATA))))
    keys = st.sampled_from(['"__metadata__"', '"__metadata\\u005f_"'])
    for key in draw(st.lists(keys, max_size=2 if _is_rare(draw) else 1)):
        pairs.append((key, _pick(draw, _METADATA, _METADATA_RARELY)))
    around = [_pick(draw, ["", " ", "\n\n", "\t\r"], ["\f", "\0", "\ufeff"]) for _ in range(2)]
    return around[0] + _object(draw, draw(st.permutations(pairs))) + around[1]


@hypothesis.settings(max_examples=2000)
@hypothesis.given(header=_headers())
def test_a_header_that_safetensors_reads_is_read_or_listed(header: str) -> None:
    content = _file(header)
    try:
        reference.deserialize(content)
    except (reference.SafetensorError, UnicodeError):
        is_read = False
    else:
        is_read = not _is_listed(header)
    hypothesis.event("read" if is_read else "refused")
    if is_read:
        _assert_same(content)
    else:
        with pytest.raises(fastio.FormatError):
            _located(content)
