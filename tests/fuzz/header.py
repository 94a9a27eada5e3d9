"""Fuzz target: for any bytes of a file, the header is refused with a FormatError or has one
meaning.

    python tests/fuzz/header.py -max_total_time=45 build/fuzz/corpus

Three oracles: the fast and the careful parser agree; accepted headers cover the data without a
hole; the safetensors package accepts them, too, with the same tensors.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fastio"]):
    import fastio
    from fastio import _native
    from fastio.catalog import Shard
    from fastio.formats import safetensors

import safetensors as reference

_SEEDS = (
    b"{}",
    b'{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}',
    b'{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}',
    b'{"b":{"dtype":"U8","shape":[3],"data_offsets":[1,4]},'
    b'"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}} ',
    b'{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]},'
    b'"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}',
    b' {"__metadata__":null,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":[-0]}}\n\r',
    b'{"__metadata__":{"fastio.version":"1"},"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}',
)
_DATA_BYTES_MAX = 64

_folder = f"/proc/self/fd/{os.memfd_create('fuzzed')}"


def _file(data: bytes) -> bytes:
    """A whole file: the input as it is, or as the header of one with a right length and some data
    behind.
    """
    if not data or data[0] % 4 == 0:
        return data[1:]
    header = data[2:]
    return (
        struct.pack("<Q", len(header))
        + header
        + bytes(data[1] % _DATA_BYTES_MAX if len(data) > 1 else 0)
    )


def _locate(content: bytes) -> Shard | None:
    with open(_folder, "wb") as out:
        out.write(content)
    try:
        return safetensors.locate(_native.File(_folder))
    except fastio.FormatError:
        return None


def _check_both_ways(content: bytes) -> None:
    length = int.from_bytes(content[:8], "little")
    raw = content[: 8 + length]
    fast = safetensors._decode_fast("fuzzed", raw)
    if fast is None:
        return
    careful = safetensors._decode_carefully("fuzzed", raw)
    assert fast.metadata == careful.metadata
    assert [*fast.entries.items()] == [*careful.entries.items()]


def _check_accepted(content: bytes, shard: Shard) -> None:
    at = 8 + int.from_bytes(content[:8], "little")
    for begin, end in zip(shard.begins.tolist(), shard.ends.tolist(), strict=True):
        assert begin == at <= end
        at = end
    assert at == len(content)
    known = dict(reference.deserialize(content))
    assert known.keys() == set(shard.names)
    for name, shape in zip(shard.names, shard.shapes, strict=True):
        assert tuple(known[name]["shape"]) == shape


def test_one_input(data: bytes) -> None:
    """The fuzzer's entry point."""
    content = _file(data)
    shard = _locate(content)
    if len(content) >= 8:
        try:
            _check_both_ways(content)
        except fastio.FormatError as error:
            raise AssertionError(f"only the fast way takes it: {error}") from error
    if shard is not None:
        _check_accepted(content, shard)


def main() -> None:
    corpus = Path(sys.argv[-1])
    if corpus.is_dir():
        for index, header in enumerate(_SEEDS):
            for data_bytes in (0, 2, 4, 8):
                (corpus / f"seed-{index}-{data_bytes}").write_bytes(bytes([1, data_bytes]) + header)
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
