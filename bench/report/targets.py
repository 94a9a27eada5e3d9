"""Targets, and their verdicts from a result file. Pure arithmetic on its JSON.

Each suite has its targets in `targets.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.measure.statistics import Estimate, paired_difference, paired_ratio, verdict

Document = dict[str, Any]
Measure = Callable[[Document], Estimate]
MIB = 2**20


class NotMeasuredError(LookupError):
    """The result file lacks a figure."""


@dataclass(frozen=True)
class Target:
    """A figure that has to be at least, or at most, a bound.

    `exact` figures do not vary, so they are judged by their value alone.
    """

    case: str
    text: str
    sense: str
    bound: float
    unit: str
    measure: Measure
    exact: bool = False


def _contender(document: Document, case: str, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = document["cases"][case]["contenders"][name]
    except KeyError as error:
        raise NotMeasuredError(f"{case}: {name}") from error
    return found


def series(document: Document, case: str, name: str, field: str = "seconds") -> list[float]:
    """Return a figure of a contender, round by round.

    Raises
    ------
    NotMeasuredError
        The result file has none.
    """
    found = _contender(document, case, name)
    if field not in found:
        raise NotMeasuredError(f"{case}: {name}: {field}")
    values: list[float] = found[field]
    return values


def tensor_bytes(document: Document, case: str) -> float:
    """Return the bytes of all tensors of a case.

    Raises
    ------
    NotMeasuredError
        It was not measured.
    """
    if case not in document["cases"]:
        raise NotMeasuredError(case)
    return float(document["cases"][case]["tensor_bytes"])


def _gb(document: Document, case: str) -> float:
    return tensor_bytes(document, case) / 1e9


def speed(case: str, name: str, rival: str, field: str = "seconds") -> Measure:
    """Measure the speed relative to a rival: the rival's seconds over ours, by round."""
    return lambda document: paired_ratio(
        series(document, case, rival, field), series(document, case, name, field)
    )


def slowness(case: str, name: str, rival: str, field: str = "seconds") -> Measure:
    """Measure the time relative to a rival: our seconds over the rival's, by round."""
    return speed(case, rival, name, field)


def percent_more(case: str, name: str, other: str) -> Measure:
    """Measure the additional time over another contender, in percent, by round."""

    def measure(document: Document) -> Estimate:
        ones, others = series(document, case, name), series(document, case, other)
        return Estimate.of([100 * (a / b - 1) for a, b in zip(ones, others, strict=True)])

    return measure


def percent_apart(case: str, name: str, other: str) -> Measure:
    """Measure the distance of two contenders, in percent, whichever is slower."""

    def measure(document: Document) -> Estimate:
        found = percent_more(case, name, other)(document)
        if found.interval is None:
            return Estimate(abs(found.value), None, found.count)
        near, far = sorted(abs(end) for end in found.interval)
        if found.interval[0] <= 0 <= found.interval[1]:
            near = 0.0
        return Estimate(abs(found.value), (near, far), found.count)

    return measure


def cpu_more_a_gb(case: str, name: str, other: str) -> Measure:
    """Measure the additional CPU seconds for a GB over another contender, by round."""

    def measure(document: Document) -> Estimate:
        gb = _gb(document, case)
        return paired_difference(
            [value / gb for value in series(document, case, name, "cpu_s")],
            [value / gb for value in series(document, case, other, "cpu_s")],
        )

    return measure


def cpu_a_gb(case: str, name: str) -> Measure:
    """Measure the CPU seconds for a GB."""

    def measure(document: Document) -> Estimate:
        gb = _gb(document, case)
        return Estimate.of([value / gb for value in series(document, case, name, "cpu_s")])

    return measure


def memory_above_tensors(case: str, name: str) -> Measure:
    """Measure the highest peak of memory, in MiB above the tensors."""

    def measure(document: Document) -> Estimate:
        tensors = tensor_bytes(document, case)
        peaks = series(document, case, name, "peak_bytes")
        return Estimate((max(peaks) - tensors) / MIB, None, len(peaks))

    return measure


def memory_above_allowed(
    case: str, name: str, held: str = "peak_bytes", allowed: str = "allowed_bytes"
) -> Measure:
    """Measure the highest memory, in MiB above the contender's limit."""

    def measure(document: Document) -> Estimate:
        most = series(document, case, name, held)
        limits = series(document, case, name, allowed)
        above = [nbytes - limit for nbytes, limit in zip(most, limits, strict=True)]
        return Estimate(max(above) / MIB, None, len(above))

    return measure


def memory_beside_tensors(case: str, name: str, peak: str = "peak_bytes") -> Measure:
    """Measure the highest peak of memory, in MiB above the memory before, tensors included."""

    def measure(document: Document) -> Estimate:
        peaks = series(document, case, name, peak)
        return Estimate(max(peaks) / MIB, None, len(peaks))

    return measure


def read_beyond_needed(case: str, name: str, unit_bytes: int) -> Measure:
    """Measure the most bytes read beyond the returned ones, in units for each tensor's slice."""

    def measure(document: Document) -> Estimate:
        needed = tensor_bytes(document, case)
        slices = document["cases"][case]["tensors"]
        read = series(document, case, name, "bytes_read")
        return Estimate((max(read) - needed) / slices / unit_bytes, None, len(read))

    return measure


def milliseconds(case: str, name: str) -> Measure:
    """Measure the time in milliseconds."""
    return lambda document: Estimate.of([1000 * value for value in series(document, case, name)])


def import_ms(document: Document) -> Estimate:
    """Return the milliseconds of `import fastio` beyond those of `import numpy`."""
    return paired_difference(
        [1000 * value for value in series(document, "import", "numpy, fastio")],
        [1000 * value for value in series(document, "import", "numpy")],
    )


def evaluate(document: Document, targets: Sequence[Target]) -> list[dict[str, Any]]:
    """Judge targets by the figures that a result file holds."""
    judged = []
    for target in targets:
        row: dict[str, Any] = {
            "case": target.case,
            "text": target.text,
            "sense": target.sense,
            "bound": target.bound,
            "unit": target.unit,
            "value": None,
            "interval": None,
            "count": 0,
            "verdict": "not measured",
        }
        try:
            found = target.measure(document)
        except NotMeasuredError:
            judged.append(row)
            continue
        bounds = (found.value, found.value) if target.exact else found.interval
        judged.append(
            row
            | {
                "value": round(found.value, 4),
                "interval": found.interval and [round(end, 4) for end in found.interval],
                "count": found.count,
                "verdict": verdict(found.value, bounds, target.bound, target.sense),
            }
        )
    return judged


def at_least(case: str, text: str, bound: float, name: str, rival: str) -> Target:
    """Return the target of a multiple of a rival's speed."""
    return Target(case, text, ">=", bound, "x", speed(case, name, rival))


def not_slower(case: str, text: str, name: str, rival: str) -> Target:
    """Return the target of a rival's time or less."""
    return Target(case, text, "<=", 1.0, "x its time", slowness(case, name, rival))
