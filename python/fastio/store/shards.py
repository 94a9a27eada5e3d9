"""The shards of a generation, written to their roots, except for unchanged ones."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

import fastio._native as _native
from fastio.errors import FastioError, FormatError, ReadError, ReplicaError, WriteError
from fastio.formats import safetensors
from fastio.options import Options
from fastio.reading.survey import MEMORY_BYTES, survey
from fastio.report import Report
from fastio.saving.origins import Origins
from fastio.saving.pace import Progress
from fastio.saving.writing import FileWriter, Layout, lay_out
from fastio.store.layout import SHARDS
from fastio.store.manifest import ShardEntry
from fastio.store.root import Root
from fastio.store.together import at_once

_PROVISIONAL = "shard.safetensors"
_SURVEYS_MAX = 4  # that share the memory of them all

_log = logging.getLogger("fastio")


@dataclass
class PlannedShard:
    """A shard that a generation is to have.

    Attributes
    ----------
    label : str
    origins : Origins
    layout : Layout
    roots : tuple of str
        UUIDs of those that are to hold it.
    known : ShardEntry or None
        The shard of the generation before that describes the same tensors.
    known_roots : tuple of str
        UUIDs of the roots that have that one.
    entry : WrittenShard or None
        The shard as it is written, once that is known.
    header : bytes
        Of a shard that is the known one.
    holders : set of str
        UUIDs of the roots that have it, sound and on the disk.
    """

    label: str
    origins: Origins
    layout: Layout
    roots: tuple[str, ...]
    known: ShardEntry | None = None
    known_roots: tuple[str, ...] = ()
    entry: WrittenShard | None = None
    header: bytes = b""
    holders: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class WrittenShard:
    """A shard that was written: its name, size, and digest."""

    file: str
    nbytes: int
    start: int
    digest: str


class _Cancelled(Exception):
    """Another shard could not be written, or a signal handler has raised."""


class RootFailed(Exception):
    """A root could not be read or written to; the others may do without it."""

    def __init__(self, root: Root, error: ReadError | WriteError) -> None:
        super().__init__(str(error))
        self.root = root
        self.error = error


class ShardWriter:
    """Writes shards to several roots at once.

    Parameters
    ----------
    roots : mapping of str to Root
        By UUID.
    options : Options
    mode : int
        Of new files.
    report : Report
    is_cancelled : callable
        Asked now and then, on any thread.
    """

    def __init__(
        self,
        roots: Mapping[str, Root],
        options: Options,
        mode: int,
        report: Report,
        *,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._roots = roots
        self._options = options
        self._mode = mode
        self._report = report
        self._cancelled = threading.Event()
        self._is_cancelled = is_cancelled
        self._counting = threading.Lock()
        self._bad: dict[str, list[str]] = {}  # by root, why replicas are written again
        self._done = 0
        self._total = 0

    def write(self, shards: Sequence[PlannedShard], progress: Progress) -> None:
        """Have each shard on each of its roots, on the disk, under its name.

        Raises
        ------
        RootFailed
            If one of the roots cannot be read or written to.
        MemoryLimitError, MemoryError
        ReplicaError
            If replicas of one shard came out different: the tensors changed meanwhile.
        """
        self._use_known([shard for shard in shards if shard.known is not None])
        self._total = sum(
            shard.layout.origins.data_bytes * len(set(shard.roots) - shard.holders)
            for shard in shards
        )
        written = sum(
            shard.layout.origins.data_bytes
            for shard in shards
            if not shard.holders.issuperset(shard.roots)
        )
        self._check_space(shards)
        self._each_root(
            {
                uuid: [s for s in shards if uuid in s.roots and uuid not in s.holders]
                for uuid in self._roots
            },
            lambda shard, root: self._write(shard, root, progress),
            lambda root: root.storage.sync(SHARDS),
        )
        self._report.files, self._report.nbytes = len(shards), written  # not once for each replica

    def _each_root(
        self,
        shards: Mapping[str, Sequence[PlannedShard]],
        do: Callable[[PlannedShard, Root], None],
        then: Callable[[Root], None] = lambda root: None,
    ) -> None:
        """Do something with some shards of each root, all roots at once."""

        def run(uuid: str, own: Sequence[PlannedShard]) -> None:
            root = self._roots[uuid]
            try:
                for shard in own:
                    self._go_on()
                    do(shard, root)
                then(root)
            except (ReadError, WriteError) as error:
                self._cancelled.set()
                raise RootFailed(root, error) from error
            except BaseException:
                self._cancelled.set()
                raise

        errors = at_once(
            [functools.partial(run, uuid, own) for uuid, own in shards.items() if own],
            interrupted=self._cancelled.set,
        )
        for error in sorted(errors, key=lambda error: isinstance(error, _Cancelled)):
            raise error  # the one that was the first to fail

    def _go_on(self) -> None:
        if self._cancelled.is_set() or self._is_cancelled():
            raise _Cancelled

    # ---- what is there already

    def _use_known(self, shards: Sequence[PlannedShard]) -> None:
        """Find out which shards are those of the generation before, and which roots have them
        sound: what is used again is read and verified, all of it.
        """
        same = [shard for shard in shards if self._is_known(shard)]
        self._each_root(
            {uuid: [s for s in same if uuid in s.known_roots] for uuid in self._roots},
            self._look_for,
        )
        self._tell_bad()
        for shard in same:
            replicas = len(shard.roots)
            others = [uuid for uuid in shard.roots if uuid not in shard.holders]
            holders = sorted(shard.holders, key=lambda uuid: uuid not in shard.roots)
            shard.roots = (*holders[:replicas], *others)[:replicas]
            self._report.bytes_reused += shard.layout.nbytes * len(holders[:replicas])

    def _is_known(self, shard: PlannedShard) -> bool:
        self._go_on()
        known = shard.known
        first = next((self._roots[u] for u in shard.known_roots if u in self._roots), None)
        if first is None or known is None:
            return False
        try:
            with self._writer(shard, first) as writer:
                header = writer.sum_up()
        except (ReadError, WriteError) as error:
            raise RootFailed(first, error) from error
        found = _found(shard, header)
        if (found.file, found.nbytes, found.digest) != (known.file, known.nbytes, known.digest):
            return False
        shard.entry, shard.header = found, header
        return True

    def _look_for(self, shard: PlannedShard, root: Root) -> None:
        entry = shard.entry
        assert entry is not None
        path = str(root.path / SHARDS / entry.file)
        try:
            file = root.storage.open_file(SHARDS, entry.file)
            header = shard.header
            if file.nbytes != entry.nbytes or file.read(0, len(header)) != header:
                raise FormatError(path, "is not the shard that it was")
            self._verify(file, shard)
        except FileNotFoundError:
            return
        except (FastioError, OSError) as error:
            with self._counting:
                self._bad.setdefault(root.uuid, []).append(f"{path} is written again: {error}")
            return
        with self._counting:
            shard.holders.add(root.uuid)

    def _tell_bad(self) -> None:
        """Say which replicas were found damaged: in the log a line for each root."""
        for uuid, told in self._bad.items():
            more = f"; so are {len(told) - 1} more files of {self._roots[uuid].path}"
            _log.warning("%s%s", told[0], more if len(told) > 1 else "")
            self._report.fallbacks += tuple(told)
        self._bad = {}

    def _verify(self, file: _native.Replica, shard: PlannedShard) -> None:
        """Read all chunks of a replica past the page cache, and refuse one that is damaged."""
        found = survey(
            [safetensors.locate(file, shard.header)],
            replace(self._options, memory_limit_bytes=None),
            memory_bytes=MEMORY_BYTES // min(len(self._roots), _SURVEYS_MAX),
            progress=lambda done, total: self._go_on(),
        )
        for event in found.damaged.values():
            raise FormatError(file.path, event.cause, offset=event.offset)

    def _check_space(self, shards: Sequence[PlannedShard]) -> None:
        for uuid, root in self._roots.items():
            needed = sum(
                shard.layout.nbytes
                for shard in shards
                if uuid in shard.roots and uuid not in shard.holders
            )
            try:
                space = root.storage.space()
            except ReadError as error:
                raise RootFailed(root, error) from error
            if space is not None and needed > space[0]:
                detail = f"{needed} bytes are needed, {space[0]} are free"
                full = WriteError(errno.ENOSPC, "reserve", root.path, detail=detail)
                raise RootFailed(root, full)

    # ---- what is written

    def _write(self, shard: PlannedShard, root: Root, progress: Progress) -> None:
        before = 0

        def advance(done: int, _: int) -> None:
            nonlocal before
            self._go_on()
            with self._counting:
                self._done += done - before
                before = done
                if progress is not None:
                    progress(self._done, self._total)

        with self._writer(shard, root) as writer:
            writer.reserve()
            writer.begin()
            mode = writer.write_data(durable=True, progress=advance)
            advance(shard.layout.origins.data_bytes, 0)
            found = _found(shard, writer.header())
            writer.replacement.name_as(found.file)
            writer.finish(durable=True, mode=self._mode)
            # One of that name has the same bytes, or is damaged.
            writer.replacement.link()
            writer.replacement.rename()
            statistics = writer.statistics
        with self._counting:
            self._report.add_saved(statistics)
            self._report.cache_reason = self._report.cache_reason or mode.reason
            self._report.fall_back(writer.replacement.shortfalls)
            shard.holders.add(root.uuid)
            if shard.entry is None:
                shard.entry = found
            differs = shard.entry != found
        if differs:
            raise ReplicaError(
                root.path,
                f"replicas of the shard {shard.label} differ: its tensors changed meanwhile",
                {},
                shard.origins.names,
            )

    @contextlib.contextmanager
    def _writer(self, shard: PlannedShard, root: Root) -> Iterator[FileWriter]:
        file = root.storage.new_file(SHARDS, _PROVISIONAL)
        writer = FileWriter(file, shard.layout, self._options)
        try:
            yield writer
        finally:
            writer.close()


def _found(shard: PlannedShard, header: bytes) -> WrittenShard:
    digest = hashlib.sha256(header).hexdigest()
    file = f"{shard.label}.{digest[:16]}.safetensors"
    return WrittenShard(file, shard.layout.nbytes, shard.layout.start, digest)


def plan_shard(
    label: str, origins: Origins, roots: tuple[str, ...], chunk_bytes: int, root: Root
) -> PlannedShard:
    """Lay out a shard.

    Raises
    ------
    FormatError
        If its header would be longer than the format allows.
    """
    path = root.path / SHARDS / f"{label}.safetensors"
    layout = lay_out(origins, path, None, chunk_bytes=chunk_bytes)
    return PlannedShard(label, origins, layout, roots)


def entry_of(
    shard: PlannedShard, index_of: Callable[[str], int], away: Sequence[str]
) -> ShardEntry:
    """Return what the manifest says of a shard that was written.

    Parameters
    ----------
    shard : PlannedShard
    index_of : callable
        The place of a root's UUID among the manifest's roots.
    away : sequence of str
        Roots that have it as well, and cannot be reached.

    Raises
    ------
    Nothing.
    """
    assert shard.entry is not None
    holders = [*shard.roots, *(uuid for uuid in away if uuid not in shard.roots)]
    return ShardEntry(
        file=shard.entry.file,
        nbytes=shard.entry.nbytes,
        start=shard.entry.start,
        digest=shard.entry.digest,
        roots=tuple(map(index_of, holders)),
        tensors=msgspec.Raw(b"{" + shard.origins.entries() + b"}"),
    )
