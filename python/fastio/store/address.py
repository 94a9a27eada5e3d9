"""A generation that another process finds again: the same one of the same store, or an error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from fastio.errors import ConflictError
from fastio.store.members import Members
from fastio.store.pinned import PinnedGeneration


@dataclass(frozen=True)
class GenerationAddress:
    """The address of a generation in a pickle.

    A number alone is not enough: a generation in doubt may give way to one with the same number.

    Attributes
    ----------
    paths : tuple of pathlib.PurePath
        The roots that were given, then those that were reached: one of them may be away by then.
    timeout_s : float
        How long a root may take to answer.
    store : str
        UUID.
    generation : int
    manifest : str
        Its SHA-256.
    """

    paths: tuple[PurePath, ...]
    timeout_s: float
    store: str
    generation: int
    manifest: str

    @classmethod
    def of(cls, members: Members, pinned: PinnedGeneration) -> GenerationAddress:
        """Return the address of a generation that is read."""
        own = pinned.standing.record.roots
        reached = (root.path for uuid, root in members.roots.items() if uuid in own)
        paths = tuple(dict.fromkeys((*members.paths, *reached)))
        digest = pinned.encoded.digest
        return cls(paths, members.timeout_s, members.store, pinned.generation, digest)

    def find(self) -> tuple[Members, PinnedGeneration]:
        """Return the roots, and the generation, which is not collected while it is held.

        Raises
        ------
        FileNotFoundError
            If no root is there.
        ReplicaError
            If another store is there, or no root can be read.
        ConflictError
            If the generation was collected, or another one has its number.
        FormatError
        """
        members = Members(self.paths, self.timeout_s, store=self.store)
        pinned = members.pin(self.generation, None)
        if pinned.encoded.digest != self.manifest:
            pinned.hold.close()
            raise ConflictError(
                members.name,
                f"its generation {self.generation} is not the one that was pickled: that one never "
                "was on a majority of the roots, or a backup was restored; open the store again",
            )
        return members, pinned
