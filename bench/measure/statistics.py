"""Medians, their 95 % intervals, and verdicts: pure arithmetic on series of figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

# A 95 % interval of a median needs six values. Of n values, even the range from the smallest to the
# largest misses the true median with probability 2^(1-n), which is 6.3 % at five.
VALUES_MIN = 6
RESAMPLES = 10_000

Verdict = Literal["met", "missed", "not decided", "not measured"]
Interval = tuple[float, float]


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

    It is the percentile bootstrap with a fixed seed, so the same JSON gives the same interval.

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

    It is met or missed only if the whole interval agrees, and otherwise not decided.

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
