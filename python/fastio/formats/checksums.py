"""The checksum table of a sealed safetensors file: how a header holds it.

The format, version 1: the file starts with the header's length, then with exactly `_PREFIX`, so
that the header's own digest stands at byte 42. It is XXH3-64 (seed 0) over the header with these
sixteen digits taken as ASCII 0, and compared as text: as a number, a flipped bit that changes a
letter's case would pass. The table is compact JSON in a metadata string; its chunks cover the file
from the end of the header (`start`) on.

The data starts at a multiple of `START_ALIGNMENT`, in this version and in every later one. Damage
to a header's text cannot change its length. So a header of another length was made by another
writer, which copied the metadata of a sealed file. It says nothing of its file.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import msgspec

import fastio._native as _native
from fastio.catalog.table import DEFAULT_ALGORITHM, ChecksumTable
from fastio.catalog.unsound import UnsoundTable
from fastio.display.values import shown
from fastio.errors import FormatError

KEY_PREFIX = "fastio."
"""Metadata under keys that begin so is fastio's own, and not shown to users."""
HEADER_BYTES_MAX = 100_000_000
"""A longer header is refused by the safetensors format."""
LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, little-endian."""

_DIGEST_KEY, _VERSION_KEY, _TABLE_KEY = "fastio.header", "fastio.version", "fastio.checksums"
_KEYS = {_DIGEST_KEY, _VERSION_KEY, _TABLE_KEY}
_VERSION = "1"
_PREFIX = b'{"__metadata__":{"fastio.header":"'
_DIGEST_AT = LENGTH_BYTES + len(_PREFIX)
_DIGITS = slice(_DIGEST_AT, _DIGEST_AT + 16)
START_ALIGNMENT = 4096
"""Data begins at a multiple of it, so that direct reads and writes of chunks are aligned."""
CHUNK_BYTES_MIN, CHUNK_BYTES_DEFAULT, CHUNK_BYTES_MAX = 2**16, 2**20, 2**24
"""A chunk has a power of two of bytes."""
FORMAT_OF_NONE = {"format": "pt"}
"""The metadata of a sealed file for which none was given. Loaders of models take a file without
metadata, and refuse metadata without a format: `load_state_dict` of transformers 4.57
(https://github.com/huggingface/transformers/blob/v4.57.1/src/transformers/modeling_utils.py),
accelerate and huggingface_hub, of which the last takes no other format."""
# At a length that is a multiple of START_ALIGNMENT these two cannot be told apart.
_SUSPECT = (
    "either this file is damaged, or its metadata was copied from another one; save it again from "
    "the source, load it with verify=False, or seal it with force=True if its bytes are surely good"
)
_COPIED = "its metadata was copied from a sealed file, and its checksums are of that one"
_OWN_ONES = "checksums of its own, which fastio.seal gives it"
_TABLE_TEXT = "compact JSON of algorithm, start, chunk_bytes and chunks, as fastio.seal writes it"
_NEWER = "or a newer fastio, which may have written this file"


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    """The table as its JSON text has it, in this order."""

    algorithm: str
    start: int
    chunk_bytes: int
    chunks: str


def parse(
    metadata: Mapping[str, str], *, header: bytes, file_bytes: int
) -> ChecksumTable | UnsoundTable | None:
    """Return the table that a file's metadata holds, or None if it has no key of fastio's.

    It is unsound if there is a key of fastio's, but no table that fits the file, or the header is
    not the one that was written.

    Parameters
    ----------
    metadata : mapping of str to str
        All of ``__metadata__``.
    header : bytes
        The file up to the first byte of its data.
    file_bytes : int
        Size of the whole file.

    Raises
    ------
    Nothing.
    """
    keys = {key for key in metadata if key.startswith(KEY_PREFIX)}
    if not keys:
        return None
    where = _Header(header)
    if len(header) % START_ALIGNMENT:
        return where.unsound(min(keys), _COPIED, _OWN_ONES, is_copied=True)
    try:
        return _sound_table(keys, metadata, where, file_bytes)
    except _Unsound as found:
        return found.table


def _sound_table(
    keys: set[str], metadata: Mapping[str, str], header: _Header, file_bytes: int
) -> ChecksumTable:
    _check_keys(keys, metadata, header)
    _check_digest(header)
    table = _decode(metadata[_TABLE_KEY], header)
    start = len(header.raw)
    chunk_count = _chunk_count(file_bytes - table.start, table.chunk_bytes)
    if table.start != start:
        problem = f"its checksums start at {table.start}, and its data at {start}"
        raise header.refusal(_TABLE_KEY, problem, "the same place")
    digest_bytes = table.algorithm.digest_bytes
    if len(table.digests) != chunk_count * digest_bytes:
        problem = f"it has {len(table.digests)} bytes of checksums for {chunk_count} chunks"
        raise header.refusal(_TABLE_KEY, problem, str(chunk_count * digest_bytes))
    return table


def verify(table: ChecksumTable, data: bytes, path: str) -> None:
    """Compare the checksums of a file that is in memory.

    Raises
    ------
    ChecksumError
        For the first chunk that is not what was saved.
    """
    damage = table.first_damage(memoryview(data)[table.start :], table.start)
    if damage is not None:
        raise damage.error(path)


def checked_chunk_bytes(chunk_bytes: int | None) -> int:
    """Return the size of a chunk that was asked for, or the default.

    Raises
    ------
    ValueError
        If chunks cannot have it.
    """
    if chunk_bytes is None:
        return CHUNK_BYTES_DEFAULT
    sizes = range(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX + 1)
    if chunk_bytes not in sizes or chunk_bytes & (chunk_bytes - 1):
        raise ValueError(
            f"chunk_bytes={chunk_bytes}: expected a power of two from 64 KiB to 16 MiB"
        )
    return chunk_bytes


def without_own_keys(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the user's part of a file's metadata.

    Raises
    ------
    Nothing.
    """
    return {key: value for key, value in metadata.items() if not key.startswith(KEY_PREFIX)}


class _Unsound(Exception):
    """Raised where a table is found to be unsound, and caught by `parse`."""

    def __init__(self, table: UnsoundTable) -> None:
        self.table = table


class _Header(msgspec.Struct, frozen=True):
    """For messages: a file up to the first byte of its data."""

    raw: bytes

    def unsound(
        self, at: str | int, problem: str, expected: str, *, is_copied: bool = False
    ) -> UnsoundTable:
        """The fault at a key in the metadata, or at a byte."""
        offset = at if isinstance(at, int) else max(LENGTH_BYTES, self.raw.find(f'"{at}"'.encode()))
        digest = f"{_native.xxh3_64(self.raw):016x}"
        return UnsoundTable(problem, offset, expected, is_copied, digest)

    def refusal(self, at: str | int, problem: str, expected: str) -> _Unsound:
        """The same of a header that may be damaged."""
        return _Unsound(self.unsound(at, problem, f"{expected}; {_SUSPECT}"))


def _check_keys(keys: set[str], metadata: Mapping[str, str], header: _Header) -> None:
    version = metadata.get(_VERSION_KEY)
    if version not in (None, _VERSION):
        problem = f"its checksums are of version {shown(version)}"
        raise header.refusal(_VERSION_KEY, problem, f"{_VERSION!r}, {_NEWER}")
    if keys != _KEYS:
        missing, unknown = sorted(_KEYS - keys), sorted(keys - _KEYS)
        what = [f"lacks {', '.join(missing)}"] if missing else []
        what += [f"has the unknown {shown(', '.join(unknown))}"] if unknown else []
        problem = f"its metadata {' and '.join(what)}"
        expected = f"{', '.join(sorted(_KEYS))}, or no key that begins with {KEY_PREFIX!r}"
        raise header.refusal(min(keys), problem, expected)


def _check_digest(header: _Header) -> None:
    if header.raw[LENGTH_BYTES:_DIGEST_AT] != _PREFIX:
        problem = "its header has metadata of fastio's, but does not start as a sealed one"
        raise header.refusal(LENGTH_BYTES, problem, _PREFIX.decode())
    expected, found = header.raw[_DIGITS].decode("ascii", "replace"), _header_digest(header.raw)
    if expected != found:
        problem = f"the checksum of its header is {found}"
        raise header.refusal(_DIGEST_AT, problem, shown(expected))


def _header_digest(header: bytes | bytearray) -> str:
    blank = bytearray(header)
    blank[_DIGITS] = b"0" * 16
    return f"{_native.xxh3_64(blank):016x}"


def _decode(text: str, header: _Header) -> ChecksumTable:
    try:
        written = msgspec.json.decode(text, type=_Table)
    except (msgspec.MsgspecError, ValueError) as error:
        problem = f"its checksum table cannot be read: {error}"
        raise header.refusal(_TABLE_KEY, problem, _TABLE_TEXT) from None
    algorithm = _native.ALGORITHMS.get(written.algorithm)
    if algorithm is None:
        problem = f"its checksums are by {shown(written.algorithm)}"
        known = ", ".join(map(repr, _native.ALGORITHMS))
        raise header.refusal(_TABLE_KEY, problem, f"{known}, {_NEWER}")
    chunk_bytes = written.chunk_bytes
    if not CHUNK_BYTES_MIN <= chunk_bytes <= CHUNK_BYTES_MAX or chunk_bytes & (chunk_bytes - 1):
        problem = f"its chunks are of {chunk_bytes} bytes"
        raise header.refusal(_TABLE_KEY, problem, "a power of two from 64 KiB to 16 MiB")
    try:
        digests = base64.b64decode(written.chunks, validate=True)
    except (binascii.Error, ValueError) as error:
        problem = f"its checksums cannot be read: {error}"
        raise header.refusal(_TABLE_KEY, problem, "padded base64 of RFC 4648") from None
    table = ChecksumTable(written.start, chunk_bytes, digests, algorithm)
    # One text for each table: no doubled keys, no stray bits in the last base64 digit.
    if _encode(table) != text.encode():
        problem = "its checksum table is not written as it should be"
        raise header.refusal(_TABLE_KEY, problem, _TABLE_TEXT)
    return table


def _encode(table: ChecksumTable) -> bytes:
    chunks = base64.b64encode(table.digests).decode("ascii")
    return msgspec.json.encode(_Table(table.algorithm.name, table.start, table.chunk_bytes, chunks))


def _chunk_count(nbytes: int, chunk_bytes: int) -> int:
    return -(-nbytes // chunk_bytes)


class HeaderPlan(msgspec.Struct, frozen=True):
    """A sealed header whose size is known before its checksums are.

    Attributes
    ----------
    start : int
        Bytes of length and header together: where the data starts.
    chunk_bytes : int
        Bytes of data that get a checksum.
    algorithm : _native.Algorithm
    """

    start: int
    chunk_bytes: int
    algorithm: _native.Algorithm
    _metadata: Mapping[str, str]
    _tensors: bytes

    def encode(self, digests: bytes) -> bytes:
        """Return the first `start` bytes of the file.

        Parameters
        ----------
        digests : bytes
            By the algorithm, of each chunk, one behind the other; as many as the data has chunks.

        Raises
        ------
        ValueError
            If they are more or fewer, so that the header does not come to its size.
        """
        table = ChecksumTable(self.start, self.chunk_bytes, digests, self.algorithm)
        text = _header_text(self._metadata, self._tensors, table)
        header = bytearray((self.start - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "little"))
        header += text.ljust(self.start - LENGTH_BYTES)
        if _padded(text) != self.start:
            raise ValueError(f"{table.chunks} checksums do not fit this header")
        header[_DIGITS] = _header_digest(header).encode("ascii")
        return bytes(header)


def plan_header(
    metadata: Mapping[str, str],
    tensors: bytes,
    data_bytes: int,
    path: str,
    chunk_bytes: int = CHUNK_BYTES_DEFAULT,
    algorithm: _native.Algorithm = DEFAULT_ALGORITHM,
) -> HeaderPlan:
    """Lay out a sealed header.

    Parameters
    ----------
    metadata : mapping of str to str
        The user's; keys of fastio's are left out. If nothing is left, it is `FORMAT_OF_NONE`.
    tensors : bytes
        The header's entries for tensors as compact JSON, without the braces around them.
    data_bytes : int
        Size of what follows the header.
    path : str
        For messages.
    chunk_bytes : int
        Bytes of data that get a checksum; doubled where the header would be too long otherwise.
    algorithm : _native.Algorithm
        What checksums are taken with.

    Raises
    ------
    FormatError
        If the header would be longer than the format allows, even with the largest chunks.
    """
    users = dict(sorted(without_own_keys(metadata).items())) or FORMAT_OF_NONE
    while chunk_bytes <= CHUNK_BYTES_MAX:
        digests = bytes(_chunk_count(data_bytes, chunk_bytes) * algorithm.digest_bytes)
        start = 0
        # The text holds its own length, and more digits only make it longer: this comes to rest.
        while start != (
            padded := _padded(
                _header_text(users, tensors, ChecksumTable(start, chunk_bytes, digests, algorithm))
            )
        ):
            start = padded
        if start - LENGTH_BYTES <= HEADER_BYTES_MAX:
            return HeaderPlan(start, chunk_bytes, algorithm, users, tensors)
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
    return -(-(LENGTH_BYTES + len(text)) // START_ALIGNMENT) * START_ALIGNMENT
