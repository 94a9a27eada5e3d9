"""Dicts that the core returns, and the options that it asks for. For type checkers only."""

from typing import Literal, Protocol, TypedDict, type_check_only

@type_check_only
class Statistics(TypedDict):
    engine: str
    engine_reason: str
    lanes: int
    nbytes: int
    bytes_direct: int
    bytes_buffered: int
    bytes_mapped: int
    bytes_fed: int  # from elsewhere than a file
    chunks_verified: int
    chunks_trusted: int  # another process has verified them
    access: list[tuple[str, str]]  # of each replica of each shard
    fallbacks: list[str]
    incidents_dropped: int  # beyond the 1000 that are kept until they are asked for
    lane_times: list[dict[str, float]]  # of lanes that have ended; keys: fastio.LaneTimes

@type_check_only
class SaveStatistics(TypedDict):
    engine: str
    engine_reason: str
    lanes: int
    nbytes: int
    bytes_direct: int
    bytes_buffered: int
    bytes_gathered: int
    bytes_rewritten: int  # copied and written again, as the tensors changed meanwhile
    chunks: int
    fallbacks: list[str]

@type_check_only
class Incident(TypedDict):
    """A try that failed, and what helped; nbytes is the chunk's, or what was to be read."""

    shard: int
    replica: int
    path: str
    offset: int
    nbytes: int
    cause: Literal["checksum", "read"]
    detail: str
    errno: int | None
    remedy: Literal["read_again", "other_replica", "none"]

@type_check_only
class DriverStatus(TypedDict):
    available: bool
    reason: str
    version: int

@type_check_only
class PinnedAccount(TypedDict):
    nbytes: int
    leased_bytes: int
    unpinned_bytes: int
    seconds: float
    refusal: str

@type_check_only
class Status(TypedDict):
    available: bool
    reason: str
    features: list[str]

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
    def lanes_limit(self) -> int | None: ...
    @property
    def memory_limit_bytes(self) -> int | None: ...
    @property
    def pinned_limit_bytes(self) -> int: ...
    @property
    def trust_verified(self) -> bool: ...
    @property
    def root_timeout_s(self) -> float: ...
