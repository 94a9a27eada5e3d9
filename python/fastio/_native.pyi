"""The C++ core: moves and verifies bytes; knows no tensor names and no JSON."""

import os
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer, CapsuleType

from fastio._native_records import DriverStatus as DriverStatus
from fastio._native_records import Incident as Incident
from fastio._native_records import Options as Options
from fastio._native_records import PinnedAccount as PinnedAccount
from fastio._native_records import SaveStatistics as SaveStatistics
from fastio._native_records import Statistics as Statistics
from fastio._native_records import Status as Status

__version__: str

_Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

@final
class File:
    """A regular file, opened once for reading; its size is fixed at open.

    Raises FileNotFoundError, IsADirectoryError, ReadError.
    """

    def __init__(self, path: _Path) -> None: ...
    @staticmethod
    def open_in(
        folder_fd: int, name: _Path, shown_path: _Path, *, timeout_s: float | None = None
    ) -> File:
        """The file that has this name in an open folder; `shown_path` is for messages only.

        Raises FileNotFoundError, and ReadError: ELOOP for a link, EINVAL for what is no name of a
        regular file there, ETIMEDOUT when `timeout_s` is over.
        """

    @property
    def path(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def filesystem(self) -> str: ...
    @property
    def disk(self) -> int: ...
    def read(self, offset: int, nbytes: int, *, timeout_s: float | None = None) -> bytes:
        """Bytes from an offset on; ETIMEDOUT when `timeout_s` is over."""

    def resident_bytes(self) -> int | None: ...

@final
class Feed:
    """Bytes that come from elsewhere than a file: an object store, another host, a library.

    `read(offset, nbytes)` brings at most so many bytes from there on, and at least one, to several
    threads at once. What it raises fails the read. Replicas with one `disk` share its speed.
    """

    def __init__(
        self, path: _Path, nbytes: int, read: Callable[[int, int], Buffer], *, disk: int
    ) -> None: ...
    @property
    def path(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def disk(self) -> int: ...
    def read(self, offset: int, nbytes: int, *, timeout_s: float | None = None) -> bytes:
        """Bytes from an offset on. Raises ReadError; ETIMEDOUT when `timeout_s` is over."""

Replica: TypeAlias = File | Feed
ShardRequest: TypeAlias = tuple[
    Sequence[Replica],
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    tuple[int, int, Algorithm, bytes] | None,
    bool,
]
"""(replicas, begins, ends, table, on_roots): extents [begin, end) of a file, ascending. The
preferred replica comes first. A table of (start, chunk_bytes, algorithm, digests) verifies them. A
disk that hangs is left if its replica lies on a root of a store; others are waited for."""

_Int64s: TypeAlias = npt.NDArray[np.int64]
_Progress: TypeAlias = Callable[[int, int], None] | None
Place: TypeAlias = tuple[int, int, Sequence[int], Sequence[int], int]
"""(address, bytes of an element, shape, strides in bytes, ordinal of its device or -1)."""

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
    mapping_room_bytes: int | None = None,
    progress: _Progress = None,
    persistent: bool = False,
    incidents: list[Incident] | None = None,
) -> Loaded:
    """Read extents of files into memory of their own; cold ones are mapped within their room.

    Failed tries of a persistent load are appended to `incidents`, also if the load fails.
    """

def survey(
    shards: Sequence[ShardRequest], options: Options, *, progress: _Progress = None
) -> tuple[list[Incident], Statistics]:
    """Read extents of files, compare them with their tables, and keep nothing.

    Memory is that of the blocks in flight: lanes x queue_depth x block_bytes. Chunks that could not
    be read, or are damaged in a second read, too, are incidents with the remedy "none"; the survey
    goes on behind them.
    """

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
        persistent: bool = False,
    ) -> None: ...
    @property
    def statistics(self) -> Statistics: ...
    def regions(self) -> list[tuple[int, int, int]]:
        """The shard, the first extent and the one behind the last of each region, in order."""

    def take(self, region: int) -> Loaded:
        """Wait for a region, and take it over; once."""

    def release(self, region: int) -> None:
        """Its bytes do not count against the window any more."""

    def incidents(self) -> list[Incident]:
        """Tries that failed since the last call."""

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
        persistent: bool = False,
        joins_places: bool = False,
        devices: Mapping[int, int] = ...,
        keep: object = None,
    ) -> None:
        """`devices`: by ordinal, the caller's stream; `keep`: what has the places' memory.

        Raises DeviceError.
        """

    @property
    def statistics(self) -> Statistics: ...
    def start(self) -> None: ...
    def wait(self, progress: _Progress = None) -> None:
        """Returns, or raises, when nothing is written to the places any more."""

    def follow(self, streams: Mapping[int, int], progress: _Progress = None) -> None:
        """Returns when all is verified and on its way, for what comes behind in these streams and
        in those that the load came behind; or raises as `wait` does.
        """

    def done(self) -> bool: ...
    def failed(self) -> bool: ...
    def run(self, progress: _Progress = None) -> None:
        """Starts and waits; whoever is interrupted leaves nothing at work in between."""

    def placed(self, shard: int) -> list[bool]:
        """Whether all bytes of each extent are at their place."""

    def incidents(self) -> list[Incident]:
        """Tries that failed since the last call."""

@final
class TargetFile:
    """A file that is being written. Calls may be left by Ctrl-C also on a disk that hangs.
    `reserve` says whether space was set aside; else the file was only made longer.

    Raises WriteError.
    """

    def __init__(self, fd: int, path: _Path, reopened_as: _Path) -> None: ...
    @property
    def filesystem(self) -> str: ...
    @property
    def disk(self) -> int: ...
    def direct_refusal(self) -> str:
        """Why O_DIRECT cannot be used; empty where it can."""

    def reserve(self, nbytes: int) -> bool: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def truncate(self, nbytes: int) -> None: ...
    def sync(self) -> None: ...

@final
class Save:
    """A save of tensors into one file, in legs.

    Tensor i lies at addresses[i] in one piece, unless layouts has it as (place, bytes of each value
    that is stored the other way round, or 1), and goes to [bounds[i], bounds[i + 1]) of the file.
    """

    def __init__(
        self,
        file: TargetFile,
        addresses: npt.NDArray[np.uint64],
        bounds: _Int64s,
        layouts: Mapping[int, tuple[Place, int]],
        *,
        chunk_bytes: int,
        algorithm: Algorithm,
        options: Options,
        devices: Mapping[int, int] = ...,
        on: Mapping[int, int] = ...,
    ) -> None:
        """`devices`: streams by ordinal; `on`: ordinals by position. Raises DeviceError."""

    @property
    def file(self) -> TargetFile: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def block_count(self) -> int: ...
    @property
    def digests(self) -> bytes: ...
    @property
    def statistics(self) -> SaveStatistics: ...
    def run(self, leg: str, first: int, last: int, progress: _Progress = None) -> None:
        """Write the blocks [first, last): "direct", "buffered" or "in_order"; or have all of them
        "copied"; or their checksums taken only: "summed"."""
    def write_to(self, file: TargetFile) -> None: ...

def gather(
    addresses: npt.NDArray[np.uint64],
    bounds: _Int64s,
    layouts: Mapping[int, tuple[Place, int]],
    out: Buffer,
) -> None:
    """Put all bytes one behind the other; addresses, bounds and layouts are those of Save."""

def address_of(array: npt.NDArray[Any], /) -> int:
    """Where the first byte of an array lies."""

def exchange(one: _Path, other: _Path) -> bool:
    """Let two files change their names; False where that cannot be done. Raises WriteError."""

@final
class ActiveTime:
    """How long at least one thread was active; `stop_all` is for a child made by fork."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def stop_all(self) -> None: ...
    @property
    def seconds(self) -> float: ...

@final
class MappedFile:
    """A file in the page cache, tensor by tensor; chunks are verified as they are come to."""

    @staticmethod
    def open(
        shard: ShardRequest, options: Options, active_time: ActiveTime | None = None
    ) -> MappedFile | None: ...
    @property
    def chunks_verified(self) -> int: ...
    @property
    def chunks_trusted(self) -> int: ...
    @property
    def bytes_taken(self) -> int: ...
    def read(self, begin: int, end: int) -> npt.NDArray[np.uint8]:
        """Bytes [begin, end) of the file as (n,) uint8 of its own."""

    def view(self, begin: int, end: int) -> npt.NDArray[np.uint8]:
        """Bytes [begin, end) of the file as (n,) uint8, verified and read-only."""

    def release(self, begin: int, end: int) -> None:
        """Release the pages inside [begin, end); the page cache keeps them."""

    def numpy(self, row: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]: ...
    def dlpack(self, row: int, code: int, bits: int, shape: tuple[int, ...]) -> CapsuleType: ...
    def numpy_part(
        self, row: int, dtype: np.dtype[Any], shape: tuple[int, ...], index: object
    ) -> npt.NDArray[Any] | None:
        """A part of a tensor of its own memory. None for an index that is wrong, or none of ints
        and slices, and for a part of no bytes."""

    def dlpack_part(
        self, row: int, code: int, bits: int, shape: tuple[int, ...], index: object
    ) -> CapsuleType | None: ...

def numpy_copies(
    data: bytes,
    begins: _Int64s,
    ends: _Int64s,
    dtypes: list[np.dtype[Any]],
    shapes: list[tuple[int, ...]],
) -> list[npt.NDArray[Any]]:
    """Tensors out of bytes, each of its own memory."""

def dlpack_copies(
    data: bytes,
    begins: _Int64s,
    ends: _Int64s,
    codes: bytes,
    bits: bytes,
    shapes: list[tuple[int, ...]],
) -> list[CapsuleType]: ...
def array_columns(
    arrays: list[Any], names: Mapping[np.dtype[Any], str], /
) -> tuple[list[str], list[tuple[int, ...]], npt.NDArray[np.uint64], _Int64s]:
    """Dtypes (by `names`), shapes, addresses and bytes of arrays; dtype "" for what is no plain
    numpy.ndarray of one of these dtypes whose bytes lie one behind the other."""

def tensor_columns(
    entries: Sequence[Any], bits: Mapping[str, int], data_bytes: int, /
) -> tuple[list[str], list[tuple[int, ...]], _Int64s, _Int64s, _Int64s, bool]:
    """Dtypes, shapes, begins, ends and counts of values of a list of header entries (dtype, shape,
    data_offsets); and whether they cover the data in order, each with the bytes of its dtype (by
    `bits`) and shape.

    A begin or end that is negative or beyond int64 is -1. So is the count of a shape with a
    negative size, more than 64 dimensions, or more than 2**56 values (sizes of 0 left out).
    """

def xxh3_64(data: Buffer, /) -> int:
    """XXH3-64 of the bytes, seed 0."""

@final
class Algorithm:
    """An algorithm of checksums, which tables of checksums and the core share."""

    @property
    def name(self) -> str: ...
    @property
    def digest_bytes(self) -> int: ...
    def digests(self, data: Buffer, chunk_bytes: int, /) -> bytes:
        """The digest of each chunk, one behind the other; the last chunk may be short."""

    def text(self, digest: Buffer, /) -> str:
        """A digest as messages have it. Raises ValueError for another length."""

def note_debt(disk: int) -> None:
    """Note that a disk (st_dev) owes an answer: loads ask it for what no other disk has alone."""

def note_answer(disk: int) -> None: ...
def owes_answer(disk: int) -> bool: ...
def checksum_variant() -> str: ...
def engine_statuses() -> dict[str, Status]: ...
def find_driver() -> DriverStatus: ...
def pinned_account() -> PinnedAccount: ...
def trim_pinned() -> int: ...
def device_dlpack(
    owner: object,
    ordinal: int,
    address: int,
    code: int,
    bits: int,
    shape: tuple[int, ...],
    nbytes: int,
) -> CapsuleType: ...

ALGORITHMS: dict[str, Algorithm]  # by name; the default is the first
DEFAULT_BLOCK_BYTES: int
DEFAULT_QUEUE_DEPTH: int
DEFAULT_PINNED_LIMIT_BYTES: int
testing: ModuleType  # what only tests ask of the core; wheels have no such submodule
