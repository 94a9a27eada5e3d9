"""The order in which contenders are measured, round by round."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence


def rounds(names: Sequence[str], count: int, seed: int = 2) -> list[list[str]]:
    """Return the order of contenders in each round: a random one, its reverse, a random one, …

    So A comes before B as often as after it (ABBA), and a drift of the machine within a round falls
    on both alike. Neighbours change from pair to pair. With an odd count the last has no mirror.
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
    """Yield the order of each round, as `rounds` has it, until a deadline.

    No round begins that would end later, if it took as long as the longest round before.

    Parameters
    ----------
    names : sequence of str
    count : int
        The most rounds.
    deadline : float
        On the clock of `time.monotonic`.
    at_least : int
        The fewest rounds, even past the deadline.
    """
    longest_s = 0.0
    for at, order in enumerate(rounds(names, count)):
        begin = time.monotonic()
        if at >= at_least and begin + longest_s > deadline:
            return
        yield order
        longest_s = max(longest_s, time.monotonic() - begin)
