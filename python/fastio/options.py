"""Options: how a load or a save is done.

Precedence: an argument beats a ``FASTIO_*`` variable, which beats the default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import fastio._native as _native
from fastio.arguments.sizes import SECONDS_MAX, seconds, whole_number
from fastio.arguments.switches import is_on
from fastio.arguments.variables import variable_of, warn_of_unknown
from fastio.display.matches import close_matches
from fastio.display.values import one_line, shown
from fastio.host.cores import usable_cores

EngineName = Literal["auto", "uring", "pread"]
CacheMode = Literal["auto", "bypass", "keep"]
MappingMode = Literal["auto", "always", "never"]
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
    "lanes_limit": (1, 1024),
    "memory_limit_bytes": (1, 2**63 - 1),
    "pinned_limit_bytes": (1, 2**63 - 1),
    "device_memory_limit_bytes": (1, 2**63 - 1),
}
_SWITCHES = ("in_place", "trust_verified")
_TIMES = ("root_timeout_s", "hedge_after_s")
_MAY_BE_NONE = (
    "lanes_limit",
    "memory_limit_bytes",
    "device_memory_limit_bytes",
    "hedge_after_s",
)

if TYPE_CHECKING:

    class Number:
        """A number as it is given, and as it is read: what type checkers see of such an option."""

        def __get__(self, options: object, kind: type) -> int: ...
        def __set__(self, options: object, value: float | str) -> None: ...

    class Bound:
        """A number that may be None: no bound."""

        def __get__(self, options: object, kind: type) -> int | None: ...
        def __set__(self, options: object, value: float | str | None) -> None: ...

    class Seconds:
        """A time as it is given, and as it is read."""

        def __get__(self, options: object, kind: type) -> float: ...
        def __set__(self, options: object, value: float | str) -> None: ...

    class Delay:
        """A time that may be None: never."""

        def __get__(self, options: object, kind: type) -> float | None: ...
        def __set__(self, options: object, value: float | str | None) -> None: ...
else:
    Number, Bound, Seconds, Delay = int, int | None, float, float | None


def default_lanes() -> int:
    """Two lanes hide each other's page faults; more of them, up to 16, where there are cores.

    Measured (bench/results): on 2 cores, one lane stays well under the disk's speed into fresh
    memory. On 16 cores, a cached file gets to a GPU in 59 ms with 16 lanes, in 69 ms with 12 and in
    90 ms with 8 (trace-gpu-nvidia-h200.json, blocks of 2 MiB).
    """
    return max(2, min(16, usable_cores()))


def _field(name: str, default: Callable[[], Any]) -> Any:
    """A field whose default is read from FASTIO_<NAME> when the Options are made."""

    variable = variable_of(name)

    def from_environment() -> Any:
        text = os.environ.get(variable)
        if text is None or not (text := text.strip()):
            return default()
        return _checked(name, variable, text)

    return field(default_factory=from_environment, metadata={"default": default})


@dataclass(frozen=True, kw_only=True)
class Options:
    """How tensors are read and written.

    An option that is not given comes from the environment, then from the default.

    Parameters
    ----------
    engine : {"auto", "uring", "pread"}
        ``auto`` takes io_uring if a trial of it works, else preadv threads.
    cache : {"auto", "bypass", "keep"}
        ``bypass`` reads with O_DIRECT. ``keep`` reads through the page cache, so that the file is
        warm for the next reader. ``auto`` reads cached pages from the page cache and the rest with
        O_DIRECT; all through the page cache if other ranks of this host (``LOCAL_WORLD_SIZE`` > 1)
        will read the file, too.
    mapping : {"auto", "always", "never"}
        ``auto`` maps a file that is wholly in the page cache, privately. A load of a whole source
        also maps what it reads through the page cache to keep it there, if memory has room for it
        twice. ``always`` maps any file of such a load, cold or not, except with ``bypass``. What
        cannot be mapped is copied, and the report says why. A mapping has three risks: a file that
        is rewritten in place changes the tensors, a file that shrinks causes a SIGBUS, and pages
        that the kernel evicts are read again without verification. ``never`` copies.
    block_bytes : int
        Bytes of one read, at most 1 GiB; rounded up to whole chunks. Default 4 MiB. A block of a
        cached file that is copied has 2 MiB at most. A write has half of `block_bytes`.
    queue_depth : int
        Reads or writes in flight of each lane, 1 to 4096. Default 8.
    lanes : int
        Threads that read and verify, or gather and write, 1 to 1024. A save has eight at most.
        Default: as many as usable cores, 2 to 16; a quota of a control group counts.
    lanes_limit : int or None
        Lanes of a load up to which more are added while the rate rises, 1 to 1024. Default None:
        none are added.
    memory_limit_bytes : int or None
        Bound on the memory of a load, with its result; of a save, on the memory beside the tensors.
        Default None: no bound. A save without copies takes at most 48 MiB.
    pinned_limit_bytes : int
        Bound on this process's pinned memory, through which bytes go to devices. It is part of
        `memory_limit_bytes`. Default 512 MiB.
    device_memory_limit_bytes : int or None
        Bound on the memory of a load on one device; of a stream, on the tensors there that it has
        not yielded. Default None: no bound.
    root_timeout_s : float
        Seconds that a root of a store may take to answer. A disk that delivers nothing in that time
        counts as missing. A root whose bytes other roots have gets half the time. A slow disk must
        deliver one block in it. ``inf``, and more than 10^9, wait for ever, as for files that are
        on no root. Default 10.
    hedge_after_s : float or None
        Seconds after which a late read of a store is asked of a replica on another disk, too. The
        first answer that verifies counts. Each read in flight has staging twice then, which counts
        against `memory_limit_bytes`, and all bytes are copied once more. Default None; None and
        ``inf``: never.
    trust_verified : bool
        A load does not verify a chunk that another process of this user has verified since this
        boot, if the file is the same and comes out of the page cache. `fastio.verify` reads all.
        See docs/verification.md for what is believed. Default False.
    huge_pages : {"auto", "on", "off"}
        ``on`` and ``auto`` ask the kernel for 2 MiB pages (madvise), ``off`` forbids them.
    in_place : bool
        Save into the existing file and do not replace it; a symlink is followed. Owner, mode, hard
        links and mounts on the file stay. A crash or an error midway loses its old content. This is
        for files that cannot be replaced: on a filesystem without rename, or mounts of their own.

    Raises
    ------
    ValueError
        An invalid value; names the option, or the variable it came from.
    TypeError
        A value of the wrong type.

    Warns
    -----
    UserWarning
        Once in a process, of a variable ``FASTIO_…`` that is unknown and may be mistyped.

    Notes
    -----
    Each option has a variable: ``FASTIO_ENGINE``, ``FASTIO_BLOCK_BYTES``, … A number may be a text,
    also as an argument, with a unit: K, M, G, T and KiB, MiB, GiB, TiB are powers of 1024; kB, MB,
    GB, TB are powers of 1000. A float must be whole. Choices may be in upper case. A switch may be
    a text as well: 1, true, yes, on, or 0, false, no, off.

    Examples
    --------
    >>> fastio.Options(block_bytes="8M").block_bytes
    8388608
    >>> fastio.Options(memory_limit_bytes="1.5 GB", lanes=2.0).memory_limit_bytes
    1500000000
    """

    engine: EngineName = _field("engine", lambda: "auto")
    cache: CacheMode = _field("cache", lambda: "auto")
    mapping: MappingMode = _field("mapping", lambda: "auto")
    block_bytes: Number = _field("block_bytes", lambda: _native.DEFAULT_BLOCK_BYTES)
    queue_depth: Number = _field("queue_depth", lambda: _native.DEFAULT_QUEUE_DEPTH)
    lanes: Number = _field("lanes", default_lanes)
    lanes_limit: Bound = _field("lanes_limit", lambda: None)
    memory_limit_bytes: Bound = _field("memory_limit_bytes", lambda: None)
    pinned_limit_bytes: Number = _field(
        "pinned_limit_bytes", lambda: _native.DEFAULT_PINNED_LIMIT_BYTES
    )
    device_memory_limit_bytes: Bound = _field("device_memory_limit_bytes", lambda: None)
    root_timeout_s: Seconds = _field("root_timeout_s", lambda: 10.0)
    hedge_after_s: Delay = _field("hedge_after_s", lambda: None)
    huge_pages: HugePages = _field("huge_pages", lambda: "auto")
    in_place: bool = _field("in_place", lambda: False)
    trust_verified: bool = _field("trust_verified", lambda: False)

    def __new__(cls, *_: object, **given: object) -> Options:
        for name in given:
            if name not in cls.__dataclass_fields__:
                raise TypeError(_no_option(name, cls.__dataclass_fields__))
        return super().__new__(cls)

    @one_line
    def __repr__(self) -> str:
        given = [
            f"{each.name}={getattr(self, each.name)!r}"
            for each in fields(self)
            if getattr(self, each.name) != each.metadata["default"]()
        ]
        return f"fastio.Options({', '.join(given)})"

    def __post_init__(self) -> None:
        for name in (*_CHOICES, *_RANGES, *_SWITCHES, *_TIMES):
            value = getattr(self, name)
            taken = _checked(name, name, value)
            if taken is not value:
                object.__setattr__(self, name, taken)
        warn_of_unknown(self.__dataclass_fields__, stacklevel=3)


def _no_option(name: str, options: Iterable[str]) -> str:
    matches = close_matches(name, options)
    meant = f"did you mean {' or '.join(matches)}?" if matches else f"it has {', '.join(options)}"
    return f"Options has no {name}; {meant}"


def _checked(name: str, origin: str, value: object) -> Any:
    """The value of an option, from a given one; `origin` is the argument or variable of that."""
    if name in _CHOICES:
        if not isinstance(value, str):
            raise TypeError(f"{origin} must be a str, not {type(value).__name__}")
        choices = _CHOICES[name]
        choice = value if value in choices else value.lower()
        if choice not in choices:
            raise ValueError(f"{origin}={shown(value)}: expected one of {', '.join(choices)}")
        return choice
    if name in _SWITCHES:
        return is_on(origin, value)
    if value is None and name in _MAY_BE_NONE:
        return None
    if name in _TIMES:
        is_plain = type(value) is float and 0 < value <= SECONDS_MAX
        return value if is_plain else seconds(origin, value)
    number = value if type(value) is int else whole_number(origin, value)
    low, high = _RANGES[name]
    if not low <= number <= high:
        raise ValueError(f"{origin}={value}: expected {low} to {high}")
    return number


_VARIABLES = tuple(f"FASTIO_{each.name.upper()}" for each in fields(Options))


def default_options() -> Options:
    """Return what ``Options()`` does; it is made anew only if a variable has changed.

    Raises
    ------
    ValueError
        A variable whose value is none.
    """
    return _made_of(*map(os.environ.get, _VARIABLES), default_lanes())


@lru_cache(maxsize=1)  # checking each value takes longer than opening a file
def _made_of(*_seen: object) -> Options:
    return Options()
