"""The names of files and folders in a root."""

from __future__ import annotations

from fastio.storage.kind import Skeleton
from fastio.store import IDENTITY

SHARDS, MANIFESTS, COMMITS = "shards", "manifests", "commits"
FOLDERS = (SHARDS, MANIFESTS, COMMITS)
EVERYWHERE = ("", *FOLDERS)
PROMISE = "promise"
LOCK = "lock"
VERIFIED = "verified"
SKELETON = Skeleton(FOLDERS, frozenset({IDENTITY, PROMISE, VERIFIED, LOCK}), IDENTITY)


def record_name(generation: int) -> str:
    """Return the name of a commit record."""
    return f"{generation:016x}"


def manifest_name(digest: str) -> str:
    """Return the name of a manifest."""
    return f"{digest}.json"
