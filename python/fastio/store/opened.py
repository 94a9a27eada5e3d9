"""An open store: its roots, the generation that is read, and whose turn it is to write."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import TypeVar

from fastio.arguments.checks import check_kind
from fastio.errors import ConflictError, UsageError
from fastio.options import Options
from fastio.reading.located import LocatedSource
from fastio.reading.watch import OnDamage
from fastio.saving.turns import Turn, is_own
from fastio.saving.uninterrupted import UninterruptedStep
from fastio.store import arguments, reading, sessions
from fastio.store.commit import Session
from fastio.store.manifest import Settings
from fastio.store.members import Members
from fastio.store.partition import Partition
from fastio.store.pinned import PinnedGeneration

_Result = TypeVar("_Result")


class OpenStore:
    """The state that all parts of a `Store` share.

    Parameters
    ----------
    members : Members
        The roots.
    pinned : PinnedGeneration
        The generation that is read.
    by : str or callable, optional
        How tensors are spread over shards, where that is not what the manifest says.
    """

    def __init__(
        self, members: Members, pinned: PinnedGeneration, by: Partition | None = None
    ) -> None:
        self.members = members
        self.pinned = pinned
        self.by = by
        self.closed = False

    def require_open(self) -> None:
        """Refuse what needs an open store.

        Raises
        ------
        UsageError
        """
        if self.closed:
            raise UsageError(f"the store {self.members.name} is closed")

    def find(
        self, on_damage: OnDamage, generation: int | None, options: Options | None
    ) -> Callable[[Collection[str] | None], LocatedSource]:
        """Return what locates the tensors of a generation, given the names that are wanted.

        Raises
        ------
        ConflictError, ReplicaError, TypeError, UsageError, ValueError
            As `Store.load` does.
        """
        self.require_open()
        check_kind("options", options, Options)
        if generation is not None:
            arguments.check_count("generation", generation, 0, 2**63 - 1)
        if self.members.missing:
            self.members.look_again()
            self.members.hold(self.pinned)
        pinned = self.pinned
        if generation is not None and generation != pinned.generation:
            pinned = self.members.pin(generation, None)
        watch = reading.watch(self.members, pinned, on_damage, options)
        return lambda names: reading.locate(self.members, pinned, watch, names)

    def in_turn(
        self,
        write: Callable[[Session, Callable[[], bool]], _Result],
        *,
        proposes: bool = True,
        renews: bool = True,
        forced: bool = False,
    ) -> _Result:
        """Write to the store when no other thread of this process does.

        A save in a signal handler waits for the one that its thread is in the middle of.

        Parameters
        ----------
        write : callable
            Given the session, and what says whether a signal handler has raised meanwhile.
        proposes : bool
            Whether a generation may be made.
        renews : bool
            Whether that is read from then on.
        forced : bool
            Whether those roots are enough that can be reached.

        Raises
        ------
        ConflictError
            If this thread cannot wait for itself.
        """
        self.require_open()
        key = f"store {self.members.store}"
        if is_own(key):
            problem = "its own thread is writing to it: a finalizer cannot do so now"
            raise ConflictError(self.members.name, problem)
        cancelled = threading.Event()

        def step() -> _Result:
            with Turn(key):
                with sessions.begin(
                    self.members,
                    self.pinned,
                    is_cancelled=cancelled.is_set,
                    proposes=proposes,
                    forced=forced,
                ) as session:
                    result = write(session, cancelled.is_set)
                if proposes and renews:  # loads of the generation before go on holding it
                    self.pinned = self.members.pin(None, None)
                return result

        return UninterruptedStep(step, f"fastio {key}").run(interrupted=cancelled.set)

    def partition(self, by: Partition | None, settings: Settings) -> Partition:
        """Return how tensors are spread over shards: by this call, this store, or its manifest.

        Raises
        ------
        UsageError
            If that is a callable, which nobody has handed over.
        """
        chosen = by if by is not None else self.by
        if chosen is None:
            if settings.partition == "callable":
                raise UsageError(
                    "this store was created with a callable as partition: pass it to save"
                )
            return settings.partition
        arguments.partition_name(chosen)
        return chosen


def now_s() -> int:
    """Return the time of this machine's clock, in seconds since 1970."""
    return int(time.time())
