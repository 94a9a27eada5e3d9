"""The header of a safetensors file: parsed, and refused wherever it is not valid.

The format: 8 bytes of header length (little-endian), a JSON object padded with spaces, then the
data, which the tensors must cover without a hole. https://github.com/huggingface/safetensors#format

Some writers take liberties. safetensors 0.8 reads their files, and so does this module:

- ``"__metadata__": null`` means no metadata. MLX writes it whenever there is none.
- Unknown keys in the entry of a tensor are ignored. nntrainer and LMCache write some.
- Spaces, tabs, newlines and carriage returns may surround the object.

safetensors reads more than any writer writes. These headers are refused here:

- A key stands twice in one object, at any depth. Readers take different ones.
- The entry of a tensor is an array, or its dtype is an object.
- A shape has more than 64 dimensions. Neither numpy nor torch has such arrays.
- A shape has more than 2**56 values without its zeros. They have none of these either.

Two parsers agree on every header. The fast one takes headers as every writer makes them. Anything
else goes to the careful one, which finds the error and its offset.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from fastio.catalog import OneFile, Readable, Shard
from fastio.catalog.unsound import UnsoundTable
from fastio.display.values import shown
from fastio.errors import FormatError
from fastio.formats import checksums, strict_json
from fastio.formats.columns import Columns, Entry, Header, columns_of

# One read is all that most files need, and takes a disk hardly longer than a smaller one.
FIRST_READ_BYTES = 2**17
_LENGTH_BYTES = checksums.LENGTH_BYTES
_HEADER_BYTES_MIN = 2  # {}
_OBJECT_BEGINS = re.compile(rb"\s*\{")
_METADATA_KEY = "__metadata__"
_METADATA_FIRST = b'{"__metadata__":'
_NO_METADATA = b"null"
_WHITESPACE = b" \t\n\r"  # of JSON
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
_ENTRY_EXPECTED = 'an object of "dtype", "shape" and "data_offsets"'
# safetensors refuses deeper nesting: https://docs.rs/serde_json/latest/serde_json/struct.Deserializer.html
_IGNORED_DEPTH_MAX = 125
_NEGATIVE_ZERO = re.compile(rb"[\[,:\s]-0")
_COLONS_PER_ENTRY = 4

_entries_decoder = msgspec.json.Decoder(dict[str, Entry])
_pairs_decoder = json.JSONDecoder(object_pairs_hook=list)


def locate(
    file: Readable,
    first: bytes | None = None,
    *,
    ignore_table: bool = False,
    keep_unsound: bool = False,
) -> Shard:
    """Say where the tensors of a file lie.

    Parameters
    ----------
    file : Readable
        Stays open.
    first : bytes, optional
        Its first `FIRST_READ_BYTES`, if they were read already.
    ignore_table : bool
        Leave out the checksum table, sound or not.
    keep_unsound : bool
        Leave it to the caller to refuse an unsound table. One that was copied from another file is
        never refused here.

    Raises
    ------
    FormatError
        If the file is not a valid safetensors file, or has an unsound checksum table: path, offset,
        expected.
    ReadError
        If reading fails.
    """
    if first is None:
        first = read_first(file)
    _check_length(file, first)
    raw = _header_in(file, first)
    header = _decode_fast(file.path, raw) or _decode_carefully(file.path, raw)
    names, dtypes, shapes, begins, ends = columns_of(header, file.nbytes - len(raw))
    metadata, table, unsound = header.metadata, None, None
    if not ignore_table:
        found = checksums.parse(metadata, header=raw, file_bytes=file.nbytes)
        if isinstance(found, UnsoundTable):
            unsound = found
        else:
            table = found
    if unsound is not None and not (unsound.is_copied or keep_unsound):
        raise unsound.error(file.path)
    return Shard(
        files=OneFile(file, table),
        names=names,
        dtypes=dtypes,
        shapes=shapes,
        begins=begins + len(raw),
        ends=ends + len(raw),
        metadata=checksums.without_own_keys(metadata),
        content=first if len(first) == file.nbytes else None,
        unsound=unsound,
    )


class InMemory:
    """A file of which what is asked for is in memory; it can be located.

    Parameters
    ----------
    path : str
        For messages.
    nbytes : int
        Of the whole file.
    data : bytes
        Its beginning.
    """

    def __init__(self, path: str, nbytes: int, data: bytes) -> None:
        self.path = path
        self.nbytes = nbytes
        self.data = data

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return some of what is in memory."""
        return self.data[offset : offset + nbytes]


def columns(entries: bytes, data_bytes: int, path: str) -> Columns:
    """Say where tensors lie that are described somewhere else than in their file.

    Parameters
    ----------
    entries : bytes
        What a header says of its tensors, an object in JSON.
    data_bytes : int
        Size of the data, which they must cover; begins and ends count from its start.
    path : str
        For messages.

    Raises
    ------
    FormatError
        If they are not valid.
    """
    raw = len(entries).to_bytes(_LENGTH_BYTES, "little") + entries
    header = _decode_fast(path, raw) or _decode_carefully(path, raw)
    return columns_of(header, data_bytes)


def read_first(file: Readable) -> bytes:
    """Return the beginning of a file: most headers, and small files whole.

    Raises
    ------
    ReadError
        If reading fails.
    """
    return file.read(0, min(file.nbytes, FIRST_READ_BYTES))


def begins(first: bytes) -> bool:
    """Return whether a file seems to be a safetensors file, by its first bytes."""
    length = int.from_bytes(first[:_LENGTH_BYTES], "little")
    is_possible = _HEADER_BYTES_MIN <= length <= checksums.HEADER_BYTES_MAX
    return is_possible and _OBJECT_BEGINS.match(first, _LENGTH_BYTES) is not None


def _check_length(file: Readable, first: bytes) -> None:
    if file.nbytes < _LENGTH_BYTES:
        raise FormatError(
            file.path,
            f"is {file.nbytes} bytes long" if first else "is empty (0 bytes long)",
            offset=0,
            expected="a safetensors file, which begins with 8 bytes of header length",
        )


def _header_in(file: Readable, first: bytes) -> bytes:
    """The file up to the first byte of its data."""
    length = int.from_bytes(first[:_LENGTH_BYTES], "little")
    follows = file.nbytes - _LENGTH_BYTES
    is_possible = _HEADER_BYTES_MIN <= length <= min(follows, checksums.HEADER_BYTES_MAX)
    if not is_possible:
        raise FormatError(
            file.path,
            f"gives its header {length} bytes",
            offset=0,
            expected=f"a safetensors file, and whole: {_HEADER_BYTES_MIN} to "
            f"{checksums.HEADER_BYTES_MAX} (the format's limit), of which {follows} follow",
        )
    end = _LENGTH_BYTES + length
    return first[:end] if end <= len(first) else file.read(0, end)


def _decode_fast(path: str, raw: bytes) -> Header | None:
    """The header, or None where there is any doubt about it."""
    text = raw[: raw.rfind(b"}") + 1]
    padding = raw[len(text) :]
    # Padding is spaces as a rule, and comparing them is faster than strip().
    is_padded = padding == b" " * len(padding) or not padding.strip(_WHITESPACE)
    if not raw.startswith(b"{", _LENGTH_BYTES) or not is_padded:
        return None
    split = _split_metadata(text)
    if split is None:
        return None
    metadata, rest = split
    # Escapes hide colons, and msgspec reads -0 as 0.
    if b"\\" in rest or (b"-" in rest and b"-0" in rest and _NEGATIVE_ZERO.search(rest)):
        return None
    try:
        entries = _entries_decoder.decode(rest)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # ValueError: not UTF-8
        return None
    # msgspec keeps the last of doubled keys; but each pair has a colon.
    colons = _COLONS_PER_ENTRY * len(entries) + "".join(entries).count(":")
    if rest.count(b":") != colons or _METADATA_KEY in entries:
        return None
    return Header(path, raw, entries, metadata)


def _split_metadata(raw: bytes) -> tuple[dict[str, str], bytes] | None:
    """The metadata of a header that begins with it, and the header without."""
    if not raw.startswith(_METADATA_FIRST, _LENGTH_BYTES):
        return {}, raw[_LENGTH_BYTES:]
    begin = _LENGTH_BYTES + len(_METADATA_FIRST)
    if raw.startswith(_NO_METADATA, begin):
        return _rest({}, raw, begin + len(_NO_METADATA))
    size = 2**12
    while True:  # metadata is short as a rule; where it is not whole yet, more is taken
        text = raw[begin : begin + size].decode(errors="replace")
        try:
            pairs, end = _pairs_decoder.raw_decode(text)
            break
        except (ValueError, RecursionError):
            if begin + size >= len(raw):
                return None
            size *= 16
    own = text[:end]
    if not own.startswith("{") or "\\u" in own or "\ufffd" in own:
        return None
    metadata = dict(pairs)
    if len(metadata) < len(pairs) or not all(isinstance(v, str) for v in metadata.values()):
        return None
    return _rest(metadata, raw, begin + len(own.encode()))


def _rest(metadata: dict[str, str], raw: bytes, end: int) -> tuple[dict[str, str], bytes] | None:
    """Metadata that ends at a byte, and the header without."""
    if raw.startswith(b',"', end):
        return metadata, b"{" + raw[end + 1 :]
    return (metadata, b"{" + raw[end:]) if raw.startswith(b"}", end) else None


def _decode_carefully(path: str, raw: bytes) -> Header:
    ended = raw[_LENGTH_BYTES:].rstrip(_WHITESPACE)
    text = ended.lstrip(_WHITESPACE)
    end = _LENGTH_BYTES + len(ended)
    begin = end - len(text)
    if not text.startswith(b"{"):
        raise FormatError(
            path,
            f"its header begins with {text[:1]!r}",
            offset=begin,
            expected="'{', and so a safetensors file",
        )
    if not text.endswith(b"}"):
        raise FormatError(
            path,
            f"its header ends with {text[-1:]!r}",
            offset=end - 1,
            expected="'}', and nothing but whitespace behind it",
        )
    decoded = strict_json.decode(text, path, at=begin)
    metadata = _checked_metadata(path, raw, decoded.pop(_METADATA_KEY, None))
    header = Header(path, raw, {}, metadata)
    for name, entry in decoded.items():
        header.entries[name] = _checked_entry(header, name, entry)
    return header


def _checked_metadata(path: str, raw: bytes, metadata: Any) -> dict[str, str]:
    if metadata is None:
        return {}
    where = strict_json.position(raw, _METADATA_KEY)
    expected = "an object of strings, or null"
    if not isinstance(metadata, dict):
        raise FormatError(
            path, f"its {_METADATA_KEY} is {shown(metadata)}", offset=where, expected=expected
        )
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise FormatError(
                path,
                f"its {_METADATA_KEY} has {shown(value)} at {shown(key)}",
                offset=strict_json.position(raw, key),
                expected=expected,
            )
    return metadata


def _checked_entry(header: Header, name: str, entry: Any) -> Entry:
    if not isinstance(entry, dict) or not entry.keys() >= _ENTRY_KEYS:
        what = (
            f"has the keys {', '.join(map(shown, entry))}"
            if isinstance(entry, dict)
            else "is no object"
        )
        raise header.refuse(name, what, _ENTRY_EXPECTED)
    ignored = [value for key, value in entry.items() if key not in _ENTRY_KEYS]
    if _depth(ignored) > _IGNORED_DEPTH_MAX + 1:
        raise header.refuse(name, "nests too deeply", f"at most {_IGNORED_DEPTH_MAX} levels")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise header.refuse(name, f"has dtype {shown(dtype)}", "the name of a dtype")
    if not _are_sizes(shape):
        raise header.refuse(name, f"has shape {shown(shape)}", "whole numbers from 0 on")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise header.refuse(
            name, f"has data_offsets {shown(offsets)}", "begin and end, whole numbers from 0 on"
        )
    return Entry(dtype, tuple(shape), (offsets[0], offsets[1]))


def _depth(value: Any) -> int:
    """How many lists and objects lie one in another; 0 for what is neither."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, (list, dict))]:
        depth += 1
        level = [
            child for one in level for child in (one if isinstance(one, list) else one.values())
        ]
    return depth


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
