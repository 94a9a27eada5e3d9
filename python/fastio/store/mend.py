"""Files of a root, written anew from the other roots: one function for each kind of file.

`verify` calls them in the order in which they need each other. `repair` writes shards anew.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import PurePath

from fastio.errors import ConflictError, FastioError, ReadError, ReplicaError, WriteError
from fastio.storage import answering
from fastio.storage.by_address import kind_of
from fastio.storage.known import address_of
from fastio.storage.protocol import Storage
from fastio.store import IDENTITY, locks, repair
from fastio.store.commit import Session
from fastio.store.documents import DOCUMENT_BYTES_MAX, Promise, RootIdentity
from fastio.store.history import established, next_ballot, standings
from fastio.store.layout import COMMITS, FOLDERS, MANIFESTS, PROMISE, SHARDS, record_name
from fastio.store.manifest import RootEntry, ShardEntry
from fastio.store.members import Members
from fastio.store.root import Root, read_identity


def put_file(root: Root, name: str, data: bytes, mode: int) -> None:
    """Put a small file into the place of whatever is there, as a whole or not at all.

    Raises
    ------
    WriteError, ReadError
    """
    root.storage.upkeep.make_way("", name)
    root.storage.replace("", name, data, mode)


def mend_promise(root: Root, members: Members, among: Sequence[str], mode: int) -> None:
    """Write a promise anew, with all roots locked: then every ballot that counts is seen.

    Raises
    ------
    ReplicaError
        If a root cannot be reached.
    ConflictError
        If somebody writes to the store.
    WriteError, ReadError
    """
    roots = {uuid: root for uuid, root in members.roots.items() if uuid in among}
    if len(roots) < len(among):
        problem = "a promise is written anew only where all roots can be reached"
        raise ReplicaError(members.name, problem, members.missing)
    with _all_locked([roots[uuid] for uuid in sorted(among)], mode):
        promised = []
        for uuid in among:
            with contextlib.suppress(FastioError):
                promised.append(roots[uuid].promised())
        ballot = next_ballot({uuid: root.records() for uuid, root in roots.items()}, promised)
        data = Promise(root.identity.store, root.uuid, ballot).encode()
        root.storage.upkeep.mend_file("", PROMISE, data, mode)


@contextlib.contextmanager
def _all_locked(roots: Sequence[Root], mode: int) -> Iterator[None]:
    held = []
    try:
        for root in roots:
            lock = locks.lock(root, mode)
            if lock is None:
                raise ConflictError(root.path, "somebody else is writing to this store")
            held.append(lock)
        yield
    finally:
        for lock in held:
            lock.close()


def mend_manifest(root: Root, name: str, members: Members, mode: int) -> None:
    """Write a manifest anew from another root.

    Raises
    ------
    WriteError, ReadError
        Also if no root has it.
    """
    digest = name.removesuffix(".json")
    for other in list(members.roots.values()):
        if other is root:
            continue
        with contextlib.suppress(FastioError, OSError):
            data = other.manifest(digest).data
            break
    else:
        detail = "no other root has it sound"
        raise WriteError(errno.ENODATA, "read", root.path / MANIFESTS / name, detail=detail)
    root.storage.upkeep.mend_file(MANIFESTS, name, data, mode)


def mend_records(session: Session, mode: int, kept: Collection[int], gone: Collection[int]) -> None:
    """Bring the record of each generation to the roots that lack it, or have it damaged.

    The session has brought the newest one to all of them; so what was to be kept before has to be
    told by whoever looked before that.

    Parameters
    ----------
    session : Session
    mode : int
        Of new files.
    kept : collection of int
        The generations that were established then.
    gone : collection of int
        Those that were outlived then: their records are removed, as the others have done.

    Raises
    ------
    WriteError, ReadError
        What was mended until then stays so.
    """
    records = {root.uuid: root.records() for root in session.roots}
    for standing in reversed(established(standings(records), session.generation)):
        record = standing.record
        if record.generation not in kept and record.generation < max(kept, default=0):
            continue
        for root in session.roots:
            mine = records[root.uuid].get(record.generation)
            if root.uuid not in record.roots:
                continue
            if mine is None:
                name = record_name(record.generation)
                root.storage.upkeep.mend_file(COMMITS, name, record.encode(), mode)
            elif not mine.proposes_the_same(record):
                root.put_record(record, mode=mode)
    for root in session.roots:
        for generation in sorted(records[root.uuid].keys() & set(gone)):
            root.storage.remove(COMMITS, record_name(generation))


def mend_shard(root: Root, entry: ShardEntry, members: Members) -> None:
    """Write a replica of a shard anew, from whatever replicas have its chunks.

    Raises
    ------
    WriteError, ReadError, OSError
        Also if a chunk is left in no replica.
    """
    files = []
    reasons = {}
    for other in list(members.roots.values()):
        shown = str(other.path / SHARDS / entry.file)
        try:
            file = other.storage.open_file(SHARDS, entry.file)
            if file.nbytes == entry.nbytes:
                files.append(file)
            else:
                reasons[shown] = f"has {file.nbytes} bytes"
        except (FastioError, OSError) as error:
            reasons[shown] = str(error)
    if not files:
        raise ReplicaError(members.name, "no replica of this shard is left", reasons)
    root.storage.upkeep.make_way(SHARDS, entry.file)
    repair.rewrite(root, entry, files, list(members.roots.values()))


# ---- a root that cannot be opened


def mend_roots(members: Members, entries: Mapping[str, RootEntry], mode: int) -> dict[str, str]:
    """Have roots opened again that lost their identity, or a folder.

    A root without an identity is known by its promise, which names it, too.

    Parameters
    ----------
    members : Members
    entries : mapping of str to RootEntry
        By UUID, what the newest manifest says of each root.
    mode : int

    Returns
    -------
    dict of str to str
        By the path of each root that is missing, why it stays so; empty where it was mended.

    Raises
    ------
    Nothing.
    """
    became = {}
    for path in list(members.missing):
        if answering.is_silent(path):
            became[path] = members.missing[path].removeprefix(f"{path}: ")
            continue
        try:
            with contextlib.closing(_root_at(address_of(path), members, entries)) as root:
                if not _has_identity(root):
                    put_file(root, IDENTITY, root.identity.encode(), mode)
                for sub in FOLDERS:
                    root.storage.upkeep.mend_folder(sub, mode)
                root.records()
            became[path] = ""
        except (FastioError, OSError) as error:
            became[path] = str(error).removeprefix(f"{path}: ")
    if not all(became.values()):
        members.look_again()
    return became


def _root_at(path: PurePath, members: Members, entries: Mapping[str, RootEntry]) -> Root:
    """A root of this store that is none of those that are open, whatever it lost."""
    asks = answering.of(path, members.timeout_s)
    storage = kind_of(path).open_storage(path, asks)
    try:
        store, uuid = _known_as(storage)
        entry = entries.get(uuid)
        if store != members.store or entry is None:
            raise ReadError(errno.ENODATA, "open", path, detail="it is of another store")
        if uuid in members.roots:
            other = members.roots[uuid].path
            raise ReadError(errno.EEXIST, "open", path, detail=f"it is a copy of the root {other}")
        lineage = next((root.identity.copied_from for root in members.roots.values()), ())
        return Root(storage, RootIdentity(store, uuid, entry.weight, lineage))
    except BaseException:
        storage.close()
        raise


def _known_as(storage: Storage) -> tuple[str, str]:
    """The store and the root that a storage has, by its identity or else by its promise."""
    with contextlib.suppress(FastioError, FileNotFoundError):
        identity = read_identity(storage)
        return identity.store, identity.root
    data = storage.read("", PROMISE, DOCUMENT_BYTES_MAX)
    promise = Promise.decode(data, str(storage.path / PROMISE))
    return promise.store, promise.root


def _has_identity(root: Root) -> bool:
    with contextlib.suppress(FastioError, FileNotFoundError):
        root.read_identity()
        return True
    return False
