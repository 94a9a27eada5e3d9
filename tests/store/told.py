"""The reports that users of the store in `protocol` got, and its readers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastio.store.documents import Record
from fastio.store.layout import SHARDS
from fastio.store.manifest import Manifest
from fastio.store.members import Members
from fastio.store.root import Root


@dataclass(frozen=True)
class Reported:
    """A generation that was reported to its writer as saved."""

    digest: str
    roots: tuple[str, ...]
    shards: tuple[tuple[str, int, tuple[str, ...]], ...]  # file, bytes, UUIDs of its roots

    @classmethod
    def of(cls, record: Record, manifest: Manifest) -> Reported:
        uuids = [root.uuid for root in manifest.roots]
        shards = tuple(
            (shard.file, shard.nbytes, tuple(uuids[at] for at in shard.roots))
            for shard in manifest.shards
        )
        return cls(record.manifest, record.roots, shards)


@dataclass
class Told:
    """The knowledge of a store's users, and the state of its roots, by their number."""

    uuids: list[str]
    away: set[int] = field(default_factory=set)
    stale: set[int] = field(default_factory=set)
    """Restored from a backup that lacks what was reported since."""
    forgetful: set[int] = field(default_factory=set)
    """Restored from one that lacks at most what nobody was told of: promises, and records."""
    reported: dict[int, Reported] = field(default_factory=dict)
    backed_up: dict[int, int] = field(default_factory=dict)
    """The newest reported generation when a root was backed up."""
    thin: set[int] = field(default_factory=set)
    """Restored from any backup: shards may be missing until the next generation is written."""
    in_doubt: bool = False
    """Whether somebody died while he replaced a root, and nobody has decided since."""

    def copied(self) -> Told:
        """A copy, which changes apart."""
        return copy.deepcopy(self)

    @property
    def last(self) -> Reported:
        """The newest one that was reported."""
        return self.reported[max(self.reported)]


class Reader:
    """A generation that a reader has taken and keeps, on some roots."""

    def __init__(self, paths: Sequence[Path], at: Sequence[int], generation: int | None) -> None:
        self._roots = {one: Root.open(paths[one]) for one in at}
        members = Members.of(self._roots.values())
        self._pinned = members.pin(generation, None)
        manifest = self._pinned.encoded.manifest
        self._files: dict[int, dict[str, int]] = {}
        for one, root in self._roots.items():
            if root.uuid in self._pinned.hold.locks:
                sizes = root.storage.sizes(SHARDS)
                wanted = {shard.file: shard.nbytes for shard in manifest.shards}
                self._files[one] = dict(sizes.items() & wanted.items())

    def forget(self, at: int) -> None:
        """One of the disks is gone."""
        self._files.pop(at, None)

    def check(self) -> None:
        """On each root in use, every file of the generation is still there."""
        for at, files in self._files.items():
            root = self._roots[at]
            assert root.manifest(self._pinned.encoded.digest).digest == self._pinned.encoded.digest
            sizes = root.storage.sizes(SHARDS)
            for file, nbytes in files.items():
                assert sizes.get(file) == nbytes, "what is read was collected"

    def close(self) -> None:
        self._pinned.hold.close()
        for root in self._roots.values():
            root.close()
