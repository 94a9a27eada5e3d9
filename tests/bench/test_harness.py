"""The arithmetic and the processes behind every figure."""

import itertools
import sys

import numpy as np
import pytest
from bench.errors import MeasureError

from bench import harness


def test_a_median_of_nothing_or_of_nonsense_is_refused():
    assert harness.median([3, 1, 2]) == 2
    assert harness.median([4, 1, 2, 3]) == 2.5
    for values in ([], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(ValueError):
            harness.median(values)


def test_fewer_than_six_values_have_no_interval():
    assert harness.interval([1.0] * 5) is None
    assert harness.interval([1.0] * 6) == (1.0, 1.0)


def test_an_interval_is_the_same_each_time_and_holds_the_median():
    values = list(np.random.default_rng(1).lognormal(size=15))
    first = harness.interval(values)
    assert first == harness.interval(values)
    assert first is not None
    assert min(values) <= first[0] < harness.median(values) < first[1] <= max(values)


def test_intervals_hold_the_true_median_nearly_as_often_as_they_say():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        # Skewed as times are: exponential, whose median is ln 2.
        found = harness.interval(list(rng.exponential(size=15)))
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
    assert harness.verdict(value, bounds, target, sense) == expected


def test_a_verdict_refuses_impossible_intervals():
    with pytest.raises(ValueError):
        harness.verdict(1.0, (1.0, 2.0), 1.0, ">")
    with pytest.raises(ValueError):
        harness.verdict(3.0, (1.0, 2.0), 1.0, ">=")


def test_pairs_cancel_a_drift_of_the_machine():
    drift = [1.0, 2.0, 1.5, 1.1, 1.9, 0.7, 1.3]
    found = harness.paired_ratio([3 * each for each in drift], [2 * each for each in drift])
    assert found.value == pytest.approx(1.5)
    assert found.interval == pytest.approx((1.5, 1.5))
    assert found.count == 7


def test_differences_are_of_pairs():
    assert harness.paired_difference([5, 7, 9], [1, 1, 1]) == harness.Estimate(6.0, None, 3)


@pytest.mark.parametrize(
    ("ones", "others"), [([1.0], [1.0, 2.0]), ([], []), ([0.0], [1.0]), ([1.0], [-1.0])]
)
def test_unpaired_series_are_refused(ones, others):
    with pytest.raises(ValueError):
        harness.paired_ratio(ones, others)


@pytest.mark.parametrize("count", [2, 6, 16])
def test_in_an_even_number_of_rounds_everyone_goes_first_as_often_as_second(count):
    names = ["a", "b", "c", "d", "e"]
    orders = harness.rounds(names, count)
    assert len(orders) == count
    assert all(sorted(order) == names for order in orders)
    for one, other in itertools.combinations(names, 2):
        before = sum(order.index(one) < order.index(other) for order in orders)
        assert before == count // 2


def test_each_second_round_is_the_mirror_of_the_first_and_orders_repeat_from_run_to_run():
    orders = harness.rounds(["a", "b", "c"], 5)
    assert orders[1] == orders[0][::-1]
    assert orders[3] == orders[2][::-1]
    assert orders == harness.rounds(["a", "b", "c"], 5)


def program(body: str) -> tuple[str, ...]:
    """Return a worker that does `body` with each `order` it gets."""
    code = (
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    order = json.loads(line)\n"
        f"    {body}\n"
        "    print(json.dumps(answer), flush=True)\n"
    )
    return (sys.executable, "-c", code)


def test_a_worker_answers_orders():
    with harness.Worker({"job": 1}, program=program("answer = {'got': order}")) as worker:
        assert worker.ready == {"got": {"job": 1}}
        assert worker.ask({"do": "it"}) == {"got": {"do": "it"}}


def test_a_workers_own_error_message_is_kept():
    failing = program("answer = {'error': 'no such file'}")
    with (
        pytest.raises(MeasureError, match="no such file"),
        harness.Worker({}, program=failing),
    ):
        pass


def test_a_worker_that_dies_leaves_its_last_words():
    dying = program("sys.exit('out of luck')")
    with (
        pytest.raises(MeasureError, match="exit status 1: out of luck"),
        harness.Worker({}, program=dying),
    ):
        pass


def test_a_worker_that_hangs_is_ended():
    hanging = program("import time; time.sleep(600)")
    with (
        pytest.raises(MeasureError, match="no answer"),
        harness.Worker({}, timeout_s=0.2, program=hanging),
    ):
        pass


def test_the_memory_of_a_worker_is_seen_at_its_peak():
    body = (
        "import time; block = b'x' * order.get('bytes', 1); time.sleep(0.2); "
        "block = None; answer = {}"
    )
    with harness.Worker({}, program=program(body)) as worker:
        before = worker.ask({}, sample_memory=True)["sampled_peak_bytes"]
        answer = worker.ask({"bytes": 2**26}, sample_memory=True)
    peak = answer["sampled_peak_bytes"]
    assert 2**26 <= peak - before < 2**26 + 2**22
    assert max(nbytes for _, nbytes in answer["samples"]) == peak


def test_memory_over_time_is_thinned_to_the_highest_of_each_part():
    rising = [(0.001 * index, index) for index in range(1000)]
    kept = harness.thinned(rising, 60)
    assert len(kept) == 60
    assert kept == sorted(kept)
    assert kept[-1] == rising[-1]
    assert max(later[0] - earlier[0] for earlier, later in itertools.pairwise(kept)) < 0.02
    spike = [(time, 0) for time, _ in rising]
    spike[437] = (0.437, 7)
    assert [each for each in harness.thinned(spike, 60) if each[1]] == [(0.437, 7)]


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_few_samples_stay_as_they_are_and_many_at_one_moment_are_one(count):
    assert harness.thinned([], count) == []
    assert harness.thinned([(0.5, 3)], count) == [(0.5, 3)]
    assert harness.thinned([(0.5, 3), (0.5, 9), (0.5, 4)], count) == [(0.5, 9)]
    assert len(harness.thinned([(0.0, 1), (0.9, 2), (1.0, 3)], count)) <= min(count, 3)


def test_no_samples_at_all_are_not_kept():
    with pytest.raises(ValueError):
        harness.thinned([(0.0, 1)], 0)


def test_the_worker_of_this_project_refuses_a_contender_it_does_not_know():
    with (
        pytest.raises(MeasureError, match="KeyError"),
        harness.Worker({"contender": "nobody"}),
    ):
        pass
