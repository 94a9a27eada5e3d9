"""A kind of storage: how a storage is opened and made, and what a root may be made of."""

from __future__ import annotations

from pathlib import PurePath
from typing import Protocol

import msgspec

from fastio.storage.answering import Answering
from fastio.storage.protocol import Storage


class Skeleton(msgspec.Struct, frozen=True):
    """The names that a root has in its storage.

    Attributes
    ----------
    folders : tuple of str
    files : frozenset of str
        In the storage itself.
    identity : str
        The one of these that makes it a root.
    """

    folders: tuple[str, ...]
    files: frozenset[str]
    identity: str


class Kind(Protocol):
    """A kind of storage: a module with these functions; its row in `known` names it.

    They are called by the thread of `answering`, and check before they change anything.
    """

    def open_storage(self, path: PurePath, answering: Answering) -> Storage:
        """Open a storage that is there.

        Raises
        ------
        FileNotFoundError, ReadError
        """

    def make_storage(
        self, path: PurePath, skeleton: Skeleton, mode: int, answering: Answering
    ) -> Storage:
        """Open a storage, and make what is missing of it and its folders.

        Raises
        ------
        WriteError
        """

    def require_free(self, path: PurePath, skeleton: Skeleton) -> None:
        """Refuse an address that no root can be made at.

        Raises
        ------
        WriteError
            If there are files, or it is inside another root.
        """

    def require_own(self, path: PurePath, skeleton: Skeleton) -> None:
        """Refuse an address that has something else in it than a root has.

        Raises
        ------
        WriteError
        """
