"""The checksums of a file's chunks, and the comparison of bytes with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

import fastio._native as _native
from fastio.errors import ChecksumError

if TYPE_CHECKING:
    from typing_extensions import Buffer

DEFAULT_ALGORITHM: _native.Algorithm = next(iter(_native.ALGORITHMS.values()))
"""What checksums are taken with, if nothing else is asked for: XXH3-64."""


class Damage(msgspec.Struct, frozen=True):
    """A chunk that differs from its checksum.

    Attributes
    ----------
    chunk : int
    offset, nbytes : int
        Its place in the file, in bytes.
    expected, found : str
        Digests, as messages have them.
    """

    chunk: int
    offset: int
    nbytes: int
    expected: str
    found: str

    def error(self, path: str, tensors: tuple[str, ...] = ()) -> ChecksumError:
        """The message for it."""
        return ChecksumError(
            path,
            chunk=self.chunk,
            offset=self.offset,
            nbytes=self.nbytes,
            expected=self.expected,
            found=self.found,
            tensors=tensors,
        )


class ChecksumTable(msgspec.Struct, frozen=True):
    """The checksums of a file's chunks; `fastio.formats.checksums` reads and writes it.

    Attributes
    ----------
    start : int
        Where chunk 0 begins in the file, in bytes.
    chunk_bytes : int
        Bytes a chunk; the last one may be short.
    digests : bytes
        Of each chunk, one behind the other.
    algorithm : _native.Algorithm
        What they were made with.
    """

    start: int
    chunk_bytes: int
    digests: bytes
    algorithm: _native.Algorithm = DEFAULT_ALGORITHM

    @property
    def chunks(self) -> int:
        """How many chunks it has."""
        return len(self.digests) // self.algorithm.digest_bytes

    @property
    def native(self) -> tuple[int, int, _native.Algorithm, bytes]:
        """The table as the core takes it."""
        return self.start, self.chunk_bytes, self.algorithm, self.digests

    def holds(self, data: Buffer, offset: int) -> bool:
        """Return whether bytes of whole chunks are what was saved.

        Parameters
        ----------
        data : bytes-like
            Ends with a chunk, which may be the short one at the end of the file.
        offset : int
            Where they begin in the file, in bytes: where a chunk does.
        """
        return self.algorithm.digests(data, self.chunk_bytes) == self._digests_from(offset, data)

    def first_damage(self, data: Buffer, offset: int) -> Damage | None:
        """Return the first chunk that is not what was saved, of bytes as `holds` takes them."""
        found = self.algorithm.digests(data, self.chunk_bytes)
        expected = self._digests_from(offset, data)
        if found == expected:
            return None
        size = self.algorithm.digest_bytes
        at = next(
            i for i in range(0, len(found), size) if found[i : i + size] != expected[i : i + size]
        )
        begin = at // size * self.chunk_bytes
        return Damage(
            chunk=(offset - self.start) // self.chunk_bytes + at // size,
            offset=offset + begin,
            nbytes=min(self.chunk_bytes, memoryview(data).nbytes - begin),
            expected=self.algorithm.text(expected[at : at + size]),
            found=self.algorithm.text(found[at : at + size]),
        )

    def _digests_from(self, offset: int, data: Buffer) -> bytes:
        size = self.algorithm.digest_bytes
        first = (offset - self.start) // self.chunk_bytes
        count = -(-memoryview(data).nbytes // self.chunk_bytes)
        return self.digests[first * size : (first + count) * size]
