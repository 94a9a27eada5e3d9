"""Files of a root, written anew from the other roots: one function for each kind of file.

`verify` calls them in the order in which they need each other. `repair` writes shards anew.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from fastio.errors import ConflictError, FastioError, ReadError, ReplicaError, WriteError
from fastio.store import IDENTITY, answering, locks, repair
from fastio.store.commit import Session
from fastio.store.documents import DOCUMENT_BYTES_MAX, Promise, RootIdentity
from fastio.store.files import (
    FOLDER,
    folder_mode,
    make_folder,
    misplaced,
    opened,
    read,
    write_called,
)
from fastio.store.history import established, next_ballot, standings
from fastio.store.layout import COMMITS, LOCK, MANIFESTS, PROMISE, SHARDS, record_name
from fastio.store.manifest import RootEntry, ShardEntry
from fastio.store.members import Members
from fastio.store.root import Root
from fastio.store.small import lock_problem


def mend_file(root: Root, sub: str, name: str, data: bytes, mode: int) -> None:
    """Write a small file that is missing or damaged anew.

    A regular file stays the same inode: whoever reads its generation holds a lock on it.

    Raises
    ------
    WriteError, ReadError
    """
    if not root.answering.ask(lambda: _is_overwritten(root, sub, name, data)):
        root.put(sub, name, data, mode=mode, replace=True)


def _is_overwritten(root: Root, sub: str, name: str, data: bytes) -> bool:
    """Whether there is a regular file, which has the data now."""
    path = root.path / sub / name
    with root.sub(sub) as folder:
        fd = _opened_if_regular(folder, name, path)
        if fd < 0:
            _remove_empty_folder(folder, name, path)
            return False
    try:
        write_called(path, "write", lambda: _overwrite(fd, data))
    finally:
        os.close(fd)
    return True


def _opened_if_regular(folder: int, name: str, path: Path) -> int:
    """A descriptor to write to a regular file; -1 where there is none."""
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return -1
        return opened(folder, name, os.O_RDWR)
    except FileNotFoundError:
        return -1
    except OSError as error:
        raise WriteError(error.errno or errno.EIO, "open", path) from error


def put_file(root: Root, name: str, data: bytes, mode: int) -> None:
    """Put a small file into the place of whatever is there, as a whole or not at all.

    Raises
    ------
    WriteError, ReadError
    """
    remove_empty(root, "", name)
    root.put("", name, data, mode=mode, replace=True)


def _overwrite(fd: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], done)
    os.ftruncate(fd, len(data))
    os.fsync(fd)


def remove_empty(root: Root, sub: str, name: str) -> None:
    """Remove an empty folder that has the name of a file: no rename replaces it.

    Raises
    ------
    WriteError
        If there is something in it.
    ReadError
    """

    def remove() -> None:
        with root.sub(sub) as folder:
            _remove_empty_folder(folder, name, root.path / sub / name)

    root.answering.ask(remove)


def _remove_empty_folder(folder: int, name: str, path: Path) -> None:
    try:
        os.rmdir(name, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        detail = misplaced(folder, name)
        raise WriteError(error.errno or errno.EIO, "rmdir", path, detail=detail) from error


def mend_folder(root: Root, sub: str, mode: int) -> None:
    """Make a folder of a root that is missing.

    Raises
    ------
    WriteError
        If something else is in its place.
    """
    path = root.path / sub

    def make() -> None:
        if os.path.lexists(path):
            with root.sub("") as folder:
                detail = misplaced(folder, sub, is_folder=True)
            if detail:
                raise WriteError(errno.ENOTDIR, "mkdir", path, detail=detail)
        make_folder(path, folder_mode(mode))

    root.answering.ask(make)
    root.sync("")


def mend_lock(root: Root) -> None:
    """Replace what stands where the lock file should be, unless somebody else just did.

    Raises
    ------
    WriteError
    """
    root.answering.ask(lambda: _mend_lock(root, root.path / LOCK))


def _mend_lock(root: Root, path: Path) -> None:
    with root.sub("") as folder:
        fd = write_called(path, "open", lambda: os.open(".", FOLDER, dir_fd=folder))
    try:
        # One at a time: else the second would remove the lock file that the first has made.
        write_called(path, "flock", lambda: fcntl.flock(fd, fcntl.LOCK_EX))
        if lock_problem(root):
            _remove_lock(fd, path)
    finally:
        os.close(fd)
    problem = lock_problem(root)
    if problem:
        raise WriteError(errno.EINVAL, "open", path, detail=problem)


def _remove_lock(folder: int, path: Path) -> None:
    """Remove the lock, unless it is a regular file: somebody may hold that one."""
    _remove_empty_folder(folder, LOCK, path)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(LOCK, dir_fd=folder, follow_symlinks=False).st_mode):
            write_called(path, "unlink", lambda: os.unlink(LOCK, dir_fd=folder))


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
        mend_file(root, "", PROMISE, data, mode)


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
    mend_file(root, MANIFESTS, name, data, mode)


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
                mend_file(root, COMMITS, record_name(record.generation), record.encode(), mode)
            elif not mine.proposes_the_same(record):
                root.put_record(record, mode=mode)
    for root in session.roots:
        for generation in sorted(records[root.uuid].keys() & set(gone)):
            root.remove(COMMITS, record_name(generation))


def mend_shard(root: Root, entry: ShardEntry, members: Members) -> None:
    """Write a replica of a shard anew, from whatever replicas have its chunks.

    Raises
    ------
    WriteError, ReadError, OSError
        Also if a chunk is left in no replica.
    """
    path = str(root.path / SHARDS / entry.file)
    files = []
    reasons = {}
    for other in list(members.roots.values()):
        shown = str(other.path / SHARDS / entry.file)
        try:
            file = other.open_shard(entry.file)
            if file.nbytes == entry.nbytes:
                files.append(file)
            else:
                reasons[shown] = f"has {file.nbytes} bytes"
        except (FastioError, OSError) as error:
            reasons[shown] = str(error)
    if not files:
        raise ReplicaError(members.name, "no replica of this shard is left", reasons)
    remove_empty(root, SHARDS, entry.file)
    repair.rewrite(path, entry, files)


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
            with contextlib.closing(_root_at(Path(path), members, entries)) as root:
                if not _has_identity(root):
                    put_file(root, IDENTITY, root.identity.encode(), mode)
                for sub in (SHARDS, MANIFESTS, COMMITS):
                    mend_folder(root, sub, mode)
                root.records()
            became[path] = ""
        except (FastioError, OSError) as error:
            became[path] = str(error).removeprefix(f"{path}: ")
    if not all(became.values()):
        members.look_again()
    return became


def _root_at(path: Path, members: Members, entries: Mapping[str, RootEntry]) -> Root:
    """A root of this store that is none of those that are open, whatever it lost."""
    folder = os.open(path, FOLDER)
    try:
        store, uuid = _known_as(folder, path)
        entry = entries.get(uuid)
        if store != members.store or entry is None:
            raise ReadError(errno.ENODATA, "open", path, detail="it is of another store")
        if uuid in members.roots:
            other = members.roots[uuid].path
            raise ReadError(errno.EEXIST, "open", path, detail=f"it is a copy of the root {other}")
        lineage = next((root.identity.copied_from for root in members.roots.values()), ())
        identity = RootIdentity(store, uuid, entry.weight, lineage)
        return Root(path, folder, identity, answering.of(path, members.timeout_s))
    except BaseException:
        os.close(folder)
        raise


def _known_as(folder: int, path: Path) -> tuple[str, str]:
    """The store and the root that a folder is, by its identity or else by its promise."""
    with contextlib.suppress(FastioError, FileNotFoundError):
        data = read(folder, IDENTITY, path / IDENTITY, DOCUMENT_BYTES_MAX)
        identity = RootIdentity.decode(data, str(path / IDENTITY))
        return identity.store, identity.root
    data = read(folder, PROMISE, path / PROMISE, DOCUMENT_BYTES_MAX)
    promise = Promise.decode(data, str(path / PROMISE))
    return promise.store, promise.root


def _has_identity(root: Root) -> bool:
    path = root.path / IDENTITY
    with contextlib.suppress(FastioError, FileNotFoundError):
        RootIdentity.decode(root.read("", IDENTITY, DOCUMENT_BYTES_MAX), str(path))
        return True
    return False
