"""Locks in a root: that of the writer, and those of the readers of a generation.

A reader locks the manifest: unlike a record, a sound manifest is never written anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fastio.errors import FastioError
from fastio.storage.protocol import FILE_MODE, Lock
from fastio.store.layout import LOCK, MANIFESTS, manifest_name
from fastio.store.root import Root


def lock(root: Root, mode: int = FILE_MODE) -> Lock | None:
    """Take the writer's lock; None where somebody else has it.

    Raises
    ------
    WriteError, ReadError
    """
    return root.storage.locks.take(LOCK, mode)


def hold(root: Root, digest: str) -> Lock:
    """Keep what a manifest names from being collected while the lock is open.

    Raises
    ------
    FileNotFoundError
        If it was collected, or this root has it not.
    ReadError
    """
    return root.storage.locks.hold(MANIFESTS, manifest_name(digest))


@contextlib.contextmanager
def unread(root: Root, digest: str) -> Iterator[bool | None]:
    """Whether nobody holds a manifest on a root, and nobody can begin to in this context.

    None if the root does not answer, and False on a storage without locks: a reader may hold it.

    Raises
    ------
    Nothing.
    """
    try:
        held = root.storage.locks.exclude(MANIFESTS, manifest_name(digest))
    except FileNotFoundError:
        yield True
        return
    except FastioError:
        yield None
        return
    if held is None:
        yield False
        return
    try:
        yield True
    finally:
        held.close()
