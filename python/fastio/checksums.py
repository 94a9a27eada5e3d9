"""The checksum table of a sealed safetensors file: how a header holds it.

The format, version 1: the file starts with the header's length, then with exactly `_PREFIX`, so
that the header's own digest stands at byte 42. It is XXH3-64 (seed 0) over the header with these
sixteen digits taken as ASCII 0, and compared as text: as a number, a flipped bit that changes a
letter's case would pass. The table is compact JSON in a metadata string; its chunks cover the file
from the end of the header (`start`) on.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from fastio import _native
from fastio.catalog import ChecksumTable
from fastio.errors import FormatError, shown

KEY_PREFIX = "fastio."
"""Metadata under keys that begin so is fastio's own, and not shown to users."""
HEADER_BYTES_MAX = 100_000_000
"""A longer header is refused by the safetensors format."""
LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, little-endian."""

_DIGEST_KEY, _VERSION_KEY, _TABLE_KEY = "fastio.header", "fastio.version", "fastio.checksums"
_KEYS = {_DIGEST_KEY, _VERSION_KEY, _TABLE_KEY}
_VERSION = "1"
_ALGORITHM = "xxh3_64"
_PREFIX = b'{"__metadata__":{"fastio.header":"'
_DIGEST_AT = LENGTH_BYTES + len(_PREFIX)
_DIGITS = slice(_DIGEST_AT, _DIGEST_AT + 16)
_DIGEST_BYTES = 8
_START_ALIGNMENT = 4096
_CHUNK_BYTES_MIN, _CHUNK_BYTES_DEFAULT, _CHUNK_BYTES_MAX = 2**16, 2**20, 2**24
_CURE = (
    "a sound checksum table: either this file is damaged, or its metadata was copied from another "
    "one; save it again from the source, or seal it with force=True if its bytes are surely good"
)


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    """The table as its JSON text has it, in this order."""

    algorithm: str
    start: int
    chunk_bytes: int
    chunks: str


def parse(
    metadata: Mapping[str, str], path: str, *, header: bytes, file_bytes: int
) -> ChecksumTable | None:
    """Return the table that a file's metadata holds, or None if it has no key of fastio's.

    Parameters
    ----------
    metadata : mapping of str to str
        All of ``__metadata__``.
    path : str
        For messages.
    header : bytes
        The file up to the first byte of its data.
    file_bytes : int
        Size of the whole file.

    Raises
    ------
    FormatError
        If there is a key of fastio's, but no sound table, or the header is not the one that was
        written.
    """
    keys = {key for key in metadata if key.startswith(KEY_PREFIX)}
    if not keys:
        return None
    _check_keys(keys, metadata, path)
    _check_header(header, path)
    table = _decode(metadata[_TABLE_KEY], path)
    chunk_count = _chunk_count(file_bytes - table.start, table.chunk_bytes)
    if table.start != len(header) or table.start % _START_ALIGNMENT:
        raise _unsound(path, f"its checksums start at {table.start}, and its data at {len(header)}")
    if len(table.digests) != chunk_count * _DIGEST_BYTES:
        raise _unsound(
            path, f"it has {len(table.digests)} bytes of checksums for {chunk_count} chunks"
        )
    return table


def without_own_keys(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the user's part of a file's metadata.

    Raises
    ------
    Nothing.
    """
    return {key: value for key, value in metadata.items() if not key.startswith(KEY_PREFIX)}


def _check_keys(keys: set[str], metadata: Mapping[str, str], path: str) -> None:
    version = metadata.get(_VERSION_KEY)
    if version not in (None, _VERSION):
        raise _unsound(path, f"its checksums are of version {shown(version)}, only 1 is known")
    if keys != _KEYS:
        missing, unknown = sorted(_KEYS - keys), sorted(keys - _KEYS)
        what = [f"lacks {', '.join(missing)}"] if missing else []
        what += [f"has the unknown {shown(', '.join(unknown))}"] if unknown else []
        raise _unsound(path, f"its metadata {' and '.join(what)}")


def _check_header(header: bytes, path: str) -> None:
    if header[LENGTH_BYTES:_DIGEST_AT] != _PREFIX:
        raise _unsound(
            path,
            "its header has metadata of fastio's, but does not start as a sealed one",
            offset=LENGTH_BYTES,
        )
    expected, found = header[_DIGITS].decode("ascii", "replace"), _header_digest(header)
    if expected != found:
        raise _unsound(
            path, f"the checksum of its header is {found}, not {shown(expected)}", _DIGEST_AT
        )


def _header_digest(header: bytes | bytearray) -> str:
    blank = bytearray(header)
    blank[_DIGITS] = b"0" * 16
    return f"{_native.xxh3_64(blank):016x}"


def _decode(text: str, path: str) -> ChecksumTable:
    try:
        written = msgspec.json.decode(text, type=_Table)
        digests = base64.b64decode(written.chunks, validate=True)
    except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
        raise _unsound(path, f"its checksum table cannot be read: {error}") from None
    if written.algorithm != _ALGORITHM:
        raise _unsound(
            path, f"its checksums are by {shown(written.algorithm)}, only {_ALGORITHM} is known"
        )
    chunk_bytes = written.chunk_bytes
    if not _CHUNK_BYTES_MIN <= chunk_bytes <= _CHUNK_BYTES_MAX or chunk_bytes & (chunk_bytes - 1):
        raise _unsound(
            path,
            f"its chunks are of {chunk_bytes} bytes, not a power of two from 64 KiB to 16 MiB",
        )
    table = ChecksumTable(written.start, chunk_bytes, digests)
    # One text for each table: no doubled keys, no stray bits in the last base64 digit.
    if _encode(table) != text.encode():
        raise _unsound(path, "its checksum table is not written as it should be")
    return table


def _encode(table: ChecksumTable) -> bytes:
    chunks = base64.b64encode(table.digests).decode("ascii")
    return msgspec.json.encode(_Table(_ALGORITHM, table.start, table.chunk_bytes, chunks))


def _unsound(path: str, problem: str, offset: int | None = None) -> FormatError:
    return FormatError(path, problem, offset=offset, expected=_CURE)


def _chunk_count(nbytes: int, chunk_bytes: int) -> int:
    return -(-nbytes // chunk_bytes)


@dataclass(frozen=True)
class HeaderPlan:
    """A sealed header whose size is known before its checksums are.

    Attributes
    ----------
    start : int
        Bytes of length and header together: where the data starts.
    chunk_bytes : int
        Bytes of data that get a checksum.
    """

    start: int
    chunk_bytes: int
    _metadata: Mapping[str, str]
    _tensors: bytes

    def encode(self, digests: bytes) -> bytes:
        """Return the first `start` bytes of the file.

        Parameters
        ----------
        digests : bytes
            XXH3-64 of each chunk, 8 bytes each, little-endian; as many as the data has chunks.

        Raises
        ------
        ValueError
            If they are more or fewer, so that the header does not come to its size.
        """
        table = ChecksumTable(self.start, self.chunk_bytes, digests)
        text = _header_text(self._metadata, self._tensors, table)
        header = bytearray((self.start - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "little"))
        header += text.ljust(self.start - LENGTH_BYTES)
        if _padded(text) != self.start:
            raise ValueError(f"{len(digests) // _DIGEST_BYTES} checksums do not fit this header")
        header[_DIGITS] = _header_digest(header).encode("ascii")
        return bytes(header)


def plan_header(
    metadata: Mapping[str, str], tensors: bytes, data_bytes: int, path: str
) -> HeaderPlan:
    """Lay out a sealed header.

    Parameters
    ----------
    metadata : mapping of str to str
        The user's; keys of fastio's are left out.
    tensors : bytes
        The header's entries for tensors as compact JSON, without the braces around them.
    data_bytes : int
        Size of what follows the header.
    path : str
        For messages.

    Raises
    ------
    FormatError
        If the header would be longer than the format allows, even with the largest chunks.
    """
    users = dict(sorted(without_own_keys(metadata).items()))
    chunk_bytes = _CHUNK_BYTES_DEFAULT
    while chunk_bytes <= _CHUNK_BYTES_MAX:
        digests = bytes(_chunk_count(data_bytes, chunk_bytes) * _DIGEST_BYTES)
        start = 0
        # The text holds its own length, and more digits only make it longer: this comes to rest.
        while start != (
            padded := _padded(
                _header_text(users, tensors, ChecksumTable(start, chunk_bytes, digests))
            )
        ):
            start = padded
        if start - LENGTH_BYTES <= HEADER_BYTES_MAX:
            return HeaderPlan(start, chunk_bytes, users, tensors)
        chunk_bytes *= 2
    raise FormatError(
        path,
        f"its header would come to {start - LENGTH_BYTES} bytes with checksums",
        expected=f"at most {HEADER_BYTES_MAX}: spread its tensors over several files",
    )


def _header_text(metadata: Mapping[str, str], tensors: bytes, table: ChecksumTable) -> bytes:
    own = {_DIGEST_KEY: "0" * 16, _VERSION_KEY: _VERSION, _TABLE_KEY: _encode(table).decode()}
    text = b'{"__metadata__":' + msgspec.json.encode({**own, **metadata})
    return text + (b"," if tensors else b"") + tensors + b"}"


def _padded(text: bytes) -> int:
    """The size of length, header and the spaces behind it."""
    return -(-(LENGTH_BYTES + len(text)) // _START_ALIGNMENT) * _START_ALIGNMENT
