"""Removing generations that nobody needs any more: record, then manifest, then shards."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass

from fastio.errors import FastioError, ReadError, WriteError
from fastio.shown import counted, one_line, size
from fastio.store import locks
from fastio.store.commit import Session
from fastio.store.documents import Record
from fastio.store.history import standings
from fastio.store.manifest import Manifest
from fastio.store.root import COMMITS, MANIFESTS, SHARDS, Root

_log = logging.getLogger("fastio")


@dataclass(frozen=True)
class Collected:
    """What was removed.

    Attributes
    ----------
    generations : tuple of int
        Those that are gone.
    in_use : tuple of int
        Those that somebody reads, and that are kept for that.
    nbytes : int
        Of all that was removed, on all roots.
    """

    generations: tuple[int, ...]
    in_use: tuple[int, ...]
    nbytes: int

    @one_line
    def __repr__(self) -> str:
        what = f"{counted(len(self.generations), 'generation')}, {size(self.nbytes)}"
        return f"<fastio.store.Collected: {what}, {len(self.in_use)} still in use>"


def collect(session: Session, keep: int) -> Collected:
    """Remove all but the newest generations.

    Parameters
    ----------
    session : Session
    keep : int
        How many are kept, at least 1.

    Raises
    ------
    ReadError, WriteError
        What was removed until then is; the next collection goes on.
    """
    records = {root.uuid: root.records() for root in session.roots}
    found = standings(records)
    kept = [standing.record.generation for standing in found[:keep]]
    gone, in_use = [], []
    for standing in found[keep:]:
        generation = standing.record.generation
        # Of those that are on some roots only, the others' come back with them.
        if all(locks.remove_record(root, generation) for root in session.roots):
            gone.append(generation)
        else:
            in_use.append(generation)
    for root in session.roots:
        root.sync(COMMITS)
    needed = {*kept, *in_use}
    nbytes = 0
    # A root that cannot be reached may have the only record of a generation whose shards are here.
    everybody = len(session.roots) == len(session.among)
    manifests = _manifests(session, records, needed)
    if manifests is None:
        return Collected(tuple(gone), tuple(in_use), 0)
    digests = {record.manifest for of in records.values() for record in of.values()}
    live = {
        record.manifest
        for of in records.values()
        for record in of.values()
        if record.generation in needed
    }
    dead = _shards_of_dead(session, digests - live)
    for root in session.roots:
        try:
            nbytes += _sweep(root, manifests, dead, live=live, all_else=everybody)
        except (ReadError, WriteError) as error:  # the next collection goes on
            _log.warning("not all could be collected: %s", error)
    return Collected(tuple(gone), tuple(in_use), nbytes)


def _manifests(
    session: Session, records: dict[str, dict[int, Record]], generations: set[int]
) -> list[Manifest] | None:
    """Those of the generations that stay; None where one cannot be read, and so nothing may go."""
    found = {}
    for of in records.values():
        for record in of.values():
            if record.generation not in generations or record.manifest in found:
                continue
            for root in session.roots:
                with contextlib.suppress(FastioError, FileNotFoundError):
                    found[record.manifest] = root.manifest(record.manifest).manifest
                    break
            else:
                _log.warning("the manifest of generation %d cannot be read", record.generation)
                return None
    return list(found.values())


def _shards_of_dead(session: Session, digests: set[str]) -> set[str]:
    """The files that only manifests name that go."""
    files = set()
    for digest in digests:
        for root in session.roots:
            with contextlib.suppress(FastioError, FileNotFoundError):
                files |= {shard.file for shard in root.manifest(digest).manifest.shards}
                break
    return files


def _sweep(
    root: Root, manifests: list[Manifest], dead: set[str], *, live: set[str], all_else: bool
) -> int:
    """Remove from one root what no generation needs; the bytes of it."""
    needed = {shard.file for manifest in manifests for shard in manifest.shards}
    if all_else:
        root.remove_leftovers()
    unneeded = {
        MANIFESTS: [
            name for name in root.names(MANIFESTS) if name.removesuffix(".json") not in live
        ],
        SHARDS: [
            name for name in root.names(SHARDS) if name not in needed and (all_else or name in dead)
        ],
    }
    nbytes = 0
    for sub, names in unneeded.items():
        removed = [name for name in names if not name.startswith(".")]
        for name in removed:
            nbytes += root.size(sub, name)
            root.remove(sub, name)
        if removed:
            root.sync(sub)
    return nbytes
