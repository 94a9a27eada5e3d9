"""A new generation: its tensors spread over shards, these over roots, and the manifest of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fastio.errors import ReplicaError
from fastio.options import Options
from fastio.report import Report
from fastio.saving.origins import Origins
from fastio.saving.pace import Progress
from fastio.store import partition, placement, shards
from fastio.store.commit import Session
from fastio.store.manifest import (
    CutEntry,
    EncodedManifest,
    Manifest,
    RootEntry,
    Settings,
    ShardEntry,
    encode,
)
from fastio.store.partition import Cut, Group, Partition
from fastio.store.shards import PlannedShard, ShardWriter


class Plan:
    """The shards to write, and their roots.

    Parameters
    ----------
    session : Session
    settings : Settings
    by : str or callable
        How tensors are spread over shards.
    placed : callable
        Returns what the manifest says of a root, of what the one before says: `Members.placed`.

    Raises
    ------
    ReplicaError
        If fewer roots can be written to than there are to be replicas.
    """

    def __init__(
        self,
        session: Session,
        settings: Settings,
        by: Partition,
        placed: Callable[[RootEntry], RootEntry],
    ) -> None:
        self._session = session
        self._settings = settings
        self._by = by
        self._parent = session.head.manifest if session.head is not None else None
        self._entries = {entry.uuid: entry for entry in self._parent.roots} if self._parent else {}
        self._placed_at = placed
        # Those that others have taken the place of are still locked, until that is decided.
        self._roots = {root.uuid: root for root in session.roots if root.uuid in session.among}
        if len(self._roots) < settings.replicas:
            raise ReplicaError(
                session.roots[0].path,
                f"{settings.replicas} replicas need as many roots, and {len(self._roots)} can be "
                "written to",
                session.failed,
            )

    def lay_out(self, origins: Origins, order: Sequence[str]) -> list[PlannedShard]:
        """Say which shards there are to be.

        Parameters
        ----------
        origins : Origins
        order : sequence of str
            The names as they were handed over.

        Raises
        ------
        ValueError
            A tensor that the placement has no root for.
        FormatError
        """
        size = partition.shard_size(
            self._settings.shard_bytes, origins.data_bytes, len(self._session.among)
        )
        # On one root a cut brings nothing, but for tensors that are too large for a file.
        spread = len(self._session.among) > 1 or self._settings.shard_bytes is not None
        found, self.cuts = partition.cut_large(
            origins, size if spread else partition.SHARD_BYTES_MAX
        )
        in_order = [piece for name in order for piece in _pieces(str(name), self.cuts)]
        planned = []
        first = next(iter(self._roots.values()))
        for group, roots in self._placed(found, in_order, size):
            planned.append(
                shards.plan_shard(
                    group.label, found.take(group.rows), roots, self._settings.chunk_bytes, first
                )
            )
        self._recognise(planned)
        return planned

    def _placed(
        self, origins: Origins, order: Sequence[str], size: int
    ) -> list[tuple[Group, tuple[str, ...]]]:
        if self._settings.placement != "mapping":
            groups = partition.groups(origins, order, size, self._by)
            pieces = {piece for cut in self.cuts.values() for piece in cut.pieces}
            # Cut tensors are read after the others: either is to be spread over all roots.
            of_cuts = [any(origins.names[row] in pieces for row in one.rows) for one in groups]
            placed: list[tuple[Group, tuple[str, ...]]] = []
            for is_cut in (False, True):
                some = [one for one, has in zip(groups, of_cuts, strict=True) if has is is_cut]
                roots = placement.place(
                    [(group.label, group.nbytes) for group in some],
                    {uuid: self._weight(uuid) for uuid in self._roots},
                    self._settings.replicas,
                    self._settings.placement,
                )
                placed += zip(some, roots, strict=True)
            return placed
        by_target: dict[tuple[str, ...], list[str]] = {}
        whole = {piece: name for name, cut in self.cuts.items() for piece in cut.pieces}
        for name in order:
            target = placement.target_of(whole.get(name, name), self._settings.places)
            by_target.setdefault(target, []).append(name)
        placed = []
        for at, (target, names) in enumerate(sorted(by_target.items())):
            away = [uuid for uuid in target if uuid not in self._roots]
            if away:
                raise ReplicaError(
                    self._session.roots[0].path,
                    f"{names[0]} is to be on a root that cannot be written to",
                    self._session.failed,
                )
            row_of = {name: row for row, name in enumerate(origins.names)}
            rows = [row_of[name] for name in names]
            part = origins.take(sorted(rows))
            for group in partition.groups(part, names, size, self._by):
                own = [row_of[part.names[row]] for row in group.rows]
                placed.append((Group(f"p{at}-{group.label}", own, group.nbytes), target))
        return placed

    def _weight(self, uuid: str) -> float:
        return self._roots[uuid].identity.weight

    def _recognise(self, planned: Sequence[PlannedShard]) -> None:
        """Find the shards of the generation before that may be the same."""
        if self._parent is None:
            return
        known = {bytes(entry.tensors): entry for entry in self._parent.shards}
        uuids = [root.uuid for root in self._parent.roots]
        for shard in planned:
            entry = known.get(b"{" + shard.origins.entries() + b"}")
            if entry is not None:
                shard.known = entry
                shard.known_roots = tuple(uuids[at] for at in entry.roots)

    def write(
        self,
        planned: Sequence[PlannedShard],
        options: Options,
        report: Report,
        progress: Progress,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Have all shards on their roots.

        Parameters
        ----------
        planned : sequence of PlannedShard
        options : Options
        report : Report
        progress : callable, optional
        is_cancelled : callable
            Asked now and then; an exception follows when it says True.

        Raises
        ------
        WriteError, ReplicaError, MemoryLimitError, MemoryError
        """
        writer = ShardWriter(
            self._roots, options, self._settings.file_mode, report, is_cancelled=is_cancelled
        )
        writer.write(planned, progress)

    def manifest(
        self,
        planned: Sequence[PlannedShard],
        metadata: Mapping[str, str],
        *,
        kept: Manifest | None = None,
    ) -> EncodedManifest:
        """Return the manifest of these shards; with `kept`, of its ones besides.

        Raises
        ------
        Nothing.
        """
        uuids = list(self._session.among)
        index = {uuid: at for at, uuid in enumerate(uuids)}
        before = list(kept.shards) if kept is not None else []
        moved = [index[root.uuid] for root in kept.roots] if kept is not None else []
        entries = [_renumbered(entry, moved) for entry in before]
        at_of: dict[str, int] = {}
        for at, shard in enumerate(planned):
            away = [uuid for uuid in shard.known_roots if uuid not in self._roots]
            is_known = shard.known is not None and shard.entry is not None
            same = is_known and shard.entry.file == shard.known.file  # type: ignore[union-attr]
            entries.append(shards.entry_of(shard, index.__getitem__, away if same else ()))
            at_of.update(dict.fromkeys(shard.origins.names, at + len(before)))
        cuts = dict(kept.cuts) if kept is not None else {}
        for name, cut in self.cuts.items():
            pieces = tuple((at_of[piece], piece) for piece in cut.pieces)
            cuts[name] = CutEntry(cut.dtype, cut.shape, pieces)
        return encode(
            Manifest(
                store=self._session.store,
                roots=tuple(self._placed_at(self._entries[uuid]) for uuid in uuids),
                shards=tuple(entries),
                cuts=cuts,
                metadata=dict(metadata),
                settings=self._settings,
            )
        )


def _renumbered(entry: ShardEntry, moved: Sequence[int]) -> ShardEntry:
    return ShardEntry(
        file=entry.file,
        nbytes=entry.nbytes,
        start=entry.start,
        digest=entry.digest,
        roots=tuple(moved[at] for at in entry.roots),
        tensors=entry.tensors,
    )


def _pieces(name: str, cuts: Mapping[str, Cut]) -> tuple[str, ...]:
    return cuts[name].pieces if name in cuts else (name,)
