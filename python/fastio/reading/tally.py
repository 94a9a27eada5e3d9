"""The bytes and seconds of one reader until now, over all its ways to read."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace

import fastio._native as _native
from fastio.catalog.encodings import Decoding
from fastio.report import Report


class Tally:
    """Counts for a reader. Several threads may count at once.

    Seconds count while a caller waits for a job or takes from a mapped file; overlaps count once.
    The seconds of reading ahead while nobody waited are added when that job ends.

    Attributes
    ----------
    active_time : _native.ActiveTime
        Runs meanwhile.
    """

    def __init__(self) -> None:
        self.active_time = _native.ActiveTime()
        self._lock = threading.RLock()  # of short duration; a signal handler may read, too
        self._report = Report()
        self._mapped: list[_native.MappedFile] = []
        # Weak: a job that is dropped with the reader closes its files.
        self._underway: weakref.WeakSet[RunningJob] = weakref.WeakSet()
        self._jobs = 0
        self._begun = (0.0, 0.0)
        self._waited = (0.0, 0.0)  # wall-clock and processor time of jobs
        self._unwaited_s = 0.0
        self._made = time.perf_counter()

    # ---- what is counted

    def job(self) -> Job:
        """Return what a native job is waited for within."""
        return Job(self)

    def _begin(self) -> None:
        self.active_time.start()
        with self._lock:
            if self._jobs == 0:
                self._begun = _clocks()
            self._jobs += 1

    def _end(self) -> None:
        with self._lock:
            if self._jobs == 1:
                self._waited = self._waited_until_now()
            self._jobs = max(0, self._jobs - 1)  # none, in a child that was forked meanwhile
        self.active_time.stop()

    def _waited_until_now(self) -> tuple[float, float]:
        if self._jobs == 0:
            return self._waited
        (wall, cpu), begun, now = self._waited, self._begun, _clocks()
        return wall + now[0] - begun[0], cpu + now[1] - begun[1]

    def maps(self, mapped: _native.MappedFile) -> None:
        """Count what is taken from a mapped file, too."""
        self._mapped.append(mapped)

    def took(self, nbytes: int) -> None:
        """Count bytes of tensors that jobs read, whose own count says more or less."""
        with self._lock:
            self._report.nbytes += nbytes

    def count(self, statistics: _native.Statistics, *, nbytes: int | None = None) -> None:
        """Count what one native job has done, with so many bytes of tensors, if not all."""
        with self._lock:
            self._count(self._report, statistics, nbytes)

    def decoded(self, decodings: Iterable[Decoding]) -> None:
        """Count what encodings have decoded."""
        with self._lock:
            self._report.note_decoded(decodings)

    def count_job(self, statistics: _native.Statistics) -> None:
        """Count what one native job has done; `took` counts the bytes of tensors."""
        self.count(statistics, nbytes=0)

    def merge(self, counted: Report) -> None:
        """Count what several jobs have done; their report is the tally's own then."""
        with self._lock:
            before, self._report = self._report, counted
            if before.engine or before.nbytes:
                self._report.merge(before)

    @staticmethod
    def _count(report: Report, statistics: _native.Statistics, nbytes: int | None) -> None:
        asked = report.nbytes + (statistics["nbytes"] if nbytes is None else nbytes)
        report.add(statistics)
        report.nbytes = asked

    # ---- what it comes to

    def report(self) -> Report:
        """Return what was read until now."""
        with self._lock:
            report = replace(self._report)
            for each in self._underway:
                self._count(report, each.job.statistics, 0)
            wall, cpu = self._waited_until_now()
            self._count_mapped(report)
            seconds = self.active_time.seconds
            report.cpu_seconds = cpu + max(0.0, seconds - wall)  # mapped bytes keep a core busy
            # Streams that read ahead at the same time took at most the time since the start.
            if not report.engine:
                report.engine, report.engine_reason = "none", "nothing was read"
            report.seconds = min(seconds + self._unwaited_s, time.perf_counter() - self._made)
        return report

    def _count_mapped(self, report: Report) -> None:
        taken = sum(mapped.bytes_taken for mapped in self._mapped)
        report.chunks_verified += sum(mapped.chunks_verified for mapped in self._mapped)
        report.chunks_trusted += sum(mapped.chunks_trusted for mapped in self._mapped)
        if not taken:
            return
        report.nbytes += taken
        report.bytes_mapped += taken
        if not report.engine:
            report.engine, report.engine_reason = "mmap", "all bytes are in the page cache"
        reason = "in the page cache when it was opened, mapped"
        if not report.cache:
            report.cache, report.cache_reason = "warm", reason
        elif report.cache != "warm":
            report.cache = "mixed"
            report.cache_reason += f", and {reason}"

    # ---- its life

    def close(self) -> None:
        """Let go of mapped files; what was counted stays."""
        with self._lock:
            self._count_mapped(self._report)
            self._mapped = []

    def after_fork(self) -> None:
        """In a child: the threads that count, or hold the lock, are not there."""
        self._lock = threading.RLock()
        self._underway = weakref.WeakSet()
        self._jobs = 0
        self.active_time.stop_all()


class Job:
    """Counts as a native job that is waited for, from entry to exit."""

    __slots__ = ("_tally",)

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def __enter__(self) -> None:
        self._tally._begin()

    def __exit__(self, *_: object) -> None:
        self._tally._end()


class RunningJob:
    """One job that reads ahead of a caller, from when it was started until `end`.

    Parameters
    ----------
    tally : Tally
    job : _native.Stream
    """

    def __init__(self, tally: Tally, job: _native.Stream) -> None:
        self.job = job
        self._tally = tally
        self._begun = time.perf_counter()
        self._waited_s = 0.0
        with tally._lock:
            tally._underway.add(self)

    @contextlib.contextmanager
    def waited_for(self) -> Iterator[None]:
        """Somebody waits for it meanwhile."""
        begun = time.perf_counter()
        try:
            with self._tally.job():
                yield
        finally:
            self._waited_s += time.perf_counter() - begun

    def end(self) -> None:
        """Count what it has done, and the time in which it read and nobody waited."""
        tally = self._tally
        with tally._lock:
            if self not in tally._underway:
                return
            tally._underway.remove(self)
            statistics = self.job.statistics
            tally._count(tally._report, statistics, 0)
            lanes = statistics["lane_times"]
            busy = max((lane["total_s"] - lane["room_wait_s"] for lane in lanes), default=0.0)
            busy = min(busy, time.perf_counter() - self._begun)
            tally._unwaited_s += max(0.0, busy - self._waited_s)
            del self.job  # its files are closed with it


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
