"""How figures are taken: order of rounds, fresh processes, medians, intervals, verdicts.

Nothing here knows what is measured; `worker` is the process that this starts for each measurement.
"""

from __future__ import annotations

import json
import random
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from bench.errors import MeasureError

ROOT = Path(__file__).resolve().parent.parent

# A 95 % interval for a median needs six values: for n of them, even the range from the smallest to
# the largest misses the true median with probability 2^(1-n), which is 6.3 % at five.
VALUES_MIN = 6
RESAMPLES = 10_000
WORKER = (sys.executable, "-m", "bench.worker")

Verdict = Literal["met", "missed", "not decided", "not measured"]
Interval = tuple[float, float]
# Seconds since the order was given, and anonymous bytes.
Sample = tuple[float, int]


# ---- statistics ---------------------------------------------------------------------------------


def median(values: Sequence[float]) -> float:
    """Return the median.

    Raises
    ------
    ValueError
        There are no values, or one of them is not finite.
    """
    if len(values) == 0:
        raise ValueError("no values")
    if not np.isfinite(values).all():
        raise ValueError(f"not every value is finite: {list(values)}")
    return float(np.median(values))


def interval(values: Sequence[float]) -> Interval | None:
    """Return the bootstrap 95 % interval of the median, or None for fewer than six values.

    The percentile bootstrap with a fixed seed, so that the same JSON always tells the same.

    Raises
    ------
    ValueError
        As `median` does.
    """
    median(values)
    if len(values) < VALUES_MIN:
        return None
    picks = np.random.default_rng(2).integers(0, len(values), (RESAMPLES, len(values)))
    medians = np.median(np.asarray(values, dtype=np.float64)[picks], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(low), float(high)


def verdict(value: float, bounds: Interval | None, target: float, sense: str) -> Verdict:
    """Judge a figure against its target: `sense` is ">=" or "<=".

    Met or missed only if the whole interval says so; in between, and without one, not decided.

    Raises
    ------
    ValueError
        `sense` is neither of the two, or the interval does not hold the value.
    """
    if sense not in {">=", "<="}:
        raise ValueError(f'sense is {sense!r}, expected ">=" or "<="')
    if bounds is None:
        return "not decided"
    low, high = bounds
    if not low <= value <= high:
        raise ValueError(f"the interval {bounds} does not hold {value}")
    if sense == "<=":
        low, high, target = -high, -low, -target
    if low >= target:
        return "met"
    return "missed" if high < target else "not decided"


@dataclass(frozen=True)
class Estimate:
    """A median with its interval and the number of values (or pairs) it came from."""

    value: float
    interval: Interval | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        return cls(median(values), interval(values), len(values))


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """Return the median of the ratios of two series whose i-th values are of the same round.

    Raises
    ------
    ValueError
        The series differ in length, are empty, or hold a value that is not positive and finite.
    """
    if len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} values cannot be paired with {len(denominators)}")
    if any(not value > 0 for value in (*numerators, *denominators)):
        raise ValueError("a ratio needs positive values")
    return Estimate.of([a / b for a, b in zip(numerators, denominators, strict=True)])


def paired_difference(ones: Sequence[float], others: Sequence[float]) -> Estimate:
    """Return the median of the differences of two series whose i-th values are of the same round.

    Raises
    ------
    ValueError
        The series differ in length, are empty, or hold a value that is not finite.
    """
    if len(ones) != len(others):
        raise ValueError(f"{len(ones)} values cannot be paired with {len(others)}")
    return Estimate.of([a - b for a, b in zip(ones, others, strict=True)])


# ---- order --------------------------------------------------------------------------------------


def rounds(names: Sequence[str], count: int, seed: int = 2) -> list[list[str]]:
    """Return the order of contenders in each round: a random one, its reverse, a random one, …

    So for any two of them, A comes before B as often as after it (ABBA), and a drift of the machine
    within a round falls on both alike; neighbours change, so nobody always inherits the same mess.
    For an odd count the last round has no mirror.
    """
    source = random.Random(seed)
    orders: list[list[str]] = []
    while len(orders) < count:
        order = source.sample(list(names), len(names))
        orders += [order, order[::-1]]
    return orders[:count]


def rounds_until(
    names: Sequence[str], count: int, deadline: float, at_least: int = 0
) -> Iterator[list[str]]:
    """Yield the order of each round, as `rounds` has it, until a deadline. No round begins that
    would end later, if it took as long as the longest before.

    Parameters
    ----------
    names : sequence of str
    count : int
        How many rounds there are at most.
    deadline : float
        On the clock of `time.monotonic`.
    at_least : int
        So many rounds take place in any case.
    """
    longest_s = 0.0
    for at, order in enumerate(rounds(names, count)):
        begin = time.monotonic()
        if at >= at_least and begin + longest_s > deadline:
            return
        yield order
        longest_s = max(longest_s, time.monotonic() - begin)


# ---- processes ----------------------------------------------------------------------------------


def anonymous_bytes(pid: int | str = "self") -> int:
    """Return RssAnon plus pinned and locked-down memory (VmPin) of a process."""
    return status_bytes("RssAnon", pid) + status_bytes("VmPin", pid)


def status_bytes(field: str, pid: int | str = "self") -> int:
    """Return a field of /proc/<pid>/status that is in kB; 0 where it is missing.

    Raises
    ------
    OSError
        There is no such process any more.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def thinned(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return at most `count` of the samples, in order, one for each equal part of their time.

    Each is the highest of its part, so the peak is never lost; a part without samples has none.

    Raises
    ------
    ValueError
        `count` is not positive.
    """
    if count < 1:
        raise ValueError(f"{count} samples are none")
    if not samples:
        return []
    begin, end = samples[0][0], samples[-1][0]
    highest: dict[int, Sample] = {}
    for sample in samples:
        part = (
            min(count - 1, int((sample[0] - begin) / (end - begin) * count)) if end > begin else 0
        )
        if part not in highest or sample[1] > highest[part][1]:
            highest[part] = sample
    return [highest[part] for part in sorted(highest)]


class Worker:
    """A fresh process that imports, warms itself, and then measures when it is told to.

    Use as a context manager. It runs `python -m bench.worker`, gets its orders as lines of JSON on
    standard input and answers on standard output; what the libraries print goes to standard error.
    """

    def __init__(
        self, job: dict[str, Any], timeout_s: float = 600.0, program: Sequence[str] = WORKER
    ) -> None:
        self._job = job
        self._timeout_s = timeout_s
        self._program = program

    def __enter__(self) -> Worker:
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._program,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout
        try:
            self.ready = self.ask(self._job)
        except BaseException:
            self._end(kill=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(kill=error is not None)

    def _end(self, *, kill: bool) -> None:
        if kill:
            self._process.kill()
        self._orders.close()
        try:
            self._process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._errors.close()

    def ask(self, order: dict[str, Any], *, sample_memory: bool = False) -> dict[str, Any]:
        """Give an order and wait for its answer, watching the worker's memory if asked to.

        Watching costs a core some percent of its time: not for rounds that are timed.

        Raises
        ------
        MeasureError
            The worker failed, died, or took longer than the timeout; its own words are in it.
        """
        samples: list[Sample] = []
        begin = time.monotonic()
        deadline = begin + self._timeout_s
        line = b""
        try:
            self._orders.write(json.dumps(order).encode() + b"\n")
            while not line.endswith(b"\n"):
                wait_s = 0.001 if sample_memory else max(0.0, deadline - time.monotonic())
                if select.select([self._answers], [], [], wait_s)[0]:
                    part = self._answers.read(65536)
                    if not part:
                        break
                    line += part
                elif time.monotonic() > deadline:
                    raise MeasureError(f"no answer in {self._timeout_s:.0f} s")
                elif sample_memory and self._process.poll() is None:
                    samples.append((time.monotonic() - begin, anonymous_bytes(self._process.pid)))
        except BrokenPipeError:
            line = b""
        if not line:
            raise MeasureError(f"the worker died: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MeasureError(str(answer["error"]))
        if sample_memory:
            answer["sampled_peak_bytes"] = max((nbytes for _, nbytes in samples), default=0)
            answer["samples"] = samples
        return answer

    def _last_words(self) -> str:
        code = self._process.wait(10)
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()
        return f"exit status {code}: {text[-500:]}"
