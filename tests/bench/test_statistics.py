"""Medians, intervals and verdicts are right."""

import numpy as np
import pytest

from bench.measure import statistics


def test_a_median_of_nothing_or_of_nonsense_is_refused():
    assert statistics.median([3, 1, 2]) == 2
    assert statistics.median([4, 1, 2, 3]) == 2.5
    for values in ([], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(ValueError):
            statistics.median(values)


def test_fewer_than_six_values_have_no_interval():
    assert statistics.interval([1.0] * 5) is None
    assert statistics.interval([1.0] * 6) == (1.0, 1.0)


def test_an_interval_is_the_same_each_time_and_holds_the_median():
    values = list(np.random.default_rng(1).lognormal(size=15))
    first = statistics.interval(values)
    assert first == statistics.interval(values)
    assert first is not None
    assert min(values) <= first[0] < statistics.median(values) < first[1] <= max(values)


def test_intervals_hold_the_true_median_nearly_as_often_as_they_say():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        # Skewed as times are: exponential, whose median is ln 2.
        found = statistics.interval(list(rng.exponential(size=15)))
        assert found is not None
        hits += found[0] <= np.log(2) <= found[1]
    assert hits / 200 >= 0.90


@pytest.mark.parametrize(
    ("value", "bounds", "target", "sense", "expected"),
    [
        (2.0, (1.9, 2.1), 1.8, ">=", "met"),
        (2.0, (1.8, 2.1), 1.8, ">=", "met"),
        (2.0, (1.7, 2.1), 1.8, ">=", "not decided"),
        (1.7, (1.6, 1.9), 1.8, ">=", "not decided"),
        (1.7, (1.6, 1.8), 1.8, ">=", "not decided"),
        (1.7, (1.6, 1.79), 1.8, ">=", "missed"),
        (0.9, (0.8, 1.0), 1.0, "<=", "met"),
        (0.9, (0.8, 1.01), 1.0, "<=", "not decided"),
        (1.2, (1.0, 1.3), 1.0, "<=", "not decided"),
        (1.2, (1.1, 1.3), 1.0, "<=", "missed"),
        (-0.1, (-0.2, 0.0), 0.1, "<=", "met"),
        (9.9, None, 1.8, ">=", "not decided"),
    ],
)
def test_only_a_whole_interval_decides(value, bounds, target, sense, expected):
    assert statistics.verdict(value, bounds, target, sense) == expected


def test_a_verdict_refuses_impossible_intervals():
    with pytest.raises(ValueError):
        statistics.verdict(1.0, (1.0, 2.0), 1.0, ">")
    with pytest.raises(ValueError):
        statistics.verdict(3.0, (1.0, 2.0), 1.0, ">=")


def test_pairs_cancel_a_drift_of_the_machine():
    drift = [1.0, 2.0, 1.5, 1.1, 1.9, 0.7, 1.3]
    found = statistics.paired_ratio([3 * each for each in drift], [2 * each for each in drift])
    assert found.value == pytest.approx(1.5)
    assert found.interval == pytest.approx((1.5, 1.5))
    assert found.count == 7


def test_differences_are_of_pairs():
    assert statistics.paired_difference([5, 7, 9], [1, 1, 1]) == statistics.Estimate(6.0, None, 3)


@pytest.mark.parametrize(
    ("ones", "others"), [([1.0], [1.0, 2.0]), ([], []), ([0.0], [1.0]), ([1.0], [-1.0])]
)
def test_unpaired_series_are_refused(ones, others):
    with pytest.raises(ValueError):
        statistics.paired_ratio(ones, others)
