"""Report: what a load or a save did, how fast, by which engine and why; engines of this host."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import zip_longest
from typing import Any

import fastio._native as _native
from fastio.display import values
from fastio.events import Event, lines_of

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
    chunks_sealed: int = 0
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

    def merge(self, other: Report) -> None:
        """Count what another one has counted."""
        for name in _COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lanes = max(self.lanes, other.lanes)
        both = zip_longest(other.lane_times, self.lane_times, fillvalue=LaneTimes())
        self.lane_times = tuple(one.plus(more) for one, more in both)
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
        return verified + (some if self.unverified else "")


def _summary(access: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """One state and one reason for all files: the common one, or how many differ."""
    access = list(access)
    states = {state for state, _ in access}
    state = states.pop() if len(states) == 1 else "mixed" if states else ""
    reasons = list(dict.fromkeys(reason for _, reason in access))
    more = f", and {len(reasons) - 1} other reasons" if len(reasons) > 1 else ""
    return state, (reasons[0] + more) if reasons else ""


@dataclass(frozen=True)
class EngineStatus:
    """Whether one engine works here, found by trying it.

    Attributes
    ----------
    available : bool
    reason : str
        The result of the trial.
    features : tuple of str
        Abilities beyond plain reads; a missing one has its reason.
    """

    available: bool
    reason: str
    features: tuple[str, ...] = ()

    @values.one_line
    def __repr__(self) -> str:
        works = "available" if self.available else "NOT available"
        return f"<fastio.EngineStatus: {works}, {self.reason}>"


@dataclass(frozen=True)
class EngineReport:
    """The results of probing this host.

    Attributes
    ----------
    engines : mapping of str to EngineStatus
    chosen, reason : str
        The engine of `Options(engine="auto")`, and why.
    checksum : str
        The variant of the code that this processor runs.
    kernel_features, kernel_operations : tuple of str
        The offers of the kernel's io_uring, from `fastio.uring.Ring`. The loader needs few of them.
    kernel_reason : str
        The reason if these are empty.
    cuda : str
        The CUDA driver for loads to devices, or why there is none.
    """

    engines: Mapping[str, EngineStatus]
    chosen: str
    reason: str
    checksum: str
    kernel_features: tuple[str, ...] = ()
    kernel_operations: tuple[str, ...] = ()
    kernel_reason: str = ""
    cuda: str = ""

    @values.one_line
    def __repr__(self) -> str:
        return f"<fastio.EngineReport: {self.chosen}, {self.reason}>"

    def __str__(self) -> str:
        lines = [f"engine: {self.chosen} ({self.reason})"]
        for name, status in self.engines.items():
            lines.append(f"  {name}: {'yes' if status.available else 'NO'}, {status.reason}")
            lines.extend(f"    {feature}" for feature in status.features)
        if self.kernel_reason:
            lines.append(f"io_uring of the kernel: not known, {self.kernel_reason}")
        else:
            lines.append(f"io_uring of the kernel: {', '.join(self.kernel_features)}")
            # They are in the order in which Linux got them: the last one says how new it is.
            last = self.kernel_operations[-1:]
            lines.append(f"  {len(self.kernel_operations)} operations, up to {' '.join(last)}")
        lines.append(f"devices: {self.cuda}")
        lines.append(f"checksum: XXH3-64, {self.checksum} code")
        return "\n".join(lines)


def engine_report() -> EngineReport:
    """Say which engines work on this host, and why.

    An engine that does not work raises nothing; it is part of the result.

    Returns
    -------
    EngineReport
        Its ``str()`` is a readable text.

    Examples
    --------
    >>> fastio.engine_report().engines["pread"].available
    True
    """
    engines = {
        name: EngineStatus(status["available"], status["reason"], tuple(status["features"]))
        for name, status in _native.engine_statuses().items()
    }
    uring = engines["uring"]
    if uring.available:
        chosen, reason = "uring", uring.reason
    else:
        chosen, reason = "pread", f"io_uring is not available: {uring.reason}"
    return EngineReport(
        engines,
        chosen,
        reason,
        _native.checksum_variant(),
        *_kernel_offers(),
        _native.find_driver()["reason"],
    )


def _kernel_offers() -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Features, operations, and the reason where there are none."""
    try:
        from fastio.uring import Ring  # takes longer to import than most users need it

        with Ring(1) as ring:
            return ring.features, ring.operations, ""
    except (ImportError, OSError) as error:
        return (), (), str(error)
