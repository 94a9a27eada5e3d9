"""The C++ core: moves and verifies bytes; knows no tensor names and no JSON."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypedDict, final, type_check_only

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

ShardRequest: TypeAlias = tuple[
    File,
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    tuple[int, int, bytes] | None,
]
"""(file, begins, ends, table): extents [begin, end) of a file, ascending; a table of (start,
chunk_bytes, digests) verifies them."""

Place: TypeAlias = tuple[int, int, Sequence[int], Sequence[int]]
"""(address, bytes of an element, shape, strides in bytes)."""

@type_check_only
class Options(Protocol):
    @property
    def engine(self) -> str: ...
    @property
    def cache(self) -> str: ...
    @property
    def mapping(self) -> str: ...
    @property
    def huge_pages(self) -> str: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def queue_depth(self) -> int: ...
    @property
    def lanes(self) -> int: ...
    @property
    def memory_limit_bytes(self) -> int | None: ...

@final
class Loaded:
    """Memory that was loaded, to be wrapped: the extents of a job, or of one region of it."""

    @property
    def statistics(self) -> Statistics: ...
    def numpy(
        self,
        shard: int,
        dtypes: list[np.dtype[Any]],
        shapes: list[tuple[int, ...]],
        first: int = 0,
    ) -> list[npt.NDArray[Any]]: ...
    def dlpack(
        self, shard: int, codes: bytes, bits: bytes, shapes: list[tuple[int, ...]], first: int = 0
    ) -> list[CapsuleType]: ...
    def release(self) -> None: ...

def load(
    shards: Sequence[ShardRequest],
    options: Options,
    *,
    keep_cold: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Loaded:
    """Read extents of files into memory of their own."""

@final
class Stream:
    """A load that is taken region by region while it goes on, in a window of memory."""

    def __init__(
        self,
        shards: Sequence[ShardRequest],
        options: Options,
        *,
        window_bytes: int,
        keep_cold: bool = False,
    ) -> None: ...
    @property
    def statistics(self) -> Statistics: ...
    def regions(self) -> list[tuple[int, int, int]]:
        """The shard, the first extent and the one behind the last of each region, in order."""

    def take(self, region: int) -> Loaded:
        """Wait for a region, and take it over; once."""

    def let_go(self, region: int) -> None:
        """Its bytes do not count against the window any more."""

    def close(self) -> None: ...

@final
class Fill:
    """A load into memory that exists."""

    def __init__(
        self,
        shards: Sequence[ShardRequest],
        places: Sequence[Sequence[Place]],
        options: Options,
        *,
        keep_cold: bool = False,
    ) -> None: ...
    @property
    def statistics(self) -> Statistics: ...
    def run(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Returns, or raises, when nothing is written to the places any more."""

    def placed(self, shard: int) -> list[bool]:
        """Whether all bytes of each extent are at their place."""

@final
class MappedFile:
    """A file in the page cache, tensor by tensor; chunks are verified as they are come to."""

    @staticmethod
    def open(shard: ShardRequest, options: Options) -> MappedFile | None: ...
    @property
    def chunks_verified(self) -> int: ...
    def read(self, begin: int, end: int) -> npt.NDArray[np.uint8]:
        """Bytes [begin, end) of the file as (n,) uint8 of its own."""

    def numpy(self, row: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]: ...
    def dlpack(self, row: int, code: int, bits: int, shape: tuple[int, ...]) -> CapsuleType: ...

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
