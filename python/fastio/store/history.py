"""The meaning of several roots' commit records together: pure reasoning, no file is touched.

A commit is one round of Paxos for each generation. A writer holds the locks of a majority of the
roots, and has promised there a ballot above any that it found. It first repeats the newest
generation on them, with its own ballot, until that is on a majority. Then it writes the next
generation with the same ballot.

Two majorities share a root, so every later writer has seen a generation that was reported as
committed. Of two records for one generation, the one with the lower ballot never was on a majority:
the other writer would have repeated it. Leslie Lamport, "Paxos Made Simple", 2001, section 2.2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fastio.store.documents import Record

Records = Mapping[str, Mapping[int, Record]]
"""By root's UUID and generation: the sound records of every root that could be asked."""


@dataclass(frozen=True)
class Standing:
    """How a generation stands on the roots that could be asked.

    Attributes
    ----------
    record : Record
        That of the highest ballot.
    holders : frozenset of str
        Roots that have a record of this commit, whatever its ballot.
    asked : frozenset of str
        The roots of the record that could be asked.
    outvoted : mapping of str to Record
        Records of another commit of the same generation, with a lower ballot.
    """

    record: Record
    holders: frozenset[str]
    asked: frozenset[str]
    outvoted: Mapping[str, Record]

    @property
    def manifests(self) -> set[str]:
        """The manifests of all its records."""
        return {self.record.manifest, *(one.manifest for one in self.outvoted.values())}

    @property
    def decided(self) -> bool:
        """Whether it is seen on a majority of its roots."""
        return len(self.holders) >= self.record.majority

    @property
    def never_reported(self) -> bool:
        """Whether it cannot be on a majority, wherever else it is: nobody was told that it is
        there.
        """
        unasked = len(self.record.roots) - len(self.asked)
        return len(self.holders) + unasked < self.record.majority


def standings(
    records: Records, damaged: Mapping[str, Collection[int]] | None = None
) -> list[Standing]:
    """Return how each generation stands, the newest one first.

    Parameters
    ----------
    records : mapping
    damaged : mapping of str to collection of int, optional
        By root: generations of which it has a record that cannot be read. Of these it counts as a
        root that could not be asked.

    Raises
    ------
    Nothing.
    """
    generations = sorted({generation for of_root in records.values() for generation in of_root})
    return [_standing(at, records, damaged or {}) for at in reversed(generations)]


def _standing(
    generation: int, records: Records, damaged: Mapping[str, Collection[int]]
) -> Standing:
    found = {root: of[generation] for root, of in records.items() if generation in of}
    # Equal ballots of two commits are no writer's of this protocol: the choice is at least the same
    # for everybody.
    record = max(found.values(), key=lambda each: (each.ballot, each.manifest))
    holders = {
        root
        for root, each in found.items()
        if each.proposes_the_same(record) and root in record.roots
    }
    return Standing(
        record=record,
        holders=frozenset(holders),
        asked=frozenset(
            root
            for root in records
            if root in record.roots and generation not in damaged.get(root, ())
        ),
        outvoted={root: each for root, each in found.items() if not each.proposes_the_same(record)},
    )


def in_doubt(found: Sequence[Standing]) -> list[Standing]:
    """Return those of which it is not decided yet whether they stay: the next writer does that.

    A generation was decided before the next one was written; so all are that are older than one on
    a majority, or than one whose record names it as its parent. Their own roots may have been
    replaced since.

    Parameters
    ----------
    found : sequence of Standing
        The newest one first.

    Raises
    ------
    Nothing.
    """
    left = []
    for at, standing in enumerate(found):
        if standing.decided or (at and found[at - 1].record.parent == standing.record.manifest):
            break
        left.append(standing)
    return left


def established(found: Sequence[Standing], newest: int) -> list[Standing]:
    """Return the generations that a store keeps, the newest first.

    They are the newest, all that are on a majority, and those that the record of the next one names
    as its parent: its writer has seen them on a majority. A collection removes the oldest ones from
    a majority, so a generation on the other roots only may have been collected. The same holds for
    one on roots that lack a newer generation, such as roots from a backup.

    Parameters
    ----------
    found : sequence of Standing
        The newest one first.
    newest : int
        The generation that counts as that.

    Raises
    ------
    Nothing.
    """
    oldest_decided = min((one.record.generation for one in found if one.decided), default=newest)
    kept: list[Standing] = []
    behind: set[str] = set()  # roots that lack one of those
    for standing in found:
        record = standing.record
        if record.generation > newest:
            continue
        is_parent = (
            bool(kept)
            and _is_parent(standing, kept[-1])
            and len(standing.holders) > len(record.roots) - record.majority
            and (record.generation > oldest_decided or not _is_outlived(standing, behind))
        )
        if record.generation == newest or standing.decided or is_parent:
            kept.append(standing)
            behind |= standing.asked - standing.holders
    return kept


def outlived(found: Sequence[Standing], newest: int) -> list[Standing]:
    """Return generations that the others have collected: older than all that are established, and
    only on roots that lack one of these; a root that has all of these lacks them.

    Parameters
    ----------
    found : sequence of Standing
        The newest one first.
    newest : int

    Raises
    ------
    Nothing.
    """
    kept = established(found, newest)
    if not kept:
        return []
    behind = {root for one in kept for root in one.asked - one.holders}
    left = [one for one in found if one.record.generation < kept[-1].record.generation]
    return left if all(_is_outlived(one, behind) for one in left) else []


def _is_outlived(standing: Standing, behind: Collection[str]) -> bool:
    lacking = standing.asked - standing.holders
    return standing.holders <= set(behind) and not lacking <= set(behind)


def _is_parent(standing: Standing, after: Standing) -> bool:
    record, next_ = standing.record, after.record
    return (record.generation + 1, record.manifest) == (next_.generation, next_.parent)


def unknown(
    newest: Record, damaged: Mapping[str, Collection[int]], asked: Collection[str]
) -> int | None:
    """Return a generation that may have been reported, and of which no sound record was found.

    Parameters
    ----------
    newest : Record
        The newest one of which there is one.
    damaged : mapping of str to collection of int
        By root: generations of which it has a record that cannot be read.
    asked : collection of str
        Roots that could be asked.

    Raises
    ------
    Nothing.
    """
    away = len(set(newest.roots) - set(asked))
    suspected = {generation for of_root in damaged.values() for generation in of_root}
    for generation in sorted(suspected, reverse=True):
        holders = sum(generation in of_root for of_root in damaged.values())
        if generation > newest.generation and holders + away >= newest.majority:
            return generation
    return None


def next_ballot(records: Records, promised: Sequence[int]) -> int:
    """Return a ballot that is higher than all that were found.

    Raises
    ------
    Nothing.
    """
    used = [record.ballot for of_root in records.values() for record in of_root.values()]
    return max([0, *used, *promised]) + 1
