"""A miniature store, and the record of its reported commits: the world of `test_protocol`.

Generations have a payload in their metadata and shards of a few zeros, a header of eight first.
Writers, collectors and replacements use the store's own sessions.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import msgspec

from fastio.errors import FastioError, ReplicaError
from fastio.storage.protocol import FILE_MODE
from fastio.store import IDENTITY, collect, replacing, sessions
from fastio.store.commit import Session
from fastio.store.documents import Record, RootIdentity, majority_of
from fastio.store.history import Standing, standings
from fastio.store.layout import COMMITS, SHARDS
from fastio.store.manifest import EncodedManifest, Manifest, RootEntry, Settings, ShardEntry, encode
from fastio.store.members import Members
from fastio.store.root import Root
from store.dying import Crash, Steps
from store.told import Reported, Told

_MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
_HEADER_DIGEST = hashlib.sha256(bytes(8)).hexdigest()
_SETTINGS = Settings(1, None, 2**20, "size", "rendezvous", (), 0o600)


class World:
    """Roots, some of which are away, and the commits that were reported."""

    def __init__(self, count: int, steps: Steps) -> None:
        self.steps = steps
        self.folder = Path(mkdtemp(dir=_MEMORY, prefix="fastio-protocol-")) / "store"
        self.store = uuid.UUID(int=1).hex
        self.told = Told([uuid.UUID(int=100 + at).hex for at in range(count)])
        roots = [
            Root.create(self.path(at), RootIdentity(self.store, one, 1.0))
            for at, one in enumerate(self.told.uuids)
        ]
        with Session(self.store, roots, {}, self.told.uuids) as session:
            entries = tuple(RootEntry(root.uuid, 1.0, str(root.path)) for root in roots)
            self._commit(session, self._encoded(entries, (), "created"))
        for root in roots:
            root.close()

    def path(self, at: int) -> Path:
        return self.folder / f"root{at}"

    @property
    def paths(self) -> list[Path]:
        return [self.path(at) for at in range(len(self.told.uuids))]

    @property
    def majority(self) -> int:
        return majority_of(self.told.last.roots)

    def here(self) -> list[int]:
        return [at for at in range(len(self.told.uuids)) if at not in self.told.away]

    def seats(self, among: Collection[int]) -> list[int]:
        """The given roots that belong to the newest reported generation."""
        return [at for at in among if self.told.uuids[at] in self.told.last.roots]

    def trusted(self) -> list[int]:
        """Its present roots that still have everything they ever had."""
        return [at for at in self.seats(self.here()) if at not in self.told.stale]

    def may_write(self) -> bool:
        everybody = len(self.here()) == len(self.told.uuids)
        return len(self.trusted()) >= self.majority and (everybody or not self.told.forgetful)

    # ---- writers

    @contextmanager
    def session(
        self, given: Sequence[int] | None, *, proposes: bool = True, forced: bool = False
    ) -> Iterator[tuple[Session, Members]]:
        members = Members([self.path(at) for at in (self.here() if given is None else given)])
        pinned = members.pin(None, None)
        pinned.hold.close()
        with sessions.begin(members, pinned, wait_s=0, proposes=proposes, forced=forced) as session:
            yield session, members

    def commit(
        self,
        payload: str,
        *,
        dying_after: int | None = None,
        replicas: int = 1,
        reuses: bool = False,
        given: Sequence[int] | None = None,
        saved_at_s: int = 0,
    ) -> int | None:
        """The reported generation; None if the writer dies. `given`: the roots to open it by."""
        try:
            with self.steps.dying_after(dying_after), self.session(given) as (session, members):
                encoded = self._written(session, members, payload, replicas, reuses)
                generation = self._commit(session, encoded, saved_at_s)
                self.told.thin -= {self.told.uuids.index(root.uuid) for root in session.roots}
                return generation
        except Crash:
            return None

    def _commit(self, session: Session, encoded: EncodedManifest, saved_at_s: int = 0) -> int:
        record = session.commit(encoded, saved_at_s)
        self._report(session, record, encoded.manifest)
        return record.generation

    def _report(self, session: Session, record: Record, manifest: Manifest) -> None:
        told = self.told
        assert record.generation > max(told.reported, default=-1), "reported once more"
        told.reported[record.generation] = Reported.of(record, manifest)
        reached = {told.uuids.index(root.uuid) for root in session.roots}
        told.stale -= reached
        told.forgetful -= reached
        told.in_doubt = False

    def _encoded(
        self, roots: tuple[RootEntry, ...], shards: tuple[ShardEntry, ...], payload: str
    ) -> EncodedManifest:
        return encode(Manifest(self.store, roots, shards, {}, {"payload": payload}, _SETTINGS))

    def _written(
        self, session: Session, members: Members, payload: str, replicas: int, reuses: bool
    ) -> EncodedManifest:
        """Put shards on roots, except those that fail, as `Store.save` does."""
        while True:
            encoded = self._planned(session, members, payload, replicas, reuses)
            root = None
            try:
                for root, file, nbytes in _lacking(encoded.manifest, session.by_uuid):
                    root.storage.replace(SHARDS, file, bytes(nbytes), FILE_MODE)
            except (FastioError, OSError) as error:
                assert root is not None
                session.abandon(root, error)
            else:
                return encoded

    def _planned(
        self, session: Session, members: Members, payload: str, replicas: int, reuses: bool
    ) -> EncodedManifest:
        """Two shards, each on some roots, the first one perhaps that of the generation before."""
        assert session.head is not None
        head = session.head.manifest
        entries = tuple(members.placed(entry) for entry in head.roots)
        there = [at for at, entry in enumerate(entries) if entry.uuid in session.by_uuid]
        shards = []
        for number in range(2):
            file = f"{number}.{uuid.uuid5(uuid.NAMESPACE_OID, payload).hex[:16]}.safetensors"
            first = (len(payload) + number + session.generation) % len(there)
            places = tuple((there + there)[first : first + min(replicas, len(there))])
            shards.append(
                ShardEntry(file, 8 + len(payload), 8, _HEADER_DIGEST, places, msgspec.Raw(b"{}"))
            )
        if reuses and head.shards:
            shards[0] = head.shards[0]
        return self._encoded(entries, tuple(shards), payload)

    def collect(self, keep: int, *, dying_after: int | None = None) -> collect.Collected | None:
        """Remove old generations. Generations that may be gone are no longer checked.

        A whole generation counts as reported from now on: it may have replaced the last reported
        one among the kept generations.
        """
        reported = self.told.reported
        reported.update(
            {number: one for number, one in self.whole().items() if number > max(reported)}
        )
        found: collect.Collected | None = None
        try:
            with (
                self.steps.dying_after(dying_after),
                self.session(None, proposes=False) as (session, _),
            ):
                found = collect.collect(session, keep)
        except Crash:
            pass
        last = max(reported)
        for generation in sorted(reported)[:-1] if found is None else found.generations:
            assert generation != last, "the newest generation was collected"
            reported.pop(generation, None)
        return found

    def replace(
        self, old: int, *, dying_after: int | None = None, forced: bool = False
    ) -> int | None:
        """The report of replacing a root by a new one; None if the call dies."""
        told = self.told
        new = len(told.uuids)
        session = None
        try:
            with (
                self.steps.dying_after(dying_after),
                self.session(None, forced=forced) as (session, members),
            ):
                uuid_, path = told.uuids[old], self.path(new)
                replacing.replace_root(session, members, uuid_, path, 0, lambda: False)
                self._learn(new)
                assert session.head is not None
                assert session.proposed is not None
                self._report(session, session.proposed, session.head.manifest)
                return session.generation
        except (Crash, FastioError) as error:
            told.in_doubt |= session is not None and session.proposed is not None
            self._learn(new)
            if isinstance(error, FastioError):
                raise
            return None

    def _learn(self, at: int) -> None:
        """Count a new root, or discard an unfinished one."""
        file = self.path(at) / IDENTITY
        if file.exists():
            self.told.uuids.append(RootIdentity.decode(file.read_bytes(), str(file)).root)
        else:
            shutil.rmtree(self.path(at), ignore_errors=True)

    # ---- events of roots

    def lose(self, at: int) -> None:
        self.path(at).rename(self.folder / f"away{at}")
        self.told.away.add(at)

    def bring_back(self, at: int) -> None:
        (self.folder / f"away{at}").rename(self.path(at))
        self.told.away.discard(at)

    def back_up(self, at: int) -> None:
        copy = self.folder / f"backup{at}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.path(at), copy)
        self.told.backed_up[at] = max(self.told.reported)

    def replay(self, at: int) -> None:
        """A root's disk is replaced, and it is restored from its backup."""
        shutil.rmtree(self.path(at))
        shutil.copytree(self.folder / f"backup{at}", self.path(at))
        kind = self.told.forgetful if self.has_fresh_backup(at) else self.told.stale
        kind.add(at)
        self.told.thin.add(at)

    def has_fresh_backup(self, at: int) -> bool:
        """Whether no commit was reported since the backup of a root."""
        return self.told.backed_up.get(at) == max(self.told.reported)

    def nothing_newer_is_away(self) -> bool:
        """Whether the present roots have every record of those that are away."""
        here = {
            (path.name, path.read_bytes())
            for at in self.here()
            for path in (self.path(at) / COMMITS).iterdir()
        }
        last = max(self.told.reported)
        return all(
            (path.name, path.read_bytes()) in here or int(path.name, 16) < last
            for at in self.told.away
            for path in (self.folder / f"away{at}" / COMMITS).iterdir()
            if re.fullmatch("[0-9a-f]{16}", path.name)
        )

    def copied(self) -> World:
        """All roots copied to another folder, side by side as before."""
        world = World.__new__(World)
        vars(world).update(vars(self))
        world.folder = self.folder.parent / "copy"
        shutil.rmtree(world.folder, ignore_errors=True)
        shutil.copytree(self.folder, world.folder)
        world.told = self.told.copied()
        return world

    def bytes_there(self) -> dict[str, bytes]:
        """All files but the locks, in which each writer puts his name."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and path.name != "lock"
        }

    # ---- readers

    def newest(self, at: Sequence[int]) -> tuple[int, str]:
        members = Members.of([Root.open(self.path(one)) for one in at])
        try:
            return _newest(members)
        finally:
            members.close()

    def seen(self, at: Sequence[int]) -> tuple[int, str]:
        """The newest generation, and its payload."""
        members = Members.of([Root.open(self.path(one)) for one in at])
        pinned = members.pin(None, None)
        pinned.hold.close()
        return pinned.generation, pinned.encoded.manifest.metadata["payload"]

    @contextmanager
    def _opened(self) -> Iterator[dict[int, Root]]:
        roots = {at: Root.open(self.path(at)) for at in self.here()}
        try:
            yield roots
        finally:
            for root in roots.values():
                root.close()

    def check(self) -> None:
        """Check the view of the store from all choices of roots; with many roots, from selected
        counts.
        """
        trusted = set(self.trusted())
        with self._opened() as roots:
            sizes = range(1, len(roots) + 1)
            if len(roots) > 3:
                sizes = sorted({1, self.majority, len(roots)})  # type: ignore[assignment]
            for count in sizes:
                for chosen in itertools.combinations(roots, count):
                    is_majority = len(trusted.intersection(chosen)) >= self.majority
                    self._check_view([roots[at] for at in chosen], is_majority)
            self._check_reported({at: roots[at] for at in trusted})
            self._check_shards({self.told.uuids[at]: roots[at] for at in trusted})

    def _check_view(self, roots: Sequence[Root], is_majority: bool) -> None:
        try:
            seen = _newest(Members.of(roots))
        except ReplicaError:
            assert not is_majority, "a majority has nothing to read"
            return
        assert seen == _newest(Members.of(list(reversed(roots))))
        assert seen[1] in self.steps.proposed, "something that nobody has written"
        if is_majority:
            assert seen[0] >= max(self.told.reported), "a reported commit was lost"

    def _check_reported(self, trusted: dict[int, Root]) -> None:
        uuids = {self.told.uuids[at] for at in trusted}
        stand = {
            one.record.generation: one.record.manifest
            for one in standings({root.uuid: root.records() for root in trusted.values()})
        }
        for generation, reported in self.told.reported.items():
            if len(uuids.intersection(reported.roots)) >= majority_of(reported.roots):
                found = stand.get(generation)
                assert found == reported.digest, "a reported commit was replaced, or is gone"

    def _check_shards(self, trusted: dict[str, Root]) -> None:
        """Every shard of the newest reported generation is still on each root that it was written
        to.
        """
        thin = {self.told.uuids[at] for at in self.told.thin}
        for file, nbytes, uuids in self.told.last.shards:
            for one in (trusted.keys() & set(uuids)) - thin:
                assert trusted[one].storage.sizes(SHARDS).get(file) == nbytes, f"{file} is gone"

    def standings(self) -> list[Standing]:
        with self._opened() as roots:
            return standings({root.uuid: root.records() for root in roots.values()})

    def whole(self) -> dict[int, Reported]:
        """Generations that are on a majority and whole on the present roots."""
        found = {}
        with self._opened() as roots:
            there = {
                (root.uuid, *shard)
                for root in roots.values()
                for shard in root.storage.sizes(SHARDS).items()
            }
            for one in standings({root.uuid: root.records() for root in roots.values()}):
                for root in roots.values() if one.decided else ():
                    try:
                        manifest = root.manifest(one.record.manifest).manifest
                    except (FastioError, FileNotFoundError):
                        continue
                    as_told = Reported.of(one.record, manifest)
                    if all(
                        any((uuid_, file, nbytes) in there for uuid_ in uuids)
                        for file, nbytes, uuids in as_told.shards
                    ):
                        found[one.record.generation] = as_told
        return found

    def close(self) -> None:
        shutil.rmtree(self.folder.parent, ignore_errors=True)


def _lacking(manifest: Manifest, roots: Mapping[str, Root]) -> Iterator[tuple[Root, str, int]]:
    """Assigned shards that roots lack."""
    for shard in manifest.shards:
        for at in shard.roots:
            root = roots.get(manifest.roots[at].uuid)
            if root is not None and not _has(root, shard):
                yield root, shard.file, shard.nbytes


def _has(root: Root, shard: ShardEntry) -> bool:
    try:
        return root.storage.sizes(SHARDS).get(shard.file) == shard.nbytes
    except FastioError:
        return False  # a put of the shard finds out


def _newest(members: Members) -> tuple[int, str]:
    pinned = members.pin(None, None)
    pinned.hold.close()
    return pinned.generation, pinned.encoded.digest
