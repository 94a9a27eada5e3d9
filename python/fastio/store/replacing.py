"""A root that takes the place of another one, which is lost or shall be given up."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from fastio.anchored import anchored
from fastio.errors import ReplicaError, UsageError
from fastio.replica import Copies
from fastio.store import locks, reading, repair
from fastio.store.commit import Session
from fastio.store.creation import replaced
from fastio.store.documents import RootIdentity
from fastio.store.manifest import Manifest, RootEntry, encode
from fastio.store.members import Members
from fastio.store.root import SHARDS, Root


def replace_root(
    session: Session,
    members: Members,
    old: str,
    new: Path,
    saved_at_s: int,
    is_cancelled: Callable[[], bool],
) -> int:
    """Commit the newest generation with another root in place of one.

    Its shards are copied there first, each chunk verified. The others learn of it before it has a
    record itself, so that whoever sees it there finds it on a majority of the roots before, too.
    Where these are no majority it is the other way around: a commit that is cut off is then seen
    nowhere.

    Parameters
    ----------
    session : Session
    members : Members
    old : str
        UUID, or the path where it is or was.
    new : pathlib.Path
        A folder that is empty, or not there.
    saved_at_s : int
    is_cancelled : callable
        Asked between shards.

    Returns
    -------
    int
        The number of the generation.

    Raises
    ------
    UsageError
        If there is no such root.
    WriteError
        If a root cannot be made of the folder; or a shard has no sound copy left.
    ReplicaError, ConflictError
        As a commit does.
    """
    assert session.head is not None
    manifest = session.head.manifest
    leaving = _entry(manifest, members, old)
    identity = RootIdentity(session.store, uuid.uuid4().hex, leaving.weight)
    mode = manifest.settings.file_mode
    root = Root.prepare(new, identity, mode, members.timeout_s)
    lock = None
    try:
        lock = locks.lock(root, mode)
        if lock is None:
            raise ReplicaError(new, "the new root is locked by another process", {})
        root.claim(mode)
        _copy(manifest, members, leaving.uuid, root, is_cancelled)
        entries = {entry.uuid: members.placed(entry) for entry in manifest.roots}
        entries[leaving.uuid] = RootEntry(identity.root, identity.weight, str(root.path))
        named = encode(replaced(manifest, entries))
        session.join(root, lock, first=session.is_forced)
        record = session.commit(named, saved_at_s, among=[entry.uuid for entry in entries.values()])
        members.replace(leaving.uuid, root)
        return record.generation
    except BaseException:
        if root not in session.roots and session.proposed is None:
            root.withdraw()
            if lock is not None:
                lock.close()
        raise


def _entry(manifest: Manifest, members: Members, old: str) -> RootEntry:
    path = anchored(old)
    named = ""
    with contextlib.suppress(ValueError):
        named = uuid.UUID(old).hex
    for entry in manifest.roots:
        if named == entry.uuid or path in (entry.path, members.placed(entry).path):
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
    wanted = {shard.file for shard in manifest.shards if place in shard.roots}
    taken = members.take(None, None)
    located = reading.locate(members, taken, reading.watch(members, "continue"))
    try:
        for shard in located.shards:
            file = os.path.basename(shard.path)
            if file in wanted:
                wanted.discard(file)
                if is_cancelled():
                    raise ReplicaError(members.name, "the replacement was given up", {})
                assert isinstance(shard.copies, Copies)
                repair.rewrite(shard.copies, str(root.path / SHARDS / file))
        root.sync(SHARDS)
    finally:
        taken.held.close()
