"""A process that measures answers orders, and its memory is sampled."""

import itertools
import sys

import pytest

from bench.errors import MeasureError
from bench.measure import process, workers


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
    with workers.Worker({"job": 1}, program=program("answer = {'got': order}")) as worker:
        assert worker.ready == {"got": {"job": 1}}
        assert worker.ask({"do": "it"}) == {"got": {"do": "it"}}


def test_a_workers_own_error_message_is_kept():
    failing = program("answer = {'error': 'no such file'}")
    with (
        pytest.raises(MeasureError, match="no such file"),
        workers.Worker({}, program=failing),
    ):
        pass


def test_a_worker_that_dies_leaves_its_last_words():
    dying = program("sys.exit('out of luck')")
    with (
        pytest.raises(MeasureError, match="exit status 1: out of luck"),
        workers.Worker({}, program=dying),
    ):
        pass


def test_a_worker_that_hangs_is_ended():
    hanging = program("import time; time.sleep(600)")
    with (
        pytest.raises(MeasureError, match="no answer"),
        workers.Worker({}, timeout_s=0.2, program=hanging),
    ):
        pass


def test_the_memory_of_a_worker_is_seen_at_its_peak():
    body = (
        "import time; block = b'x' * order.get('bytes', 1); time.sleep(0.2); "
        "block = None; answer = {}"
    )
    with workers.Worker({}, program=program(body)) as worker:
        before = worker.ask({}, sample_memory=True)["sampled_peak_bytes"]
        answer = worker.ask({"bytes": 2**26}, sample_memory=True)
    peak = answer["sampled_peak_bytes"]
    assert 2**26 <= peak - before < 2**26 + 2**22
    assert max(nbytes for _, nbytes in answer["samples"]) == peak


def test_memory_over_time_is_thinned_to_the_highest_of_each_part():
    rising = [(0.001 * index, index) for index in range(1000)]
    kept = process.thinned(rising, 60)
    assert len(kept) == 60
    assert kept == sorted(kept)
    assert kept[-1] == rising[-1]
    assert max(later[0] - earlier[0] for earlier, later in itertools.pairwise(kept)) < 0.02
    spike = [(time, 0) for time, _ in rising]
    spike[437] = (0.437, 7)
    assert [each for each in process.thinned(spike, 60) if each[1]] == [(0.437, 7)]


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_few_samples_stay_as_they_are_and_many_at_one_moment_are_one(count):
    assert process.thinned([], count) == []
    assert process.thinned([(0.5, 3)], count) == [(0.5, 3)]
    assert process.thinned([(0.5, 3), (0.5, 9), (0.5, 4)], count) == [(0.5, 9)]
    assert len(process.thinned([(0.0, 1), (0.9, 2), (1.0, 3)], count)) <= min(count, 3)


def test_no_samples_at_all_are_not_kept():
    with pytest.raises(ValueError):
        process.thinned([(0.0, 1)], 0)


def test_the_worker_of_this_project_refuses_a_contender_it_does_not_know():
    with (
        pytest.raises(MeasureError, match="KeyError"),
        workers.Worker({"contender": "nobody"}),
    ):
        pass
