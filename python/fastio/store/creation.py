"""A new store, made of empty folders; and a store of its own, made of a copy."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import PurePath

import msgspec

from fastio.errors import ConflictError, FormatError, ReplicaError, UsageError
from fastio.store import begun, lineage
from fastio.store.commit import Session
from fastio.store.documents import RootIdentity
from fastio.store.manifest import EncodedManifest, Manifest, RootEntry, Settings, encode, hints
from fastio.store.members import Members
from fastio.store.root import Root
from fastio.store.wholeness import is_whole


def create(
    paths: Sequence[PurePath],
    uuids: Sequence[str],
    weights: Sequence[float],
    settings: Settings,
    saved_at_s: int,
    timeout_s: float,
) -> Members:
    """Make roots of folders and commit the empty generation; of two who try, one does.

    Parameters
    ----------
    paths : sequence of pathlib.PurePath
    uuids : sequence of str
    weights : sequence of float
        Of each root.
    settings : Settings
    saved_at_s : int
    timeout_s : float
        How long a root may take to answer.

    Raises
    ------
    WriteError
        A root that is not empty, or cannot be written to. What was made is removed again.
    ConflictError
        If somebody else goes on writing to one of them.
    ReplicaError
        If one of them cannot be locked.
    ReadError
        If one of them does not answer.
    """
    store = uuid.uuid4().hex
    begun.check_creation(paths, timeout_s)
    made: list[Root] = []
    was_locked = False
    try:
        for path, root, weight in zip(paths, uuids, weights, strict=True):
            identity = RootIdentity(store, root, float(weight))
            made.append(Root.prepare(path, identity, settings.file_mode, timeout_s, free=True))
        with Session(store, made, {}, uuids, mode=settings.file_mode, proposes=False) as session:
            session.require_all()
            try:
                begun.check_creation([each.path for each in made], timeout_s)
                begun.clear(made)
                for each in made:
                    each.claim(settings.file_mode)
                session.propose()
                session.commit(_empty(store, made, settings), saved_at_s)
            except BaseException:
                was_locked = True
                for each in made:  # while nobody else can begin with them
                    each.withdraw()
                raise
    except BaseException:
        for each in made:
            if was_locked:
                each.withdraw()
            each.close()
        raise
    return Members.of(made)


def _empty(store: str, roots: Sequence[Root], settings: Settings) -> EncodedManifest:
    entries = sorted(
        (RootEntry(root.uuid, root.identity.weight, str(root.path)) for root in roots),
        key=lambda entry: entry.uuid,
    )
    return encode(
        Manifest(
            store=store, roots=tuple(entries), shards=(), cuts={}, metadata={}, settings=settings
        )
    )


def adopt(paths: Sequence[PurePath], saved_at_s: int, timeout_s: float, *, force: bool) -> Members:
    """Make a copy of a store a store of its own, with UUIDs and places of its own.

    Each root gets another identity, one after another; where that was cut off, it goes on. Of two
    who try, one does.

    Parameters
    ----------
    paths : sequence of pathlib.PurePath
        All roots of the copy.
    saved_at_s : int
    timeout_s : float
    force : bool
        Whether roots may be where their manifest says, as the original's are.

    Raises
    ------
    ReplicaError
        If a root is not given, cannot be written to, or the newest generation is not whole on them.
    FormatError
        If they are roots of different stores.
    UsageError
        If one of them is where its manifest says.
    ConflictError
        If somebody else adopts them at the same time.
    FileNotFoundError, WriteError, ReadError
    """
    roots = [Root.open(path, timeout_s) for path in paths]
    original, store = _lineage(roots)
    is_committed = not force and _is_committed(roots)
    old = [root for root in roots if root.identity.store == original]
    if is_committed:
        store = original
    elif old:
        _check_copy(old, roots, store, force=force)
        with Session(original, old, {}, [root.uuid for root in old], proposes=False) as session:
            session.require_all()
            session.require_unchanged()
            _check_copy(old, roots, store, force=force)  # as they are now that nobody writes
            for root in old:
                before = root.identity
                identity = RootIdentity(
                    store,
                    lineage.adopted(before.root, store),
                    before.weight,
                    (*before.copied_from, original),
                )
                root.identify(identity)
    members = Members(paths, timeout_s)
    if members.store != store:
        raise ConflictError(paths[0], "somebody else adopts this copy at the same time")
    with Session(
        store,
        list(members.roots.values()),
        members.missing,
        [entry.uuid for entry in members.newest().manifest.roots],
        wait_s=0 if is_committed else None,  # a lock that is held is the first writer's
        proposes=False,
    ) as session:
        session.require_all()
        session.require_unchanged()
        session.propose()
        session.require_all()
        assert session.head is not None
        if not is_committed:
            session.commit(_placed(session.head.manifest, session.by_uuid), saved_at_s)
    members.look_again()
    return members


def _lineage(roots: Sequence[Root]) -> tuple[str, str]:
    """The store that roots are a copy of, and the one that they shall be."""
    stores = {root.identity.store for root in roots}
    if len(stores) == 1:
        return stores.pop(), uuid.uuid4().hex
    begun = {root.identity.store for root in roots if root.identity.copied_from}
    for store in begun:
        originals = {
            root.identity.copied_from[-1] for root in roots if root.identity.store == store
        }
        if stores == {store, *originals} and len(originals) == 1:
            return originals.pop(), store
    raise FormatError(roots[0].path, "these are roots of different stores", expected="roots of one")


def _is_committed(roots: Sequence[Root]) -> bool:
    """Whether an adoption was cut off in its commit: the first generation that says where the copy
    is, is in doubt.
    """
    if len({root.identity.store for root in roots}) > 1:
        return False
    of_store = Members.of(roots)
    found = of_store.standings()
    if len(found) < 2 or found[0].decided:
        return False
    newest, before = (of_store.manifest(one.record) for one in found[:2])
    known = hints(newest.manifest)
    return (
        lineage.written_for(newest) == of_store.store != lineage.written_for(before)
        and known.keys() == of_store.roots.keys()
        and all(root.storage.is_at(known[root.uuid]) for root in roots)
    )


def _check_copy(old: Sequence[Root], roots: Sequence[Root], store: str, *, force: bool) -> None:
    """Refuse to make another store of the original, or of a part of a copy."""
    known = hints(Members.of(old).newest().manifest)
    given = {root.uuid for root in roots}
    missing = {
        path: "is not among the roots that were given"
        for uuid_, path in known.items()
        if not given & {uuid_, lineage.adopted(uuid_, store)}
    }
    if missing:
        raise ReplicaError(old[0].path, "all roots of a copy have to be given", missing)
    for root in old:
        if not force and root.uuid in known and root.storage.is_at(known[root.uuid]):
            adopted = ", or has been adopted already" if root.identity.copied_from else ""
            raise UsageError(
                f"{root.path} is where its manifest says, and no copy{adopted}: "
                "fastio.Store.open opens it, and force=True takes it for a copy"
            )
    newest = Members.of(old).pin(None, None)
    newest.hold.close()
    if len(old) == len(roots) and not is_whole(
        newest.encoded.manifest, {root.uuid: root for root in old}
    ):
        raise ReplicaError(
            old[0].path, f"generation {newest.generation} is not whole on these roots", {}
        )


def _placed(manifest: Manifest, roots: dict[str, Root]) -> EncodedManifest:
    """The same generation, with its roots where they are now."""
    entries = tuple(
        RootEntry(entry.uuid, entry.weight, str(roots[entry.uuid].path)) for entry in manifest.roots
    )
    return encode(replaced(manifest, {entry.uuid: entry for entry in entries}))


def moved(manifest: Manifest, head: Manifest, entries: Sequence[RootEntry]) -> Manifest:
    """Return a generation from before on the roots that the store has now.

    Parameters
    ----------
    manifest : Manifest
    head : Manifest
        Of the newest generation, whose settings name these roots.
    entries : sequence of RootEntry
        Ascending; a shard is on those of its roots that are among them, or on none.

    Raises
    ------
    Nothing.
    """
    at = {entry.uuid: place for place, entry in enumerate(entries)}
    places = [at.get(root.uuid) for root in manifest.roots]
    made: Manifest = msgspec.structs.replace(
        manifest,
        roots=tuple(entries),
        shards=tuple(
            msgspec.structs.replace(
                shard,
                roots=tuple(place for old in shard.roots if (place := places[old]) is not None),
            )
            for shard in manifest.shards
        ),
        settings=head.settings,
    )
    return made


def replaced(manifest: Manifest, entries: dict[str, RootEntry]) -> Manifest:
    """Return the same generation on other roots.

    Parameters
    ----------
    manifest : Manifest
    entries : dict of str to RootEntry
        By the UUID of each root that it is on: what takes its place.

    Raises
    ------
    Nothing.
    """
    order = sorted(manifest.roots, key=lambda root: entries[root.uuid].uuid)
    at = {root.uuid: place for place, root in enumerate(order)}
    moved = [at[root.uuid] for root in manifest.roots]
    settings = manifest.settings
    made: Manifest = msgspec.structs.replace(
        manifest,
        roots=tuple(entries[root.uuid] for root in order),
        shards=tuple(
            msgspec.structs.replace(shard, roots=tuple(moved[place] for place in shard.roots))
            for shard in manifest.shards
        ),
        settings=msgspec.structs.replace(
            settings,
            places=tuple(
                (pattern, tuple(entries[root].uuid if root in entries else root for root in roots))
                for pattern, roots in settings.places
            ),
        ),
    )
    return made
