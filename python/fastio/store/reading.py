"""A generation as something that can be loaded: its tensors, and the replicas of their shards."""

from __future__ import annotations

import errno
import functools
import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import PurePath

from fastio import _native
from fastio.catalog import Catalog, ChecksumTable, Shard
from fastio.display.values import shown
from fastio.errors import FastioError, FormatError, ReplicaError
from fastio.events import Event
from fastio.formats import safetensors
from fastio.formats.columns import Columns
from fastio.formats.safetensors import InMemory
from fastio.host import collector
from fastio.host.descriptors import make_room
from fastio.options import Options, default_options
from fastio.reading.located import Cut, LocatedSource
from fastio.reading.replicas import ON_DAMAGE, OnDamage, Replicas, Watch
from fastio.storage import answering
from fastio.store import repair
from fastio.store.layout import SHARDS
from fastio.store.manifest import CutEntry, Manifest, ShardEntry
from fastio.store.members import Members
from fastio.store.pinned import GenerationAddress
from fastio.store.root import Root
from fastio.store.taken import PinnedGeneration

# Of the time to answer: for a disk that owes an answer already, where another one has a replica.
_OWING_SHARE = 0.1
_OWN_TROUBLE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class StoredShard(Shard):
    """A shard of a store; its replicas are opened when it is to be read.

    Parameters
    ----------
    entry : ShardEntry
    holders : sequence of (str, Root or None)
        Where its replicas should be: the path of each, and the root if it can be reached; the
        preferred one first.
    watch : Watch
    source : str
        The store, for messages.
    """

    def __init__(
        self,
        entry: ShardEntry,
        holders: Sequence[tuple[str, Root | None]],
        watch: Watch,
        source: str,
        columns: Columns,
    ) -> None:
        names, dtypes, shapes, begins, ends = columns
        vars(self).update(
            names=names, dtypes=dtypes, shapes=shapes, begins=begins, ends=ends, metadata={}
        )
        vars(self).update(_entry=entry, _holders=holders, _watch=watch, _source=source)

    _entry: ShardEntry
    _holders: Sequence[tuple[str, Root | None]]
    _watch: Watch
    _source: str

    @property
    def path(self) -> str:
        """The path of the preferred replica."""
        return self._holders[0][0]

    @property
    def is_sealed(self) -> bool:
        """It always is."""
        return True

    @property
    def has_replicas(self) -> bool:
        """It always has, if only one."""
        return True

    @property
    def file(self) -> _native.File:
        """The preferred replica, open."""
        return self.replicas.files[0]

    @property
    def replicas(self) -> Replicas:
        """All replicas, open."""
        return self._opened[0]

    @property
    def table(self) -> ChecksumTable:
        """The checksums, which a replica's header has."""
        return self._opened[1]

    @cached_property
    def _opened(self) -> tuple[Replicas, ChecksumTable]:
        files: list[_native.File] = []
        lacking: dict[str, str] = {}
        away: dict[str, str] = {}
        header: bytes | None = None
        reached = [root for _, root in self._holders if root is not None]
        timeout_s = answering.patience_s(self._watch.timeout_s, len(reached) - 1)
        owing = [root for root in reached if root.answering.owes_answer]
        for path, root in self._holders:
            if root is None:
                away[path] = "its root cannot be reached"
                continue
            is_short = root in owing and len(owing) < len(reached)
            try:
                file, header = root.answering.ask(
                    functools.partial(self._open, root, path, header),
                    timeout_s * _OWING_SHARE if is_short else timeout_s,
                )
                files.append(file)
            except FileNotFoundError:
                lacking[path] = "is missing"
            except (FastioError, OSError) as error:
                if isinstance(error, OSError) and error.errno in _OWN_TROUBLE:
                    raise  # that is not the replica's
                if isinstance(error, OSError) and error.errno == errno.ETIMEDOUT:
                    self._watch.hung_paths.add(path)
                lacking[path] = str(error).removeprefix(f"{path}: ")
        entry = self._entry
        replicas = Replicas(tuple(files), lacking, self._watch, entry.start, entry.digest)
        if not files or (lacking and not self._watch.persistent):
            raise ReplicaError(
                self._source,
                f"no replica of the shard {self._entry.file} can be read"
                if not files
                else f"a replica of the shard {self._entry.file} cannot be read",
                {**lacking, **away},
                self.names,
                self.path,
            )
        assert header is not None
        table = safetensors.locate(InMemory(files[0].path, files[0].nbytes, header)).table
        if table is None:
            raise FormatError(files[0].path, "has no checksums", expected="a shard of a store")
        self._watch.lacks(replicas, self.names)
        return replicas, table

    def _open(self, root: Root, path: str, header: bytes | None) -> tuple[_native.File, bytes]:
        """A replica, and the header, which is read from the first one that can be opened."""
        file = root.storage.open_file(SHARDS, self._entry.file)
        if file.nbytes != self._entry.nbytes:
            raise FormatError(
                path, f"has {file.nbytes} bytes", expected=f"{self._entry.nbytes}, as the manifest"
            )
        return file, self._header(file) if header is None else header

    def _header(self, file: _native.File) -> bytes:
        header = file.read(0, self._entry.start)
        found = hashlib.sha256(header).hexdigest()
        if found != self._entry.digest:
            raise FormatError(
                file.path,
                f"its header is damaged, or of another shard: its SHA-256 is {found}",
                expected=self._entry.digest,
            )
        return header

    def take(self, rows: Sequence[int]) -> Shard:
        """Return a shard with only these tensors, by position, ascending."""
        return _Part(self, rows)


class _Part(StoredShard):
    """Some tensors of a stored shard; it is opened with it."""

    def __init__(self, whole: StoredShard, rows: Sequence[int]) -> None:
        index = list(rows)
        columns = (
            [whole.names[row] for row in index],
            [whole.dtypes[row] for row in index],
            [whole.shapes[row] for row in index],
            whole.begins[index],
            whole.ends[index],
        )
        super().__init__(whole._entry, whole._holders, whole._watch, whole._source, columns)
        vars(self)["_whole"] = whole

    _whole: StoredShard

    @property
    def _opened(self) -> tuple[Replicas, ChecksumTable]:
        return self._whole._opened


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
    return locate(members, members.take(None, None), watch(members, "continue"), names)


def watch(members: Members, on_damage: OnDamage, options: Options | None = None) -> Watch:
    """Return what is done about bad replicas; roots that cannot be reached are told at once.

    Parameters
    ----------
    members : Members
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
        made.repair = repair.on(list(members.roots.values()))
    for event in members.places.events:
        made.tell(event)
    for path, reason in members.missing.items():
        made.tell(Event("fallback", path, reason, "the other roots are read"))
    for root in members.roots.values():
        for problem in root.problems:
            made.tell(Event("fallback", str(root.path), problem, "another root's is taken"))
    return made


def locate(
    members: Members, taken: PinnedGeneration, watch: Watch, names: Collection[str] | None = None
) -> LocatedSource:
    """Say which tensors a generation has, and where they lie. No shard is opened.

    Parameters
    ----------
    members : Members
    taken : PinnedGeneration
    watch : Watch
    names : collection of str, optional
        What will be asked for.

    Raises
    ------
    FormatError
        If the manifest says of its tensors what cannot be.
    """
    manifest = taken.named.manifest
    with collector.CollectorPaused():
        shards = []
        order = _Preference(members, taken)
        for entry in manifest.shards:
            path = f"{members.name}: manifest {taken.named.digest}, shard {entry.file}"
            columns = safetensors.columns(bytes(entry.tensors), entry.nbytes - entry.start, path)
            begins, ends = columns[3] + entry.start, columns[4] + entry.start
            shards.append(
                StoredShard(
                    entry, order.of(entry), watch, members.name, (*columns[:3], begins, ends)
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
    again = functools.partial(_again, GenerationAddress.of(members, taken), watch.on_damage)
    located = LocatedSource(catalog, cuts, manifest.metadata, watch, (members, taken), again)
    count = len(located.shards) if names is None else min(len(located.shards), len(names))
    make_room(2 * manifest.settings.replicas * count, located.source)  # shards stay open
    return located


def _again(pin: GenerationAddress, on_damage: OnDamage, options: Options) -> LocatedSource:
    members, taken = pin.find()
    return locate(members, taken, watch(members, on_damage, options))


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


def _without(shard: StoredShard, at: int, pieces: set[tuple[int, str]]) -> Shard | None:
    """A shard without the pieces in it; None where nothing is left."""
    rows = [row for row, name in enumerate(shard.names) if (at, name) not in pieces]
    if len(rows) == len(shard.names):
        return shard
    return shard.take(rows) if rows else None


def _cuts(
    entries: Mapping[str, CutEntry], shards: Sequence[StoredShard], source: str
) -> dict[str, Cut]:
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

    def __init__(self, members: Members, taken: PinnedGeneration) -> None:
        self._entries = taken.named.manifest.roots
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
