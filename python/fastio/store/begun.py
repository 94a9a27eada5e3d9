"""Folders that somebody began to make roots of, and did not end: whoever comes next goes on there.

Nobody was told of such a root, and no generation that anybody was told of needs what is in it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Sequence
from pathlib import PurePath

from fastio.errors import FastioError, WriteError
from fastio.host.leftovers import is_temporary
from fastio.storage import answering
from fastio.storage.by_address import kind_of
from fastio.storage.kind import Skeleton
from fastio.store.documents import Record
from fastio.store.history import standings
from fastio.store.layout import COMMITS, EVERYWHERE, MANIFESTS, SHARDS, SKELETON
from fastio.store.root import Root

_A_STORE = (
    "there is something in it, a root of a store, which fastio.Store.open opens; "
    "a new root is made of an empty folder"
)


def check_creation(paths: Sequence[PurePath], timeout_s: float) -> None:
    """Refuse folders that no new store can be made of.

    A creation that was cut off leaves at most the empty generation, on less than a majority.

    Parameters
    ----------
    paths : sequence of pathlib.PurePath
        All roots of the new store.
    timeout_s : float

    Raises
    ------
    WriteError
    ReadError
        If one of them does not answer.
    """
    records: dict[str, dict[int, Record]] = {}
    left = []
    for path in paths:
        try:
            _ask(path, timeout_s, kind_of(path).require_free)
        except WriteError:
            root = _opened(path, timeout_s)
            if root is None:
                raise
            try:
                records[root.uuid] = root.records()
                is_empty = not root.damaged and _has_no_tensors(root)
            except (FastioError, OSError):
                is_empty = False
            finally:
                root.close()
            if not is_empty:
                raise WriteError(errno.ENOTEMPTY, "mkdir", path, detail=_A_STORE) from None
            left.append(path)
    for one in standings(records):
        if one.record.generation or not one.never_reported:
            raise WriteError(errno.ENOTEMPTY, "mkdir", left[0], detail=_A_STORE)


def is_begun_in(path: PurePath, store: str, known: Collection[str], timeout_s: float) -> bool:
    """Return whether a root of a store was begun in a folder that has not become one.

    It has the record of the generation at most that was to make it one.

    Parameters
    ----------
    path : pathlib.PurePath
    store : str
        UUID.
    known : collection of str
        UUIDs of the roots of all generations that are known.
    timeout_s : float

    Raises
    ------
    Nothing.
    """
    root = _opened(path, timeout_s)
    if root is None:
        return False
    try:
        records = root.records()
        return (
            root.identity.store == store
            and root.uuid not in known
            and not root.damaged
            and len(records) <= 1
            and all(root.uuid in record.roots for record in records.values())
        )
    except (FastioError, OSError):
        return False
    finally:
        root.close()


def clear(roots: Sequence[Root]) -> None:
    """Remove what was begun, with the locks of these roots held. Shards stay.

    The records of all roots go first, so that it can still be told that nobody was told of them.

    Raises
    ------
    WriteError, ReadError
    """
    for sub in (COMMITS, MANIFESTS):
        for root in roots:
            for name in root.storage.names(sub):
                root.storage.remove(sub, name)
            root.storage.sync(sub)
    for root in roots:
        root.storage.upkeep.remove_leftovers(EVERYWHERE)
        root.damaged.clear()
        root.problems.clear()


def _opened(path: PurePath, timeout_s: float) -> Root | None:
    """A root that has nothing beside what roots have; None where there is none."""
    try:
        _ask(path, timeout_s, kind_of(path).require_own)
        return Root.open(path, timeout_s)
    except (FastioError, OSError):
        return None


def _ask(path: PurePath, timeout_s: float, check: Callable[[PurePath, Skeleton], None]) -> None:
    asks = answering.of(path, timeout_s)
    try:
        asks.ask(lambda: check(path, SKELETON))
    finally:
        asks.close()


def _has_no_tensors(root: Root) -> bool:
    shards = root.storage.names(SHARDS)
    manifests = [name for name in root.storage.names(MANIFESTS) if not is_temporary(name)]
    return all(map(is_temporary, shards)) and not any(
        root.manifest(name.removesuffix(".json")).manifest.shards for name in manifests
    )
