"""The placement of shards on roots: decided by writers, and looked up by readers."""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections.abc import Mapping, Sequence

from fastio.display.values import shown

PLACEMENTS = ("rendezvous", "range")


def place(
    shards: Sequence[tuple[str, int]], weights: Mapping[str, float], replicas: int, placement: str
) -> list[tuple[str, ...]]:
    """Choose the roots of each shard.

    Parameters
    ----------
    shards : sequence of (str, int)
        Label and bytes.
    weights : mapping of str to float
        Of the roots that there are, by UUID; at least `replicas` of them.
    replicas : int
    placement : {"rendezvous", "range"}
        ``rendezvous``: by a hash of label and root, so that few shards move when roots come or go,
        within the share that a root's weight gives it. ``range``: neighbours stay together.

    Raises
    ------
    ValueError
        If there is no such placement.
    """
    if placement == "rendezvous":
        return _rendezvous(shards, weights, replicas)
    if placement == "range":
        return _range(shards, weights, replicas)
    raise ValueError(f"placement={shown(placement)}: expected {', '.join(PLACEMENTS)} or a mapping")


def _rendezvous(
    shards: Sequence[tuple[str, int]], weights: Mapping[str, float], replicas: int
) -> list[tuple[str, ...]]:
    """Weighted rendezvous hashing (Schindelhauer and Schomaker, SPAA 2005) with bounded loads
    (Mirrokni, Thorup and Zadimoghaddam, SODA 2018).
    """
    rest = sum(nbytes for _, nbytes in shards)
    shares = _shares(weights, replicas)
    room = {root: replicas * rest * shares[root] for root in weights}
    chosen = []
    for label, nbytes in shards:
        rest -= nbytes
        ranked = sorted(weights, key=lambda root: -_score(root, label, weights[root]))
        # A root takes each shard once, so roots with more room than bytes to come go first. Full
        # roots take part only if the others are too few; the fullest comes last.
        order = {root: at for at, root in enumerate(ranked)}
        ranked.sort(
            key=lambda root: (
                room[root] <= rest,
                room[root] < nbytes / 2,
                -room[root] if room[root] < nbytes / 2 else order[root],
            )
        )
        roots = tuple(ranked[:replicas])
        for root in roots:
            room[root] -= nbytes
        chosen.append(tuple(sorted(roots, key=order.__getitem__)))
    return chosen


def _shares(weights: Mapping[str, float], replicas: int) -> dict[str, float]:
    """The share of all bytes that each root holds: at most one replica of each byte."""
    shares: dict[str, float] = {}
    rest, left = 1.0, dict(weights)
    while left:
        total = sum(left.values())
        capped = [root for root in left if rest * left[root] / total > 1 / replicas]
        if not capped:
            shares.update({root: rest * weight / total for root, weight in left.items()})
            break
        for root in capped:
            shares[root] = 1 / replicas
            rest -= 1 / replicas
            del left[root]
    return shares


def _score(root: str, label: str, weight: float) -> float:
    digest = hashlib.sha256(f"{root}:{label}".encode()).digest()
    uniform = (int.from_bytes(digest[:8], "little") + 0.5) / 2**64
    return -weight / math.log(uniform)


def _range(
    shards: Sequence[tuple[str, int]], weights: Mapping[str, float], replicas: int
) -> list[tuple[str, ...]]:
    roots = sorted(weights)
    total, total_weight = sum(nbytes for _, nbytes in shards), sum(weights.values())
    bounds, reached = [], 0.0
    for root in roots:
        reached += weights[root] / total_weight * total
        bounds.append(reached)
    chosen, before = [], 0
    for _, nbytes in shards:
        middle = before + nbytes / 2
        first = next((at for at, bound in enumerate(bounds) if middle <= bound), len(roots) - 1)
        chosen.append(tuple(roots[(first + turn) % len(roots)] for turn in range(replicas)))
        before += nbytes
    return chosen


def target_of(name: str, places: Sequence[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    """Return the roots that a mapping has for a tensor: those of the first pattern that it matches.

    Raises
    ------
    ValueError
        If none does.
    """
    for pattern, roots in places:
        if fnmatch.fnmatchcase(name, pattern):
            return roots
    raise ValueError(f"placement: no pattern matches the tensor {shown(name)}; '*' matches all")
