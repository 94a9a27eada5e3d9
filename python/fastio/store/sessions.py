"""The majority that a writer needs: of the roots that the newest record names.

Roots are replaced by a commit. While it is in doubt, a writer needs a majority of the old roots and
one of the new roots. So a writer that has seen it and one that has not never write side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastio.errors import ConflictError
from fastio.store.commit import Session
from fastio.store.history import Standing
from fastio.store.members import Members
from fastio.store.pinned import PinnedGeneration

_OVERTAKEN_MAX = 100  # how often roots may be replaced between a look and the locks


@dataclass(frozen=True)
class Seats:
    """The roots that decide.

    Attributes
    ----------
    among : tuple of str
        UUIDs of the roots of the newest record.
    before : tuple of str
        Those of the record before, while the newest one is in doubt; else the same ones.
    """

    among: tuple[str, ...]
    before: tuple[str, ...]


def seats(found: Sequence[Standing]) -> Seats:
    """Return which roots decide.

    Parameters
    ----------
    found : sequence of Standing
        The newest one first; one at least.

    Raises
    ------
    Nothing.
    """
    among = found[0].record.roots
    in_doubt = len(found) > 1 and not found[0].decided
    return Seats(among, found[1].record.roots if in_doubt else among)


def begin(
    members: Members,
    pinned: PinnedGeneration,
    *,
    wait_s: float | None = None,
    is_cancelled: Callable[[], bool] = lambda: False,
    proposes: bool = True,
    forced: bool = False,
) -> Session:
    """Hold the roots that decide: looked at again, as others may have replaced one meanwhile.

    Parameters
    ----------
    members : Members
    pinned : PinnedGeneration
        The generation that is read, where no record can be read any more.
    wait_s : float, optional
        How long another writer is waited for.
    is_cancelled : callable
        Asked now and then meanwhile.
    proposes : bool
        Whether it will commit.
    forced : bool
        Whether those roots are enough that can be written to, where they are no majority.

    Raises
    ------
    ReplicaError, ConflictError, WriteError, ReadError
        As `Session` does.
    """
    members.look_again()
    expected = seats(members.standings() or [pinned.standing])
    for _ in range(_OVERTAKEN_MAX):
        session = Session(
            members.store,
            list(members.roots.values()),
            members.missing,
            expected.among,
            also=expected.before if expected.before != expected.among else (),
            mode=pinned.encoded.manifest.settings.file_mode,
            wait_s=wait_s,
            is_cancelled=is_cancelled,
            proposes=False,
            forced=forced,
        )
        try:
            session.require_unchanged()
            found = session.standings()
            now = seats(found) if found else expected
            # An adoption gives the roots other UUIDs, under their locks.
            if now == expected and all(members.is_unchanged(root) for root in session.roots):
                if proposes:
                    session.propose()
                return session
        except BaseException:
            session.close()
            raise
        session.close()
        members.look_again()
        expected = now
    raise ConflictError(members.name, "its roots are replaced faster than it can be written to")
