"""A root that takes the place of another one, which is lost or shall go."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import PurePath

from fastio.errors import FastioError, ReplicaError, UsageError
from fastio.reading.fetch import native_files
from fastio.storage.known import address_of
from fastio.store import begun, locks, reading, repair
from fastio.store.commit import Session
from fastio.store.creation import replaced
from fastio.store.documents import RootIdentity
from fastio.store.layout import SHARDS
from fastio.store.manifest import Manifest, RootEntry, encode
from fastio.store.members import Members
from fastio.store.root import Root


def replace_root(
    session: Session,
    members: Members,
    old: str,
    new: PurePath,
    saved_at_s: int,
    is_cancelled: Callable[[], bool],
) -> int:
    """Commit the newest generation with another root in place of one.

    Its shards are copied there first, each chunk verified. The other roots get the record before
    the new root, so a reader of the new root also finds it on a majority of the old set. If no
    majority of the old set can be written to, the new root comes first: a commit that is cut off
    is then seen nowhere.

    Parameters
    ----------
    session : Session
    members : Members
    old : str
        UUID, or the path where it is or was.
    new : pathlib.PurePath
        A folder that is empty, or not there.
    saved_at_s : int
    is_cancelled : callable
        Asked between shards.

    Returns
    -------
    int
        The number of the generation. Where this call was cut off before, it goes on with that.

    Raises
    ------
    UsageError
        If there is no such root.
    WriteError
        If a root cannot be made of the folder; or a shard has no sound replica left.
    ReplicaError, ConflictError
        As a commit does.
    """
    assert session.head is not None
    manifest = session.head.manifest
    if _is_done(session, old, new):
        return session.generation
    leaving = _entry(manifest, members, old)
    identity = RootIdentity(session.store, uuid.uuid4().hex, leaving.weight)
    mode = manifest.settings.file_mode
    decided = session.proposed
    is_begun = _is_begun(session, new, members.timeout_s)
    root = Root.prepare(new, identity, mode, members.timeout_s, free=is_begun)
    lock = None
    try:
        lock = locks.lock(root, mode)
        if lock is None:
            raise ReplicaError(new, "the new root is locked by another process", {})
        if is_begun and _is_begun(session, root.path, members.timeout_s):
            begun.clear([root])
            root.claim(mode, free=True)
        else:
            root.claim(mode)
        _copy(manifest, members, leaving.uuid, root, is_cancelled)
        entries = {entry.uuid: members.placed(entry) for entry in manifest.roots}
        entries[leaving.uuid] = RootEntry(identity.root, identity.weight, str(root.path))
        encoded = encode(replaced(manifest, entries))
        session.join(root, lock)
        among = [entry.uuid for entry in entries.values()]
        record = session.commit(encoded, saved_at_s, among=among)
        members.replace(leaving.uuid, root)
        return record.generation
    except BaseException:
        if session.proposed is decided:  # no root has a record of it
            root.withdraw()
        if lock is not None and root not in session.roots:
            lock.close()
        raise


def _is_begun(session: Session, new: PurePath, timeout_s: float) -> bool:
    """Whether a replacement that was cut off has begun to make a root of a folder."""
    known = {uuid for one in session.standings() for uuid in one.record.roots}
    return begun.is_begun_in(new, session.store, known, timeout_s)


def _is_done(session: Session, old: str, new: PurePath) -> bool:
    """Whether the newest generation is the one that was to be committed: who did it was cut off
    before he could tell.
    """
    assert session.head is not None
    roots = {entry.uuid: entry.path for entry in session.head.manifest.roots}
    if str(address_of(str(new))) not in [roots.get(root.uuid) for root in session.roots]:
        return False
    for one in session.standings():
        if one.record.generation == session.generation - 1:
            with contextlib.suppress(FastioError, FileNotFoundError):
                before = session.manifest(one.record).manifest.roots
                left = [entry for entry in before if entry.uuid not in roots]
                named, path = _uuid_of(old), str(address_of(old))
                return any(entry.uuid == named or entry.path == path for entry in left)
    return False


def _uuid_of(old: str) -> str:
    """A root's UUID, in the spelling of manifests; empty for a path."""
    with contextlib.suppress(ValueError):
        return uuid.UUID(old).hex
    return ""


def _entry(manifest: Manifest, members: Members, old: str) -> RootEntry:
    path = str(address_of(old))
    named = _uuid_of(old)
    for entry in manifest.roots:
        root = members.roots.get(entry.uuid)
        ways = {entry.path, members.placed(entry).path, str(root.path) if root else entry.path}
        if named == entry.uuid or path in ways:
            return entry
    there = ", ".join(entry.path for entry in manifest.roots)
    raise UsageError(f"{old} is no root of this store: it has {there}")


def _copy(
    manifest: Manifest,
    members: Members,
    leaving: str,
    root: Root,
    is_cancelled: Callable[[], bool],
) -> None:
    """Have all shards of the newest generation that one root has on another one."""
    place = next(at for at, entry in enumerate(manifest.roots) if entry.uuid == leaving)
    wanted = {entry.file: entry for entry in manifest.shards if place in entry.roots}
    pinned = members.pin(None, None)
    watch = reading.watch(members, pinned, "continue")
    located = reading.locate(members, pinned, watch)
    try:
        for shard in located.shards:
            entry = wanted.pop(os.path.basename(shard.path), None)
            if entry is None:  # of other roots, or copied already
                continue
            if is_cancelled():
                raise ReplicaError(members.name, "the replacement was cancelled", {})
            repair.rewrite(
                root,
                entry,
                native_files(shard.files),
                list(members.roots.values()),
                hung_paths=watch.hung_paths,
                timeout_s=watch.timeout_s,
            )
        root.storage.sync(SHARDS)
    finally:
        pinned.hold.close()
