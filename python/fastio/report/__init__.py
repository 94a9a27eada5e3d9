"""Report: what a load or a save did, how fast, by which engine and why."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import zip_longest
from typing import Any

from fastio.catalog.encodings import Decoding
from fastio.display import values
from fastio.report.events import Event, lines_of

_log = logging.getLogger("fastio")
_NOTHING = "there were no bytes"
_FALLBACKS_SHOWN_MAX = 10
_FALLBACKS_IN_A_LINE_MAX = 3
_COUNTED = (
    "nbytes",
    "bytes_direct",
    "bytes_buffered",
    "bytes_mapped",
    "bytes_fed",
    "chunks_verified",
    "chunks_trusted",
)


@dataclass(frozen=True)
class LaneTimes:
    """The time of one lane of a load, by activity.

    The parts do not overlap. The rest of `total_s` went to everything else.

    Attributes
    ----------
    submit_s : float
        Seconds in submitting reads. O_DIRECT also maps fresh memory there.
    read_wait_s : float
        Seconds of waiting for reads, and of faulting in pages of mapped files.
    verify_s : float
        Seconds of comparing checksums.
    place_s : float
        Seconds of copying staged bytes to places on the host.
    copy_queue_s : float
        Seconds of queuing copies to devices.
    copy_wait_s : float
        Seconds of waiting for copies to devices while no read was in flight, and of polling them.
    room_wait_s : float
        Seconds of getting pinned memory, and of waiting for it or for room in the window.
    total_s : float
        Seconds that the lane ran.
    blocks : int
        Blocks that the lane verified and placed.
    nbytes : int
        Bytes that the lane read, or verified in a mapping. Bytes that were read again count again.
    """

    submit_s: float = 0.0
    read_wait_s: float = 0.0
    verify_s: float = 0.0
    place_s: float = 0.0
    copy_queue_s: float = 0.0
    copy_wait_s: float = 0.0
    room_wait_s: float = 0.0
    total_s: float = 0.0
    blocks: int = 0
    nbytes: int = 0

    def plus(self, other: LaneTimes) -> LaneTimes:
        """Return the sum of both, field by field."""
        names = (each.name for each in fields(self))
        return LaneTimes(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @values.one_line
    def __repr__(self) -> str:
        took = f"{values.duration(self.total_s)}, {self.read_wait_s:.3f} s of it waiting for reads"
        return f"<fastio.LaneTimes: {values.size(self.nbytes)} in {took}>"


@dataclass
class Report:
    """The account of one load or save. A success fills it, a failure leaves it empty.

    ``print(report)`` shows the main parts, ``repr(report)`` one short line.
    `fastio.Reader.report` sums up all reads of a reader. A tensor read twice counts twice.

    Attributes
    ----------
    engine, engine_reason : str
        ``uring`` or ``pread`` for reads and writes, ``mmap`` if the page cache had all bytes,
        ``inline`` for a small load on the caller's thread, ``none`` if there was nothing to do;
        and the reason.
    cache, cache_reason : str
        Of a load ``cold``, ``warm`` or ``mixed``, the state of the page cache; of a save the way
        that the bytes went; and the reason.
    tensors, files, lanes : int
        Counts of tensors, files and threads; of a reader, tensors and files of its source.
    nbytes : int
        Bytes of the tensors; for a slice, the bytes of the file that it needed.
    bytes_direct, bytes_buffered, bytes_mapped, bytes_fed : int
        Bytes that went with O_DIRECT, through the page cache, or through a mapping; or came from
        elsewhere than a file.
    bytes_gathered : int
        Bytes that were copied together before the write; all others were written in place.
    seconds, cpu_seconds : float
        Wall-clock time; processor time of the whole process meanwhile, with the kernel's. For a
        reader, the time that callers waited for bytes or that a stream or a loop was read ahead.
        Overlapping reads count once.
    lane_times : tuple of LaneTimes
        The times of each lane of a load, in the order in which lanes ended. Lanes that still work
        when the report is filled are missing. Further jobs of one load add to the same entries.
    bytes_reused : int
        Bytes of unchanged shards of a store, which were not written again.
    replicas_unread, bytes_unread : int
        With ``on_damage="repair"``: further replicas of the shards, and bytes that were not read.
    chunks_verified, chunks_sealed : int
        Chunks whose checksum was compared, and chunks whose checksum was saved.
    chunks_trusted : int
        With ``trust_verified``: chunks that another process of this boot had verified.
    decoded : tuple of Decoding
        What each encoding has decoded. Tensors that none of them names are native: their bytes in
        the file are those in memory.
    unverified : tuple of str
        Files without a checksum table, or all files with ``verify=False``.
    fallbacks : tuple of str
        Each deviation from the plan and its remedy, a line each; one line for all damage of a file.
    events : tuple of Event
        The `fallbacks` of replicas with their details: chunks, ranges, tensors.

    Examples
    --------
    >>> report = fastio.Report()
    >>> tensors = fastio.load("model.safetensors", report=report)
    >>> report.tensors, report.nbytes, report.chunks_verified
    (2, 36, 1)
    """

    engine: str = ""
    engine_reason: str = ""
    cache: str = ""
    cache_reason: str = ""
    tensors: int = 0
    files: int = 0
    nbytes: int = 0
    bytes_direct: int = 0
    bytes_buffered: int = 0
    bytes_mapped: int = 0
    bytes_fed: int = 0
    bytes_gathered: int = 0
    bytes_reused: int = 0
    replicas_unread: int = 0
    bytes_unread: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    lanes: int = 0
    chunks_verified: int = 0
    chunks_trusted: int = 0
    chunks_sealed: int = 0
    decoded: tuple[Decoding, ...] = ()
    unverified: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    lane_times: tuple[LaneTimes, ...] = ()

    @property
    def bytes_read(self) -> int:
        """Bytes that were read into memory; a mapping reads none."""
        return self.bytes_direct + self.bytes_buffered + self.bytes_fed

    @property
    def gb_per_s(self) -> float:
        """Tensor bytes a second, in units of 10^9."""
        return self.nbytes / self.seconds / 1e9 if self.seconds > 0 else 0.0

    def clear(self) -> None:
        """Forget an earlier load."""
        for each in fields(self):
            setattr(self, each.name, each.default)

    def take(self, statistics: Mapping[str, Any]) -> None:
        """Fill in what the native job counted."""
        self.cache, self.cache_reason = _summary(statistics["access"])
        self.fallbacks = tuple(statistics["fallbacks"])
        self.lane_times = tuple(LaneTimes(**times) for times in statistics["lane_times"])
        for name in ("engine", "engine_reason", "lanes", *_COUNTED):
            setattr(self, name, statistics[name])
        self.engine_reason = self.engine_reason or _NOTHING
        if self.engine == "mmap":  # without checksums the core counts no bytes of a mapping
            self.bytes_mapped = max(self.bytes_mapped, self.nbytes)

    def note(self, events: Sequence[Event]) -> None:
        """Say what happened to replicas."""
        self.events += tuple(events)
        self.fallbacks += tuple(lines_of(events))

    def add(self, statistics: Mapping[str, Any]) -> None:
        """Count one native job more; engine and cache are those of the last one."""
        before = replace(self)
        self.take(statistics)
        self.merge(before)

    def add_saved(self, statistics: Mapping[str, Any]) -> None:
        """Count one more file that was written; engine and cache are those of the last one."""
        self.engine = statistics["engine"]
        self.engine_reason = statistics["engine_reason"] or _NOTHING
        direct, buffered = statistics["bytes_direct"], statistics["bytes_buffered"]
        self.cache = "mixed" if direct and buffered else "kept" if buffered else "bypassed"
        self.lanes = max(self.lanes, statistics["lanes"])
        self.chunks_sealed += statistics["chunks"]
        for name in ("nbytes", "bytes_direct", "bytes_buffered", "bytes_gathered"):
            setattr(self, name, getattr(self, name) + statistics[name])
        self.fallbacks = tuple(dict.fromkeys((*self.fallbacks, *statistics["fallbacks"])))

    def fall_back(self, fallbacks: Iterable[str]) -> None:
        """Add what did not go as planned, unless it stands there."""
        self.fallbacks = tuple(dict.fromkeys((*self.fallbacks, *fallbacks)))

    def note_decoded(self, decodings: Iterable[Decoding]) -> None:
        """Count what encodings have decoded."""
        found = {each.encoding: each for each in self.decoded}
        for each in decodings:
            before = found.get(each.encoding)
            found[each.encoding] = each if before is None else before.plus(each)
        self.decoded = tuple(found.values())

    def merge(self, other: Report) -> None:
        """Count what another one has counted."""
        self.note_decoded(other.decoded)
        for name in _COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lanes = max(self.lanes, other.lanes)
        both = zip_longest(other.lane_times, self.lane_times, fillvalue=LaneTimes())
        self.lane_times = tuple(one.plus(more) for one, more in both)
        if self.engine == "none" and other.engine:  # it had nothing to do
            self.engine = self.engine_reason = ""
        for name in ("engine", "engine_reason", "cache", "cache_reason"):
            setattr(self, name, getattr(self, name) or getattr(other, name))
        self.fallbacks = tuple(dict.fromkeys((*self.fallbacks, *other.fallbacks)))

    def __str__(self) -> str:
        told = values.listed(self.fallbacks, _FALLBACKS_SHOWN_MAX)
        return "\n".join([*self._parts(), *told])

    def line(self) -> str:
        """Return the text on one line, for a log."""
        told = values.listed(self.fallbacks, _FALLBACKS_IN_A_LINE_MAX)
        return "; ".join([*self._parts(), *told])

    def log(self, done: str, *what: object) -> None:
        """Say in the log what was done, and all this, on one line."""
        if _log.isEnabledFor(logging.INFO):  # the line takes longer than a small load may
            _log.info(f"{done}: %s", *what, self.line())

    @values.one_line
    def __repr__(self) -> str:
        if not self.engine:
            return "<fastio.Report: nothing yet>"
        speed = f"{values.size(self.nbytes)} in {values.duration(self.seconds)}"
        parts = [
            f"{speed} ({values.rate(self.gb_per_s * 1e9)})",
            self.engine,
            values.counted(self.files, "file"),
            self._verified(),
            *([values.counted(len(self.fallbacks), "fallback")] if self.fallbacks else ()),
        ]
        return f"<fastio.Report: {', '.join(parts)}>"

    def _repr_html_(self) -> str:
        from fastio.display import html  # for notebooks alone

        return html.lines(str(self).splitlines())

    def _parts(self) -> list[str]:
        what = f"{values.counted(self.tensors, 'tensor')}, {values.size(self.nbytes)}"
        parts = [f"{what}, {values.counted(self.files, 'file')}"]
        if not self.engine:
            return ["nothing yet"]
        took = f"{values.duration(self.seconds)}, {values.rate(self.gb_per_s * 1e9)}"
        return [
            *parts,
            f"{took}, {self.cpu_seconds:.2f} CPU s",
            f"engine {self.engine} ({self.engine_reason})",
            *([f"cache {self.cache} ({self.cache_reason})"] if self.cache else ()),
            self._verified(),
            *map(str, self.decoded),
            *([f"{values.size(self.bytes_reused)} used again"] if self.bytes_reused else ()),
            *([self._unread()] if self.replicas_unread else ()),
        ]

    def _unread(self) -> str:
        what = f"{values.size(self.bytes_unread)} in {self.replicas_unread} further replicas"
        return f"not looked at: {what}; Store.verify reads all"

    def _verified(self) -> str:
        if self.chunks_sealed:
            return f"{values.counted(self.chunks_sealed, 'chunk')} sealed"
        some = f", {len(self.unverified)} of {self.files} files unverified"
        verified = f"{values.counted(self.chunks_verified, 'chunk')} verified"
        if self.chunks_trusted:
            verified += f", {self.chunks_trusted} by another process before"
        return verified + (some if self.unverified else "")


def _summary(access: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """One state and one reason for all files: the common one, or how many differ."""
    access = list(access)
    states = {state for state, _ in access}
    state = states.pop() if len(states) == 1 else "mixed" if states else ""
    reasons = list(dict.fromkeys(reason for _, reason in access))
    more = f", and {len(reasons) - 1} other reasons" if len(reasons) > 1 else ""
    return state, (reasons[0] + more) if reasons else ""
