"""The roots of a store that can be reached, and the generation that they say is the newest."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastio.anchored import anchored
from fastio.errors import ConflictError, FastioError, FormatError, ReplicaError, StaleError
from fastio.store import IDENTITY, locks
from fastio.store.documents import Record
from fastio.store.history import Standing, standings, unknown
from fastio.store.locks import Lock
from fastio.store.manifest import Named, ShardEntry, hints
from fastio.store.root import MANIFESTS, SHARDS, Root

_LOST_MAX = 100  # how often what is read may be collected meanwhile


class Members:
    """The roots that belong together.

    Parameters
    ----------
    paths : sequence of path
        Any of them; those that are not given are looked for where the manifest says.

    Attributes
    ----------
    roots : dict of str to Root
        Those that can be reached, by UUID.
    missing : dict of str to str
        Paths of those that cannot, each with the reason.
    store : str
        UUID.

    Raises
    ------
    FileNotFoundError
        If none of them is a root.
    ReplicaError
        If none of them can be read, each with its reason.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = [Path(anchored(str(path))) for path in paths]
        self.roots: dict[str, Root] = {}
        self.missing: dict[str, str] = {}
        self.store = ""
        self._open_given()
        self._follow_hints()

    @classmethod
    def of(cls, roots: Iterable[Root]) -> Members:
        """Those that were made just now."""
        members = cls.__new__(cls)
        members.roots = {root.uuid: root for root in roots}
        members.paths = [root.path for root in members.roots.values()]
        members.missing = {}
        members.store = next(iter(members.roots.values())).identity.store
        return members

    def look_again(self) -> None:
        """Open roots that were missing, if they are there now; let go of those that are not."""
        for uuid, root in list(self.roots.items()):
            if not root.is_in_its_place():
                self.missing[str(root.path)] = "is not there any more, or another one is"
                del self.roots[uuid]
        for path in list(self.missing):
            with contextlib.suppress(FastioError, OSError):
                self._join(Root.open(Path(path)))
        self._follow_hints()

    def _open_given(self) -> None:
        opened, absent = [], 0
        for path in self.paths:
            try:
                opened.append(Root.open(path))
            except FileNotFoundError:
                absent += 1
                self.missing[str(path)] = f"there is no {IDENTITY}: not mounted, perhaps"
            except (FastioError, OSError) as error:
                self.missing[str(path)] = str(error)
        if not opened:
            if absent == len(self.paths):
                raise FileNotFoundError(
                    2, f"No such store ({IDENTITY} is not there)", str(self.paths[0])
                )
            raise ReplicaError(self.paths[0], "no root of this store can be read", self.missing)
        self.store = self._chosen(opened)
        for root in opened:
            self._join(root)

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
            raise FormatError(
                self.paths[0], "these are roots of different stores", expected="roots of one"
            )
        return first

    def newest(self) -> Named:
        """Return the manifest of the newest generation that has one.

        Raises
        ------
        ReplicaError
            If there is none.
        """
        for standing in self.standings():
            with contextlib.suppress(FastioError, FileNotFoundError):
                return self.manifest(standing.record)
        raise ReplicaError(self.name, "no generation has a sound manifest", self._reasons())

    def _join(self, root: Root, expected: str | None = None) -> None:
        if root.identity.store != self.store:
            self.missing[str(root.path)] = f"is of another store, {root.identity.store}"
        elif expected is not None and root.uuid != expected:
            self.missing[str(root.path)] = f"is another root than {expected}, {root.uuid}"
        elif root.uuid in self.roots:
            other = self.roots[root.uuid].path
            if not other.samefile(root.path):
                self.missing[str(root.path)] = f"is a copy of the root {other}"
        else:
            self.roots[root.uuid] = root
            self.missing.pop(str(root.path), None)
            return
        root.close()

    def _follow_hints(self) -> None:
        looked: set[str] = set()
        while True:
            known: dict[str, str] = {}
            with contextlib.suppress(FastioError):
                known = dict(hints(self.newest().manifest))
            further = known.keys() - self.roots.keys() - looked
            if not further:
                return
            for uuid in sorted(further):
                looked.add(uuid)
                path = Path(known[uuid])
                if str(path) in self.missing:
                    continue
                try:
                    self._join(Root.open(path), expected=uuid)
                except FileNotFoundError:
                    self.missing[str(path)] = f"there is no {IDENTITY}: not mounted, perhaps"
                except (FastioError, OSError) as error:
                    self.missing[str(path)] = str(error)

    # ---- what they say

    def records(self) -> Mapping[str, Mapping[int, Record]]:
        """Return the sound records of each root; one that cannot be read is missing from now on.

        Raises
        ------
        Nothing.
        """
        found = {}
        for uuid, root in list(self.roots.items()):
            try:
                found[uuid] = root.records()
            except (FastioError, OSError) as error:
                self.missing[str(root.path)] = str(error)
                del self.roots[uuid]
        return found

    def standings(self) -> list[Standing]:
        """Return how each generation stands on the roots that can be asked, the newest first.

        Raises
        ------
        Nothing.
        """
        records = self.records()
        return standings(records, {uuid: root.damaged for uuid, root in self.roots.items()})

    def manifest(self, record: Record) -> Named:
        """Return the manifest of a generation, from any root that has it.

        Raises
        ------
        ReplicaError
            If none has.
        FormatError
            If it is of another store.
        """
        reasons: dict[str, str] = {}
        for root in self.roots.values():
            try:
                named = root.manifest(record.manifest)
            except FileNotFoundError:
                reasons[str(root.path)] = "has no such file"
            except (FastioError, OSError) as error:
                reasons[str(root.path)] = str(error)
                root.note(str(error))
            else:
                if named.manifest.store != self.store:
                    path = root.path / MANIFESTS / f"{record.manifest}.json"
                    raise FormatError(path, "is of another store", expected=self.store)
                return named
        raise ReplicaError(
            self.name,
            f"the manifest of generation {record.generation} cannot be read",
            {**self.missing, **reasons},
        )

    @property
    def name(self) -> str:
        """What messages call the store."""
        return str(self.paths[0])

    def take(self, generation: int | None, min_generation: int | None) -> Taken:
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
                raise ReplicaError(self.name, "no root has a sound commit record", self._reasons())
            newest = self._newest(found)
            self._require_known(newest[0].record)
            if min_generation is not None and newest[0].record.generation < min_generation:
                raise StaleError(self.name, newest[0].record.generation, min_generation)
            standing, named = newest
            if generation is not None and generation != standing.record.generation:
                chosen = [one for one in found if one.record.generation == generation]
                if not chosen or generation > standing.record.generation:
                    there = ", ".join(str(one.record.generation) for one in found[:8])
                    raise ConflictError(
                        self.name, f"has no generation {generation}: collected, or not yet; {there}"
                    )
                standing, named = chosen[0], self.manifest(chosen[0].record)
            with contextlib.suppress(FileNotFoundError):  # collected just now: look again
                return Taken(standing, named, self._hold(standing))
        raise ConflictError(self.name, "is collected faster than it can be opened")

    def _require_known(self, newest: Record) -> None:
        """Refuse to take an older generation for the newest one because records are damaged."""
        damaged = {uuid: root.damaged for uuid, root in self.roots.items()}
        lost = unknown(newest, damaged, self.roots)
        if lost is not None:
            raise ReplicaError(
                self.name, f"generation {lost} has no sound commit record", self._reasons()
            )

    def _newest(self, found: Sequence[Standing]) -> tuple[Standing, Named]:
        """The newest generation that there is: one that nobody was told of counts only where it is
        whole.
        """
        for standing in found:
            try:
                named = self.manifest(standing.record)
            except ReplicaError:
                if not standing.never_reported:
                    raise
                continue
            if not standing.never_reported or self.is_whole(named):
                return standing, named
        raise ReplicaError(self.name, "no generation is whole", self._reasons())

    def is_whole(self, named: Named) -> bool:
        """Return whether each shard is there, of the right size, on some root."""
        manifest = named.manifest
        for shard in manifest.shards:
            holders = (self.roots.get(manifest.roots[at].uuid) for at in shard.roots)
            if not any(root is not None and _has(root, shard) for root in holders):
                return False
        return True

    def lacking(self, named: Named) -> dict[str, list[str]]:
        """Return what each root that can be reached lacks of a generation, by UUID."""
        manifest = named.manifest
        found: dict[str, list[str]] = {}
        for at, entry in enumerate(manifest.roots):
            root = self.roots.get(entry.uuid)
            if root is None:
                continue
            own = [shard for shard in manifest.shards if at in shard.roots]
            bad = [shard.file for shard in own if not _has(root, shard)]
            if bad:
                what = f"{len(bad)} of {len(own)} shards are missing or of another size: {bad[0]}"
                found[entry.uuid] = [what]
        return found

    def _hold(self, standing: Standing) -> Held:
        held = Held()
        try:
            for uuid in sorted(standing.holders):
                root = self.roots[uuid]
                held.locks.append(locks.hold_record(root, standing.record.generation))
        except BaseException:
            held.close()
            raise
        return held

    def _reasons(self) -> dict[str, str]:
        damaged = {
            str(root.path): "; ".join(root.problems) or "has none" for root in self.roots.values()
        }
        return {**self.missing, **damaged}

    def close(self) -> None:
        """Let go of the roots; they are closed when nobody reads from them any more."""
        self.roots = {}


def _has(root: Root, shard: ShardEntry) -> bool:
    """Whether a shard is there, and of its size."""
    try:
        return root.size(SHARDS, shard.file) == shard.nbytes
    except (FastioError, FileNotFoundError):
        return False


class Held:
    """What keeps a generation from being collected: until it is closed, or nobody has it."""

    def __init__(self) -> None:
        self.locks: list[Lock] = []

    def close(self) -> None:
        """Let it be collected."""
        while self.locks:
            self.locks.pop().close()


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
