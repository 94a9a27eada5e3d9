"""The test whether a generation is whole, for readers, writers and collection."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from fastio.errors import FastioError, ReplicaError
from fastio.store.documents import Record
from fastio.store.history import Standing
from fastio.store.layout import SHARDS
from fastio.store.manifest import EncodedManifest, Manifest, ShardEntry
from fastio.store.root import Root

Roots = Mapping[str, Root]
"""By UUID: those that can be reached."""


def newest(
    found: Sequence[Standing], manifest_of: Callable[[Record], EncodedManifest], roots: Roots
) -> tuple[Standing, EncodedManifest] | None:
    """Return the newest generation that there is; None if there is none.

    One that nobody was told of counts only where it is whole.

    Parameters
    ----------
    found : sequence of Standing
        The newest one first.
    manifest_of : callable
        Raises `ReplicaError` where no root has the manifest.
    roots : mapping of str to Root

    Raises
    ------
    ReplicaError
        If the manifest of one that may have been reported cannot be read.
    FormatError
    """
    for standing in found:
        encoded = existing(standing, manifest_of, roots)
        if encoded is not None:
            return standing, encoded
    return None


def existing(
    standing: Standing, manifest_of: Callable[[Record], EncodedManifest], roots: Roots
) -> EncodedManifest | None:
    """Return the manifest of a generation; None where nobody was told of it, and it is not whole.

    Raises
    ------
    ReplicaError, FormatError
        As `newest` does.
    """
    try:
        encoded = manifest_of(standing.record)
    except ReplicaError:
        if not standing.never_reported:
            raise
        return None
    return encoded if not standing.never_reported or is_whole(encoded.manifest, roots) else None


def is_whole(manifest: Manifest, roots: Roots) -> bool:
    """Return whether each shard is there on some root: of the right size, and with its header."""
    holders = [roots.get(entry.uuid) for entry in manifest.roots]
    sizes = [_sizes(root) for root in holders]

    def is_there(shard: ShardEntry) -> bool:
        return any(
            sizes[at].get(shard.file) == shard.nbytes and _has_header(holders[at], shard)
            for at in shard.roots
        )

    return all(is_there(shard) for shard in manifest.shards)


def _has_header(root: Root | None, shard: ShardEntry) -> bool:
    if root is None:
        return False
    try:
        header = root.storage.read_range(SHARDS, shard.file, 0, shard.start)
    except (FastioError, OSError):
        return False
    return hashlib.sha256(header).hexdigest() == shard.digest


def _sizes(root: Root | None) -> Mapping[str, int]:
    if root is None:
        return {}
    try:
        return root.storage.sizes(SHARDS)
    except (FastioError, OSError):
        return {}
