"""Options: how a load or a save is done.

Precedence: an argument beats a ``FASTIO_*`` variable, which beats the default. (A value tuned for
the mount will come between the last two.)
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from fastio.shown import shown

EngineName = Literal["auto", "uring", "pread"]
CacheMode = Literal["auto", "bypass", "keep"]
MappingMode = Literal["auto", "never"]
HugePages = Literal["auto", "on", "off"]

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "engine": get_args(EngineName),
    "cache": get_args(CacheMode),
    "mapping": get_args(MappingMode),
    "huge_pages": get_args(HugePages),
}
_RANGES: Mapping[str, tuple[int, int]] = {
    "block_bytes": (1, 2**30),
    "queue_depth": (1, 4096),
    "lanes": (1, 1024),
    "memory_limit_bytes": (1, 2**63 - 1),
    "pinned_limit_bytes": (1, 2**63 - 1),
    "device_memory_limit_bytes": (1, 2**63 - 1),
}
_SWITCHES = ("in_place",)
_MAY_BE_NONE = ("memory_limit_bytes", "device_memory_limit_bytes")
_NUMBER = re.compile("([0-9]{1,30})([kmgt]?)")
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def default_lanes() -> int:
    """Two lanes hide each other's page faults; more of them, up to eight, where there are cores.

    Measured on 2 cores (bench/results): one lane stays well under the device's speed into fresh
    memory.
    """
    return max(2, min(8, len(os.sched_getaffinity(0)) // 2))


def _field(name: str, default: Callable[[], Any]) -> Any:
    """A field whose default is read from FASTIO_<NAME> when the Options are made."""

    variable = f"FASTIO_{name.upper()}"

    def from_environment() -> Any:
        text = os.environ.get(variable)
        if text is None or not (text := text.strip()):
            return default()
        value: Any = text
        if name in _SWITCHES:
            value = _parse_switch(variable, text)
        elif name not in _CHOICES:
            value = _parse_number(variable, text)
        _check(name, variable, value, text)
        return value

    return field(default_factory=from_environment)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How tensors are read and written. What is not given is taken from the environment, then from
    the default.

    Parameters
    ----------
    engine : {"auto", "uring", "pread"}
        ``auto`` takes io_uring where it works, found by trying, and preadv threads elsewhere.
    cache : {"auto", "bypass", "keep"}
        ``bypass`` reads with O_DIRECT; ``keep`` reads through the page cache, so that the next
        reader finds the file warm; ``auto`` takes what is in the page cache from there and reads
        the rest directly, but keeps it when several ranks of this host (``LOCAL_WORLD_SIZE``) are
        about to read it.
    mapping : {"auto", "never"}
        ``auto`` maps a file that is wholly in the page cache, privately. What a mapping costs: a
        file that is rewritten in place shows through, one that shrinks is a SIGBUS, and pages that
        were evicted under memory pressure are read again unverified. ``never`` copies.
    block_bytes : int
        Bytes of one read, at most 1 GiB; rounded up to whole chunks. Default 4 MiB. A write has
        half of it.
    queue_depth : int
        Reads or writes in flight of each lane, 1 to 4096. Default 8.
    lanes : int
        Threads that read and verify, or gather and write, 1 to 1024. Default: half of the usable
        cores, 2 to 8.
    memory_limit_bytes : int or None
        Bound on the memory of a load: the result, and what is parked; of a save: what it takes
        beside the tensors. Default None: no bound (a save takes 48 MiB at most, unless it copies).
    pinned_limit_bytes : int
        Bound on the pinned memory of this process, which what goes to devices passes through; it
        counts against `memory_limit_bytes` too. Default 512 MiB.
    device_memory_limit_bytes : int or None
        Bound on the memory that a load takes on one device, and on what a stream holds there of
        what it has not yielded. Default None: no bound.
    huge_pages : {"auto", "on", "off"}
        ``on`` and ``auto`` ask the kernel for 2 MiB pages (madvise), ``off`` forbids them.
    in_place : bool
        Save into the file that is there, rather than replace it; a symlink is followed. Owner,
        mode, hard links and what is mounted on the file stay. A crash, or an error midway, then
        leaves a file that is not whole, and what it held is lost. For files that cannot be
        replaced: where the filesystem cannot rename, or the file is a mount of its own.

    Raises
    ------
    ValueError
        A value that is none of the above; names the option, or the variable it came from.
    TypeError
        A value of the wrong type.

    Notes
    -----
    Each option has a variable: ``FASTIO_ENGINE``, ``FASTIO_BLOCK_BYTES``, … Sizes take the suffixes
    K, M, G and T (powers of 1024).
    """

    engine: EngineName = _field("engine", lambda: "auto")
    cache: CacheMode = _field("cache", lambda: "auto")
    mapping: MappingMode = _field("mapping", lambda: "auto")
    block_bytes: int = _field("block_bytes", lambda: 4 * 2**20)
    queue_depth: int = _field("queue_depth", lambda: 8)
    lanes: int = _field("lanes", default_lanes)
    memory_limit_bytes: int | None = _field("memory_limit_bytes", lambda: None)
    pinned_limit_bytes: int = _field("pinned_limit_bytes", lambda: 512 * 2**20)
    device_memory_limit_bytes: int | None = _field("device_memory_limit_bytes", lambda: None)
    huge_pages: HugePages = _field("huge_pages", lambda: "auto")
    in_place: bool = _field("in_place", lambda: False)

    def __post_init__(self) -> None:
        for name in (*_CHOICES, *_RANGES, *_SWITCHES):
            _check(name, name, getattr(self, name))


def _parse_switch(variable: str, text: str) -> bool:
    if text.lower() not in ("0", "1", "false", "true"):
        raise ValueError(f"{variable}={shown(text)}: expected 1 or 0, true or false")
    return text.lower() in ("1", "true")


def _parse_number(variable: str, text: str) -> int:
    written = _NUMBER.fullmatch(text.lower())
    if written is None:
        raise ValueError(
            f"{variable}={shown(text)}: expected a whole number, with K, M, G or T behind it"
        )
    return int(written[1]) * _UNITS[written[2]]


def _check(name: str, origin: str, value: object, written: object = None) -> None:
    """Refuse a value that the option cannot have; `origin` is where it came from, `written` how it
    was given there.
    """
    if name in _CHOICES:
        if not isinstance(value, str):
            raise TypeError(f"{origin} must be a str, not {type(value).__name__}")
        if value not in _CHOICES[name]:
            raise ValueError(f"{origin}={value!r}: expected one of {', '.join(_CHOICES[name])}")
        return
    if name in _SWITCHES:
        if not isinstance(value, bool):
            raise TypeError(f"{origin} must be a bool, not {type(value).__name__}")
        return
    if value is None and name in _MAY_BE_NONE:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{origin} must be an int, not {type(value).__name__}")
    low, high = _RANGES[name]
    if not low <= value <= high:
        given = value if written is None else written
        raise ValueError(f"{origin}={given}: expected {low} to {high}")
