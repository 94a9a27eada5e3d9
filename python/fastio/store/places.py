"""The paths of a store's roots: found ones, and those that its manifest says.

A store that is copied root by root has the UUIDs of its original, and its manifests say where the
original is. So the manifest of a root that lies elsewhere leads to no other root: a copy would
join its original. Roots beside it, as the original's roots lie beside each other, were copied or
moved with it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath

from fastio.errors import FastioError
from fastio.report.events import Event
from fastio.storage.address import Url
from fastio.storage.known import address_of, is_url
from fastio.store.root import Root

HOW_TO_GO_ON = (
    "give the paths of all roots to go on with a store that was moved; "
    "fastio.Store.adopt makes a copy a store of its own"
)


class Places:
    """Which roots are in their places.

    Parameters
    ----------
    known : mapping of str to str
        Where each root was last, by UUID.
    replaced : mapping of str to str
        Where roots were that have been replaced.

    Attributes
    ----------
    moved : dict of str to str
        Roots that are elsewhere, by their path: where the manifest says that they are.
    events : list of Event
        What whoever opens the store is told.
    """

    def __init__(self, known: Mapping[str, str], replaced: Mapping[str, str] | None = None) -> None:
        self._known = dict(known)
        self._said = {**(replaced or {}), **known}
        self.moved: dict[str, str] = {}
        self.events: list[Event] = []
        self._mixed = False

    def said(self, uuid: str) -> str | None:
        """Return where the manifest says that a root is."""
        return self._known.get(uuid)

    def learn(self, known: Mapping[str, str], roots: Iterable[Root]) -> None:
        """Go by a newer manifest."""
        if known and known != self._known:
            self._known = dict(known)
            self._said.update(known)
        self.moved = {
            str(root.path): self._said[root.uuid] for root in roots if self._is_elsewhere(root)
        }

    def _is_elsewhere(self, root: Root) -> bool:
        said = self._said.get(root.uuid)
        return said is not None and self.is_elsewhere(root, said)

    @staticmethod
    def is_elsewhere(root: Root, said: str) -> bool:
        """Return whether a path does not lead to a root, as far as can be told.

        Raises
        ------
        Nothing.
        """
        if said == str(root.path):
            return False
        with contextlib.suppress(FastioError):
            return not root.storage.is_at(said)
        return True

    def _one_is_there(self, roots: Iterable[Root]) -> bool:
        return any(root.uuid in self._said and not self._is_elsewhere(root) for root in roots)

    def _leads(self, roots: Iterable[Root]) -> bool:
        """Whether others are where the manifest says. A root that was replaced, and of which no
        generation is left that says where it was, may be a copy.
        """
        there = list(roots)
        strangers = any(root.uuid not in self._said for root in there)
        return self._one_is_there(there) or not (self.moved or strangers)

    def in_order(self, roots: Sequence[Root]) -> list[Root]:
        """Return roots, those that are in their places first, by the path that leads there."""
        self._mixed = self._one_is_there(roots)
        return sorted(
            roots,
            key=lambda root: (
                self._is_elsewhere(root),
                str(root.path) != self._said.get(root.uuid),
            ),
        )

    def original(self, root: Root, timeout_s: float) -> Root | None:
        """Return the root that one is a copy of, where others are given that belong to it.

        Raises
        ------
        Nothing.
        """
        if not self._mixed or root.uuid not in self._known or not self._is_elsewhere(root):
            return None
        with contextlib.suppress(FastioError, OSError):
            found = Root.open(address_of(self._known[root.uuid]), timeout_s)
            if found.identity == root.identity:
                return found
        return None

    def where(self, uuid: str, roots: Iterable[Root]) -> tuple[PurePath | None, str]:
        """Return where to look for a root that was not given, or why it is not looked for."""
        there = list(roots)
        if self._leads(there):
            return address_of(self._known[uuid]), ""
        for path in self._beside(self._known[uuid], there):
            if isinstance(path, Url) or os.path.lexists(path):
                return path, ""
        return None, self.unfollowed(there)

    def expected(self, said: str, roots: Iterable[Root]) -> str:
        """Return where a new manifest says that a root is that cannot be reached, and was somewhere
        by the one before: for a copy, never in a place of its original.
        """
        there = list(roots)
        if not self.moved or self._one_is_there(there):
            return said
        return str(next(self._beside(said, there), said))

    def _beside(self, said: str, roots: Iterable[Root]) -> Iterator[PurePath]:
        """The path of a root, if it was moved or copied as these were."""
        for root in roots:
            if str(root.path) in self.moved and is_url(said) == isinstance(root.path, Url):
                beside = os.path.relpath(said, self.moved[str(root.path)])
                yield type(root.path)(os.path.normpath(root.path / beside))

    def is_followed(self, root: Root, roots: Iterable[Root]) -> bool:
        """Return whether a root that was looked for may join: from roots that are elsewhere, only
        one that is elsewhere, too.
        """
        return self._leads(roots) or self._is_elsewhere(root)

    def unfollowed(self, roots: Iterable[Root]) -> str:
        """Return why a root is not looked for, or does not join."""
        root = next(
            root for root in roots if str(root.path) in self.moved or root.uuid not in self._said
        )
        said = self.moved.get(str(root.path))
        what = "has been replaced" if said is None else f"is not where its manifest says ({said})"
        return f"does not join {root.path}, which {what}: {HOW_TO_GO_ON}"

    def note(self, roots: Iterable[Root], given: Iterable[PurePath]) -> None:
        """Tell of roots that are elsewhere, where not all roots that there are were given."""
        found = {root.uuid: root.path for root in roots}
        given = set(given)
        if self._known.keys() <= {uuid for uuid, path in found.items() if path in given}:
            self.events = []
            return
        self.events = [
            Event(
                "fallback",
                path,
                f"is not where its manifest says ({said}): it was moved, or is a copy",
                f"only roots that were given, or moved alike, belong to it; {HOW_TO_GO_ON}",
            )
            for path, said in sorted(self.moved.items())
        ]
