"""A generation as something that can be loaded: its tensors, and the replicas of their shards."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath

from fastio.catalog import Catalog, Shard, ShardFiles
from fastio.display.values import shown
from fastio.errors import FormatError, ReplicaError
from fastio.formats import safetensors
from fastio.host import collector
from fastio.host.descriptors import make_room
from fastio.options import Options, default_options
from fastio.reading.fetch import native_files
from fastio.reading.located import Cut, LocatedSource
from fastio.reading.watch import ON_DAMAGE, OnDamage, Watch
from fastio.report.events import Event
from fastio.store import repair
from fastio.store.address import GenerationAddress
from fastio.store.layout import SHARDS
from fastio.store.manifest import CutEntry, Manifest, ShardEntry
from fastio.store.members import Members
from fastio.store.pinned import PinnedGeneration
from fastio.store.root import Root
from fastio.store.shard_files import StoredFiles


def newest(
    paths: Sequence[PurePath], timeout_s: float, names: Collection[str] | None = None
) -> LocatedSource:
    """Say which tensors the newest generation of a store has.

    Parameters
    ----------
    paths : sequence of path
    timeout_s : float
        How long a root may take to answer.
    names : collection of str, optional
        What will be asked for.

    Raises
    ------
    FileNotFoundError, FormatError, ReplicaError
        As `fastio.Store.open` does.
    """
    members = Members(paths, timeout_s)
    pinned = members.pin(None, None)
    return locate(members, pinned, watch(members, pinned, "continue"), names)


def watch(
    members: Members,
    pinned: PinnedGeneration,
    on_damage: OnDamage,
    options: Options | None = None,
) -> Watch:
    """Return what is done about bad replicas; roots that cannot be reached are told at once.

    Parameters
    ----------
    members : Members
    pinned : PinnedGeneration
        Whose replicas they are.
    on_damage : {"continue", "repair", "raise"}
    options : Options, optional
        Say how long a replica is waited for.

    Raises
    ------
    ValueError
        If `on_damage` is none of what there is.
    """
    if on_damage not in ON_DAMAGE:
        raise ValueError(f"on_damage={shown(on_damage)}: expected {', '.join(ON_DAMAGE)}")
    made = Watch(on_damage, timeout_s=(options or default_options()).root_timeout_s)
    if on_damage == "raise" and members.missing:
        raise ReplicaError(members.name, "a root cannot be read", members.missing)
    if on_damage == "repair":
        entries = {entry.file: entry for entry in pinned.encoded.manifest.shards}
        made.repair = functools.partial(_rewrite, list(members.roots.values()), entries)
    for event in members.places.events:
        made.tell(event)
    for path, reason in members.missing.items():
        made.tell(Event("fallback", path, reason, "the other roots are read"))
    for root in members.roots.values():
        for problem in root.problems:
            made.tell(Event("fallback", str(root.path), problem, "another root's is taken"))
    return made


def _rewrite(
    roots: Sequence[Root],
    entries: Mapping[str, ShardEntry],
    watch: Watch,
    files: ShardFiles,
    path: str,
) -> None:
    entry = entries[os.path.basename(path)]
    root = next((root for root in roots if str(root.path / SHARDS / entry.file) == path), None)
    if root is None:
        raise ReplicaError(path, "its root has left this store meanwhile", {})
    repair.rewrite(
        root,
        entry,
        native_files(files),
        roots,
        hung_paths=watch.hung_paths,
        timeout_s=watch.timeout_s,
    )


def locate(
    members: Members, pinned: PinnedGeneration, watch: Watch, names: Collection[str] | None = None
) -> LocatedSource:
    """Say which tensors a generation has, and where they lie. No shard is opened.

    Parameters
    ----------
    members : Members
    pinned : PinnedGeneration
    watch : Watch
    names : collection of str, optional
        What will be asked for.

    Raises
    ------
    FormatError
        If the manifest says of its tensors what cannot be.
    """
    manifest = pinned.encoded.manifest
    with collector.CollectorPaused():
        shards = []
        order = _Preference(members, pinned)
        for entry in manifest.shards:
            path = f"{members.name}: manifest {pinned.encoded.digest}, shard {entry.file}"
            names_of, dtypes, shapes, begins, ends = safetensors.columns(
                bytes(entry.tensors), entry.nbytes - entry.start, path
            )
            shards.append(
                Shard(
                    StoredFiles(entry, order.of(entry), watch, members.name, names_of),
                    names_of,
                    dtypes,
                    shapes,
                    begins + entry.start,
                    ends + entry.start,
                    metadata={},
                )
            )
        cuts = _cuts(manifest.cuts, shards, members.name)
        pieces = {piece for cut in manifest.cuts.values() for piece in cut.pieces}
        cut_in = {at for at, _ in pieces}
        whole = (
            _without(shard, at, pieces) if at in cut_in else shard
            for at, shard in enumerate(shards)
        )
        catalog = Catalog((shard for shard in whole if shard is not None), members.name)
    for name in cuts:
        if name in catalog:
            raise FormatError(members.name, f"its manifest has the tensor {shown(name)} twice")
    again = functools.partial(_again, GenerationAddress.of(members, pinned), watch.on_damage)
    located = LocatedSource(catalog, cuts, manifest.metadata, watch, (members, pinned), again)
    count = len(located.shards) if names is None else min(len(located.shards), len(names))
    make_room(2 * manifest.settings.replicas * count, located.source)  # shards stay open
    return located


def _again(address: GenerationAddress, on_damage: OnDamage, options: Options) -> LocatedSource:
    members, pinned = address.find()
    return locate(members, pinned, watch(members, pinned, on_damage, options))


def names(manifest: Manifest, source: str) -> set[str]:
    """Return the tensors of a generation, from what its manifest says alone.

    Parameters
    ----------
    manifest : Manifest
    source : str
        For messages.

    Raises
    ------
    FormatError
        If it says what cannot be.
    """
    found = set(manifest.cuts)
    pieces = {piece for cut in manifest.cuts.values() for piece in cut.pieces}
    for at, entry in enumerate(manifest.shards):
        own, *_ = safetensors.columns(bytes(entry.tensors), entry.nbytes - entry.start, source)
        found.update(name for name in own if (at, name) not in pieces)
    return found


def _without(shard: Shard, at: int, pieces: set[tuple[int, str]]) -> Shard | None:
    """A shard without the pieces in it; None where nothing is left."""
    rows = [row for row, name in enumerate(shard.names) if (at, name) not in pieces]
    if len(rows) == len(shard.names):
        return shard
    return shard.take(rows) if rows else None


def _cuts(entries: Mapping[str, CutEntry], shards: Sequence[Shard], source: str) -> dict[str, Cut]:
    cuts = {}
    rows_of: dict[int, dict[str, int]] = {}
    for name, entry in entries.items():
        pieces = []
        rows = 0
        for at, piece in entry.pieces:
            shard = shards[at]
            of_shard = rows_of.setdefault(at, {name: row for row, name in enumerate(shard.names)})
            row = of_shard.get(piece)
            shape = () if row is None else shard.shapes[row]
            fits = (
                row is not None
                and shard.dtypes[row] == entry.dtype
                and len(shape) == len(entry.shape) > 0
                and shape[1:] == entry.shape[1:]
            )
            if not fits:
                raise FormatError(
                    source,
                    f"its manifest has a piece of {shown(name)} that is none: {shown(piece)}",
                )
            assert row is not None
            pieces.append(shard.take([row]))
            rows += shape[0]
        if rows != entry.shape[0]:
            raise FormatError(
                source,
                f"its manifest has {rows} rows of {shown(name)}",
                expected=f"{entry.shape[0]}",
            )
        cuts[name] = Cut(name, entry.dtype, entry.shape, tuple(pieces))
    return cuts


class _Preference:
    """Which replica of each shard is asked first: so that every root has its share, by weight."""

    def __init__(self, members: Members, pinned: PinnedGeneration) -> None:
        self._entries = pinned.encoded.manifest.roots
        self._roots = [members.roots.get(entry.uuid) for entry in self._entries]
        self._load = [0.0] * len(self._entries)

    def of(self, shard: ShardEntry) -> list[tuple[str, Root | None]]:
        reached = [at for at in shard.roots if self._roots[at] is not None]
        away = [at for at in shard.roots if self._roots[at] is None]
        reached.sort(key=lambda at: self._load[at])
        if reached:
            self._load[reached[0]] += shard.nbytes / self._entries[reached[0]].weight
        return [(self._path(at, shard), self._roots[at]) for at in (*reached, *away)]

    def _path(self, at: int, shard: ShardEntry) -> str:
        root = self._roots[at]
        if root is None:
            return f"{self._entries[at].path}/{SHARDS}/{shard.file}"
        return str(root.path / SHARDS / shard.file)
