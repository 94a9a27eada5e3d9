"""A generation that is read, and what keeps it from being collected."""

from __future__ import annotations

from dataclasses import dataclass

from fastio.filesystem.flocks import Flock
from fastio.store.history import Standing
from fastio.store.manifest import Named


class Held:
    """What keeps a generation from being collected: until it is closed, or nobody has it.

    Attributes
    ----------
    locks : dict of str to Flock
        By the UUID of the root.
    """

    def __init__(self) -> None:
        self.locks: dict[str, Flock] = {}

    def close(self) -> None:
        """Let it be collected."""
        while self.locks:
            self.locks.popitem()[1].close()


@dataclass(frozen=True)
class Taken:
    """A generation that is read.

    Attributes
    ----------
    standing : Standing
    named : Named
    held : Held
        While it is open, the generation is not collected.
    """

    standing: Standing
    named: Named
    held: Held

    @property
    def generation(self) -> int:
        """Its number."""
        return self.standing.record.generation
