"""Removing generations that nobody needs any more: record, then manifest, then shards."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fastio.display.values import counted, one_line, size
from fastio.errors import FastioError
from fastio.store import locks, wholeness
from fastio.store.commit import Session
from fastio.store.history import Standing
from fastio.store.layout import COMMITS, EVERYWHERE, MANIFESTS, SHARDS, manifest_name, record_name
from fastio.store.manifest import Manifest
from fastio.store.root import Root

_log = logging.getLogger("fastio")

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Collected:
    """The generations and bytes that `Store.gc` removed.

    Attributes
    ----------
    generations : tuple of int
        The removed ones.
    in_use : tuple of int
        Those that were kept because somebody reads them.
    nbytes : int
        Removed bytes on all roots.

    Examples
    --------
    >>> store.save({"weight": np.ones(3)})
    2
    >>> store.gc(keep=1).generations  # generation 0 is the empty store
    (1, 0)
    """

    generations: tuple[int, ...]
    in_use: tuple[int, ...]
    nbytes: int

    @one_line
    def __repr__(self) -> str:
        what = f"{counted(len(self.generations), 'generation')}, {size(self.nbytes)}"
        return f"<fastio.store.Collected: {what}, {len(self.in_use)} still in use>"


def collect(session: Session, keep: int) -> Collected:
    """Remove all but the newest generations. Nothing is written: it works where no space is left.

    Only what is whole and stands on a majority of the roots counts as kept. Newer generations than
    the last of these stay as well. A root where something fails is done without.

    Parameters
    ----------
    session : Session
        One that does not propose.
    keep : int
        How many are kept, at least 1.

    Raises
    ------
    ReplicaError
        If there may be a newer generation than those that can be read.
    """
    return _Collection(session, keep).run()


class _Collection:
    """The generations that stay and those that go, on the roots that are held."""

    def __init__(self, session: Session, keep: int) -> None:
        self._session = session
        self._roots = list(session.roots)
        # A root that cannot be reached may have the only record of a generation whose shards are
        # here.
        self._has_everybody = session.has_all
        found = session.standings()
        if found:
            session.require_known(found[0].record)
        kept, self._old = _split(session, found, keep)
        self._stays = {digest for one in kept for digest in one.manifests}
        if self._has_everybody:  # a lost manifest of a save that was never reported stops nothing
            self._stays -= {
                one.record.manifest
                for one in kept
                if one.never_reported and _manifest(session, one.record.manifest) is None
            }
        self._dead: set[str] = set()  # shards of manifests that go
        self._nbytes = 0

    def run(self) -> Collected:
        """Remove records, then manifests, then shards."""
        for root in self._roots:  # kept records are durable before others are removed
            _tried(root, functools.partial(root.storage.sync, COMMITS))
        gone: list[int] = []
        in_use: list[int] = []
        of_manifest: dict[str, list[int]] = {}
        for one in self._old:
            of_manifest.setdefault(one.record.manifest, []).append(one.record.generation)
        for digest, generations in of_manifest.items():
            with self._unread(digest) as is_unread:
                if not is_unread:
                    in_use.extend(generations)
                elif self._has_removed_records(generations):
                    gone.extend(generations)
                    if digest not in self._stays:
                        self._remove_manifest(digest)
                    continue
                self._stays.add(digest)
        if self._has_everybody:
            self._remove_orphans()
        self._remove_shards()
        return Collected(_descending(gone), _descending(in_use), self._nbytes)

    @contextlib.contextmanager
    def _unread(self, digest: str) -> Iterator[bool]:
        """Whether a manifest may go, as far as readers are concerned; they cannot begin to read it
        in this context.
        """
        with contextlib.ExitStack() as held:
            is_unread = True
            for root in list(self._roots) if digest not in self._stays else ():
                found = held.enter_context(locks.unread(root, digest))
                if found is None:
                    self._do_without(root)
                elif not found:
                    is_unread = False
                    break
            yield is_unread

    def _do_without(self, root: Root) -> None:
        """Remove nothing there: somebody may read it."""
        _log.warning("nothing is collected on %s, which cannot be read", root.path)
        self._roots.remove(root)
        self._has_everybody = False

    def _has_removed_records(self, generations: Sequence[int]) -> bool:
        """Remove the records of generations that have the same manifest. False where one is left
        that can be read: what it names has to stay then.
        """

        def remove(root: Root) -> bool:
            for generation in generations:
                root.storage.remove(COMMITS, record_name(generation))
            root.storage.sync(COMMITS)
            return True

        has_removed_all = True
        for root in self._roots:
            is_removed = _tried(root, functools.partial(remove, root))
            if not is_removed and self._session.has_record(root, generations):
                has_removed_all = False
        return has_removed_all

    def _remove_manifest(self, digest: str) -> None:
        manifest = _manifest(self._session, digest)
        if manifest is not None:
            self._dead |= {shard.file for shard in manifest.shards}
        for root in self._roots:
            self._remove_file(root, MANIFESTS, manifest_name(digest))

    def _remove_orphans(self) -> None:
        """Remove manifests that no generation has, as crashed and outvoted writers leave them."""
        names = {
            name
            for root in self._roots
            for name in _tried(root, functools.partial(root.storage.names, MANIFESTS)) or ()
        }
        for name in sorted(names):
            digest = name.removesuffix(".json")
            if name.startswith(".") or digest in self._stays:
                continue
            with self._unread(digest) as is_unread:
                if is_unread:
                    self._remove_manifest(digest)
                else:
                    self._stays.add(digest)

    def _remove_shards(self) -> None:
        needed: set[str] = set()
        for digest in self._stays:
            manifest = _manifest(self._session, digest)
            if manifest is None:
                _log.warning("no shard is removed: no root has the manifest %s", digest)
                return
            needed |= {shard.file for shard in manifest.shards}
        for root in self._roots:
            _tried(root, functools.partial(root.storage.sync, MANIFESTS))
            if self._has_everybody:
                clean_up = root.storage.upkeep.remove_leftovers
                _tried(root, functools.partial(clean_up, EVERYWHERE))
            for name in _tried(root, functools.partial(root.storage.sizes, SHARDS)) or ():
                is_dead = name in self._dead or self._has_everybody
                if is_dead and name not in needed and not name.startswith("."):
                    self._remove_file(root, SHARDS, name)
            _tried(root, functools.partial(root.storage.sync, SHARDS))

    def _remove_file(self, root: Root, sub: str, name: str) -> None:
        def remove() -> int:
            try:
                nbytes = root.storage.size(sub, name)
            except FileNotFoundError:
                return 0
            root.storage.remove(sub, name)
            return nbytes

        self._nbytes += _tried(root, remove) or 0


def _split(
    session: Session, found: Sequence[Standing], keep: int
) -> tuple[Sequence[Standing], Sequence[Standing]]:
    """Those that stay, and those that are older."""
    count = 0
    for at, one in enumerate(found):
        manifest = _manifest(session, one.record.manifest) if one.decided else None
        count += manifest is not None and wholeness.is_whole(manifest, session.by_uuid)
        if count == keep:
            return found[: at + 1], found[at + 1 :]
    return found, ()


def _manifest(session: Session, digest: str) -> Manifest | None:
    """A manifest, from any root that has it."""
    for root in session.roots:
        with contextlib.suppress(FastioError, FileNotFoundError):
            return root.manifest(digest).manifest
    return None


def _tried(root: Root, call: Callable[[], _Result]) -> _Result | None:
    """The result of a call; after a failure the next collection tries again."""
    try:
        return call()
    except (FastioError, OSError) as error:
        _log.warning("not all could be collected on %s: %s", root.path, error)
        return None


def _descending(generations: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(generations, reverse=True))
