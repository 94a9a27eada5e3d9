"""The C++ core: moves and verifies bytes; knows no tensor names and no JSON."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypedDict, final, type_check_only

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer, CapsuleType

__version__: str

@final
class File:
    """A regular file, opened once for reading; its size is fixed at open.

    Raises FileNotFoundError, IsADirectoryError, ReadError.
    """

    def __init__(self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> None: ...
    @property
    def path(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def filesystem(self) -> str: ...
    def read(self, offset: int, nbytes: int) -> bytes: ...
    def resident_bytes(self) -> int | None: ...

@type_check_only
class Statistics(TypedDict):
    engine: str
    engine_reason: str
    lanes: int
    nbytes: int
    bytes_direct: int
    bytes_buffered: int
    bytes_mapped: int
    chunks_verified: int
    access: list[tuple[str, str]]
    fallbacks: list[str]

@type_check_only
class Status(TypedDict):
    available: bool
    reason: str
    features: list[str]

@final
class Loaded:
    """A finished load: memory, to be wrapped."""

    @property
    def statistics(self) -> Statistics: ...
    def numpy(
        self, shard: int, dtypes: list[np.dtype[Any]], shapes: list[tuple[int, ...]]
    ) -> list[npt.NDArray[Any]]: ...
    def dlpack(
        self, shard: int, codes: bytes, bits: bytes, shapes: list[tuple[int, ...]]
    ) -> list[CapsuleType]: ...
    def release(self) -> None: ...

def load(
    shards: Sequence[
        tuple[
            File,
            npt.NDArray[np.int64],
            npt.NDArray[np.int64],
            tuple[int, int, bytes] | None,
        ]
    ],
    *,
    engine: str,
    cache: str,
    mapping: str,
    huge_pages: str,
    keep_cold: bool,
    block_bytes: int,
    queue_depth: int,
    lanes: int,
    memory_limit_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Loaded:
    """Read extents [begins, ends) of files; (start, chunk_bytes, digests) verifies them."""

def plan(
    begins: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    file_nbytes: int,
    *,
    grid: tuple[int, int] | None,
    alignment: int,
    block_bytes: int,
    region_bytes: int,
) -> tuple[list[tuple[int, int, int, int]], list[tuple[int, int, int]]]:
    """Regions (begin, end, first, last) and blocks (region, begin, end) for these extents."""

@type_check_only
class _Entry(Protocol):
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def data_offsets(self) -> tuple[int, int]: ...

def tensor_columns(
    entries: Sequence[_Entry], bits: Mapping[str, int], data_bytes: int, /
) -> tuple[
    list[str],
    list[tuple[int, ...]],
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    bool,
]:
    """Dtypes, shapes, begins, ends and counts of values of a list of header entries; and whether
    they cover the data in order, each with the bytes of its dtype (by `bits`) and shape.

    A begin or end that is negative or beyond int64 is -1. So is the count of a shape with a
    negative size, more than 64 dimensions, or more than 2**56 values (sizes of 0 left out).
    """

def xxh3_64(data: Buffer, /) -> int:
    """XXH3-64 of the bytes, seed 0."""

def xxh3_64_chunks(data: Buffer, chunk_bytes: int, /) -> bytes:
    """XXH3-64 of each chunk, 8 bytes each, little-endian; the last chunk may be short."""

def checksum_variant() -> str: ...
def engine_statuses() -> dict[str, Status]: ...
def parked_bytes() -> int:
    """Bytes kept for reads that nobody waits for any more."""

def set_completion_faults(faults: Sequence[tuple[int, str, int]]) -> None:
    """For tests: (completion, kind, value); see csrc/engine.h. Empty: none."""

def release_held_completions() -> None:
    """For tests: lets completions come that a fault of kind "never" holds."""
