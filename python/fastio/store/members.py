"""The roots of a store that can be reached, and the generation that they say is the newest."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from fastio.errors import ConflictError, FastioError, FormatError, ReplicaError, StaleError
from fastio.storage import answering
from fastio.storage.known import address_of
from fastio.store import IDENTITY, divergence, lineage, wholeness
from fastio.store.documents import Record
from fastio.store.history import Standing, unknown
from fastio.store.manifest import EncodedManifest, RootEntry, hints
from fastio.store.pinned import Hold, PinnedGeneration
from fastio.store.places import Places
from fastio.store.reached import ReachableRoots
from fastio.store.root import Root

_LOST_MAX = 100  # how often what is read may be collected meanwhile


class Members(ReachableRoots):
    """The roots that belong together.

    Parameters
    ----------
    paths : sequence of path
        Any of them; those that are not given are looked for where the manifest says.
    timeout_s : float
        How long a root may take to answer: `Options.root_timeout_s`.
    store : str, optional
        UUID of the store that they are to be of. Default: the one that most of them are of.

    Attributes
    ----------
    roots : dict of str to Root
        Those that can be reached, by UUID.
    missing : dict of str to str
        Paths of those that cannot, each with the reason.
    places : Places
        Whether they are where the manifest says.
    store : str
        UUID.

    Raises
    ------
    FileNotFoundError
        If none of them is a root.
    ReplicaError
        If none of them can be read, each with its reason; or they are of another store.
    """

    def __init__(
        self, paths: Sequence[PurePath], timeout_s: float = math.inf, *, store: str | None = None
    ) -> None:
        self.paths = list(dict.fromkeys(address_of(str(path)) for path in paths))
        self.timeout_s = timeout_s
        self.roots: dict[str, Root] = {}
        self.missing: dict[str, str] = {}
        self.places = Places({})
        opened, absent = self._open(self.paths)
        if not opened:
            if absent == len(self.paths):
                raise FileNotFoundError(
                    2, f"No such store ({IDENTITY} is not there)", str(self.paths[0])
                )
            raise ReplicaError(self.paths[0], "no root of this store can be read", self.missing)
        self.store = store or self._chosen(opened)
        own = [root for root in opened if root.identity.store == self.store]
        divergence.require_one_history(own, self.timeout_s)
        self._gather(opened)
        if not self.roots:
            problem = f"no root of the store {self.store} is there"
            raise ReplicaError(self.paths[0], problem, self.missing)

    @classmethod
    def of(cls, roots: Iterable[Root]) -> Members:
        """Those that were opened, or made just now."""
        members = cls.__new__(cls)
        members.roots = {root.uuid: root for root in roots}
        members.paths = [root.path for root in members.roots.values()]
        members.missing = {}
        members.places = Places({})
        first = next(iter(members.roots.values()))
        members.store, members.timeout_s = first.identity.store, first.answering.timeout_s
        return members

    def look_again(self) -> None:
        """Open roots that were missing, if they are there now; release those that are not.

        Raises
        ------
        Nothing.
        """
        there = [root for root in self.roots.values() if self.is_unchanged(root)]
        at = {root.path for root in there}
        gone = {
            str(root.path): "is not there any more, or is another one now"
            for root in self.roots.values()
            if root.path not in at
        }
        self.missing = {}
        opened, _ = self._open([path for path in self.paths if path not in at])
        back = [root for root in opened if self._has_stayed(root, there)]
        self._gather([*back, *there])
        reached = {str(root.path) for root in self.roots.values()}
        for path, reason in gone.items():
            if path not in reached:
                self.missing.setdefault(path, reason)

    @staticmethod
    def is_unchanged(root: Root) -> bool:
        """Whether a root answers, is where it was, and is the one that it was.

        Raises
        ------
        Nothing.
        """
        try:
            return root.is_itself()
        except FastioError:
            return False

    def placed(self, entry: RootEntry) -> RootEntry:
        """Return what a new manifest says of a root: where it is now, or is to be looked for. The
        path that it has stays while that leads there: another one may be a passing mount or link.
        """
        root = self.roots.get(entry.uuid)
        if root is not None:
            path = str(root.path) if self.places.is_elsewhere(root, entry.path) else entry.path
            return RootEntry(entry.uuid, root.identity.weight, path)
        path = self.places.expected(entry.path, self.roots.values())
        return RootEntry(entry.uuid, entry.weight, path)

    def replace(self, uuid: str, root: Root) -> None:
        """Have a new root in place of another one, which may be missing.

        Raises
        ------
        Nothing.
        """
        old = self.roots.pop(uuid, None)
        path = address_of(self.places.said(uuid) or "") if old is None else old.path
        self.paths = [root.path, *(each for each in self.paths if each not in (path, root.path))]
        self.missing.pop(str(path), None)
        self.roots[root.uuid] = root

    def _open(self, paths: Sequence[PurePath]) -> tuple[list[Root], int]:
        """Open roots, all at once; how many of them are none."""
        opened, absent = [], 0
        calls = [Root.begin_to_open(path, self.timeout_s) for path in paths]
        answering.wait_for_all(calls)
        for path, call in zip(paths, calls, strict=True):
            try:
                opened.append(call.result())
            except FileNotFoundError:
                absent += 1
                self.missing[str(path)] = f"there is no {IDENTITY}: not mounted, perhaps"
            except (FastioError, OSError) as error:
                self.missing[str(path)] = str(error)
        return opened, absent

    def _chosen(self, opened: Sequence[Root]) -> str:
        """The store that most of the roots are of: those that were opened, and those of the paths
        given that its manifest names.
        """
        stores = Counter(root.identity.store for root in opened)
        if len(stores) == 1:
            return opened[0].identity.store
        given = {str(path) for path in self.paths}
        for store in stores:
            own = Members.of([root for root in opened if root.identity.store == store])
            with contextlib.suppress(FastioError):
                stores[store] += len(given & set(hints(own.newest().manifest).values()))
        (first, most), (_, next_most), *_ = stores.most_common()
        if most == next_most:
            of_first = [root.identity for root in opened if root.identity.store == first]
            other = next(root for root in opened if root.identity.store != first)
            why = f"{other.path} {lineage.foreign(other.identity, of_first)}"
            problem = f"these are roots of different stores: {why}"
            raise FormatError(self.paths[0], problem, expected="roots of one")
        return first

    def _has_stayed(self, root: Root, there: Sequence[Root]) -> bool:
        """Whether a root that has come back went on with those that stayed."""
        both = divergence.apart([root, *there], self.timeout_s)
        if both is None or root not in both:
            return True
        self.missing[str(root.path)] = "belongs to a copy of this store, and was saved to since"
        return False

    def _hints(self) -> dict[str, str]:
        """The paths of the newest generation's roots.

        While that generation is in doubt, a majority of the roots that they replace decides, too:
        `_in_doubt`.
        """
        self._in_doubt: Standing | None = None
        stand = self.standings()
        for standing in stand:
            with contextlib.suppress(FastioError, FileNotFoundError):
                known = dict(hints(self.manifest(standing.record).manifest))
                if not stand[0].decided and stand[1:]:
                    replaces = stand[1].record.roots != stand[0].record.roots
                    self._in_doubt = stand[1] if replaces else None
                return known
        return {}

    def _with_replaced(self, known: dict[str, str]) -> dict[str, str]:
        """The paths of these roots, and of those that they replace."""
        found: dict[str, str] = {}
        if self._in_doubt is not None:
            with contextlib.suppress(FastioError, FileNotFoundError):
                before = hints(self.manifest(self._in_doubt.record).manifest)
                found = {uuid: at for uuid, at in before.items() if at not in known.values()}
        return {**found, **known}

    # ---- which of them belong together

    def _gather(self, opened: Sequence[Root]) -> None:
        """Join those that were opened, and then those that they know of."""
        own = []
        for root in opened:
            if root.identity.store == self.store:
                own.append(root)
            else:
                self.missing[str(root.path)] = _why_foreign(root, opened, self.store)
        self.roots = {}
        if own:
            self.roots = {root.uuid: root for root in reversed(own)}
            known = self._hints()
            self.places = Places(known, self.places_before(self.roots.keys() - known.keys()))
        self.roots = {}
        given = {root.path for root in own}
        for root in self.places.in_order(own):
            original = self.places.original(root, self.timeout_s)
            if original is not None:
                self.missing[str(root.path)] = f"is a copy of the root {original.path}"
            self._join(original or root)
        self._follow_hints()
        self.places.note(self.roots.values(), given)

    def _join(self, root: Root) -> None:
        other = self.roots.get(root.uuid)
        if other is None:
            self.roots[root.uuid] = root
            self.missing.pop(str(root.path), None)
        elif other.path != root.path:
            same = other.storage.is_at(root.path)
            problem = "leads to the root" if same else "is a copy of the root"
            self.missing[str(root.path)] = f"{problem} {other.path}"

    def _follow_hints(self) -> None:
        looked: set[str] = set()
        while True:
            known = self._hints()
            self.places.learn(known, self.roots.values())
            further = sorted(known.keys() - self.roots.keys() - looked)
            if not further:
                known = self._with_replaced(known)
                further = sorted(known.keys() - self.roots.keys() - looked)
                if not further:
                    return
                self.places.learn(known, self.roots.values())
            looked.update(further)
            wanted = {}
            for uuid in further:
                path, reason = self.places.where(uuid, self.roots.values())
                if path is None:
                    self.missing[known[uuid]] = reason
                elif str(path) not in self.missing:
                    wanted[path] = uuid
            opened, _ = self._open(list(wanted))
            for root in opened:
                uuid = wanted[root.path]
                if root.identity.store != self.store:
                    self.missing[str(root.path)] = _why_foreign(
                        root, self.roots.values(), self.store
                    )
                elif root.uuid != uuid:
                    self.missing[str(root.path)] = f"is another root than {uuid}, {root.uuid}"
                elif not self.places.is_followed(root, self.roots.values()):
                    self.missing[str(root.path)] = self.places.unfollowed(self.roots.values())
                else:
                    self._join(root)

    # ---- a generation of them

    def pin(self, generation: int | None, min_generation: int | None) -> PinnedGeneration:
        """Choose a generation, and keep it from being collected.

        Parameters
        ----------
        generation : int or None
            None: the newest.
        min_generation : int or None
            The newest must not be older.

        Raises
        ------
        StaleError
            If it is.
        ConflictError
            If there is no such generation, any more.
        ReplicaError
            If no root has what it needs.
        FormatError
        """
        for _ in range(_LOST_MAX):
            found = self.standings()
            if not found:
                raise ReplicaError(self.name, "no root has a sound commit record", self.reasons())
            standing, encoded = self._newest(found, generation)
            self._require_known(standing.record)
            if min_generation is not None and standing.record.generation < min_generation:
                raise StaleError(self.name, standing.record.generation, min_generation)
            if generation is not None and generation != standing.record.generation:
                standing, encoded = self._older(generation, found, standing)
            assert encoded is not None
            with contextlib.suppress(FileNotFoundError):  # collected just now: look again
                return PinnedGeneration(standing, encoded, Hold.on(self.roots, encoded.digest))
        raise ConflictError(self.name, "is collected faster than it can be opened")

    def _newest(
        self, found: Sequence[Standing], generation: int | None
    ) -> tuple[Standing, EncodedManifest | None]:
        """The newest generation; without its manifest where that is lost, and an older one is asked
        for.
        """
        try:
            newest = wholeness.newest(found, self.manifest, self.roots)
        except ReplicaError:
            lost = next(one for one in found if not one.never_reported)
            if generation is None or generation >= lost.record.generation:
                raise
            return lost, None
        if newest is None:
            raise ReplicaError(self.name, "no generation is whole", self.reasons())
        return newest

    def _older(
        self, generation: int, found: Sequence[Standing], newest: Standing
    ) -> tuple[Standing, EncodedManifest]:
        """A generation that was asked for by its number."""
        for standing in found:
            if standing.record.generation == generation < newest.record.generation:
                encoded = wholeness.existing(standing, self.manifest, self.roots)
                if encoded is not None:
                    return standing, encoded
        there = ", ".join(
            str(one.record.generation)
            for one in found[:8]
            if one.record.generation <= newest.record.generation
        )
        raise ConflictError(
            self.name,
            f"has no generation {generation}: it was collected, or is not saved yet; there are "
            f"{there}",
        )

    def _require_known(self, newest: Record) -> None:
        """Refuse to take an older generation for the newest one because records are damaged."""
        damaged = {uuid: root.damaged for uuid, root in self.roots.items()}
        lost = unknown(newest, damaged, self.roots)
        if lost is not None:
            raise ReplicaError(
                self.name, f"generation {lost} has no sound commit record", self.reasons()
            )

    def hold(self, pinned: PinnedGeneration) -> None:
        """Keep a generation from being collected on roots that have come back, too.

        Raises
        ------
        Nothing: a root that has it not is not read.
        """
        pinned.hold.hold_more(self.roots, pinned.encoded.digest)

    def close(self) -> None:
        """Let go of the roots; they are closed when nobody reads from them any more."""
        self.roots = {}


def _why_foreign(root: Root, roots: Iterable[Root], store: str) -> str:
    """Why a root is none of this store's."""
    own = [each.identity for each in roots if each.identity.store == store]
    return lineage.foreign(root.identity, own)
