"""Contenders take turns so that a drift of the machine falls on all alike."""

import itertools

import pytest

from bench.measure import rounds


@pytest.mark.parametrize("count", [2, 6, 16])
def test_in_an_even_number_of_rounds_everyone_goes_first_as_often_as_second(count):
    names = ["a", "b", "c", "d", "e"]
    orders = rounds.rounds(names, count)
    assert len(orders) == count
    assert all(sorted(order) == names for order in orders)
    for one, other in itertools.combinations(names, 2):
        before = sum(order.index(one) < order.index(other) for order in orders)
        assert before == count // 2


def test_each_second_round_is_the_mirror_of_the_first_and_orders_repeat_from_run_to_run():
    orders = rounds.rounds(["a", "b", "c"], 5)
    assert orders[1] == orders[0][::-1]
    assert orders[3] == orders[2][::-1]
    assert orders == rounds.rounds(["a", "b", "c"], 5)
