"""The checksums of a file's chunks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChecksumTable:
    """The checksums of a file's chunks; `fastio.checksums` reads and writes it.

    Attributes
    ----------
    start : int
        Where chunk 0 begins in the file, in bytes.
    chunk_bytes : int
        Bytes a chunk; the last one may be short.
    digests : bytes
        XXH3-64 of each chunk, 8 bytes each, little-endian.
    """

    start: int
    chunk_bytes: int
    digests: bytes
