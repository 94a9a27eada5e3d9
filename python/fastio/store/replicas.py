"""Every replica of every shard on its root, read past the page cache: all disks at once."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import fastio._native as _native
from fastio.catalog import Shard
from fastio.errors import FastioError, FormatError, ReadError
from fastio.formats import safetensors
from fastio.host.descriptors import make_room
from fastio.options import Options
from fastio.reading.survey import MEMORY_BYTES, Advance, headers, survey
from fastio.report.events import Event
from fastio.store.layout import SHARDS
from fastio.store.manifest import ShardEntry
from fastio.store.root import Root
from fastio.store.together import at_once

_OPEN_MAX = 64  # files of one root that are open at once
_HEADERS_BYTES_MAX = 2**21  # of these; what is made of them takes some times as much
_SHARE_BYTES_MIN = 12 * 2**20  # of a disk: three blocks of the usual size in flight


@dataclass
class RootRead:
    """The result of reading one root.

    Attributes
    ----------
    damaged : dict of str to Event
        By path: replicas that are damaged, missing, or cannot be read.
    files : int
        Replicas that were looked at.
    nbytes : int
        Bytes that were read.
    notes : list of str
    silent : str
        Why the root was left, if it does not answer; its other replicas were not looked at.
    """

    damaged: dict[str, Event] = field(default_factory=dict)
    files: int = 0
    nbytes: int = 0
    notes: list[str] = field(default_factory=list)
    silent: str = ""


class _Cancelled(Exception):
    """The caller was interrupted."""


def read_all(
    wanted: Sequence[tuple[Root, Sequence[ShardEntry]]],
    options: Options,
    progress: Advance | None,
) -> dict[str, RootRead]:
    """Read replicas of shards on several roots. Roots of one disk come one after another.

    Parameters
    ----------
    wanted : sequence of (Root, sequence of ShardEntry)
    options : Options
    progress : callable, optional

    Returns
    -------
    dict of str to RootRead
        By root's UUID.

    Raises
    ------
    MemoryLimitError, MemoryError
    KeyboardInterrupt
        Or whatever else interrupts this thread, once all reads are abandoned.
    """
    disks: dict[int, list[tuple[Root, Sequence[ShardEntry]]]] = {}
    for root, entries in wanted:
        disks.setdefault(_disk(root), []).append((root, entries))
    budget = min(MEMORY_BYTES, options.memory_limit_bytes or MEMORY_BYTES)
    share_min = max([_SHARE_BYTES_MIN, *_largest_chunks(wanted)])
    at_a_time = max(1, min(len(disks), budget // share_min))
    slots = threading.Semaphore(at_a_time)
    cancelled = threading.Event()
    shown = _Progress(progress, sum(entry.nbytes for _, of in wanted for entry in of))
    found = {root.uuid: RootRead() for root, _ in wanted}
    make_room(2 * _OPEN_MAX * at_a_time, "a verification")

    def run(roots: Sequence[tuple[Root, Sequence[ShardEntry]]]) -> None:
        with slots:
            for root, entries in roots:
                reader = _RootReader(root, options, budget // at_a_time, found[root.uuid])
                reader.read(entries, shown.of_one(cancelled))

    calls = [functools.partial(run, roots) for roots in disks.values()]
    for error in at_once(calls, interrupted=cancelled.set):
        raise error
    return found


def _disk(root: Root) -> int:
    try:
        return root.storage.disk()
    except FastioError:
        return -1


def _largest_chunks(wanted: Iterable[tuple[Root, Sequence[ShardEntry]]]) -> list[int]:
    """A chunk is read as a whole, and is at most 16 MiB; a shard of less is one chunk."""
    sizes = [entry.nbytes - entry.start for _, entries in wanted for entry in entries]
    return [min(max(sizes), 2**24 + 2**16)] if sizes else []


class _Progress:
    """The sum of what several readers have done."""

    def __init__(self, tell: Advance | None, total: int) -> None:
        self._tell = tell
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def of_one(self, cancelled: threading.Event) -> Callable[[int], None]:
        def add(nbytes: int) -> None:
            if cancelled.is_set():
                raise _Cancelled
            with self._lock:
                self._done += nbytes
                if self._tell is not None:
                    self._tell(self._done, self._total)

        return add


def _is_of(entry: ShardEntry, header: bytes) -> bool:
    return hashlib.sha256(header).hexdigest() == entry.digest


class _RootReader:
    """Reads replicas of one root, some files at a time."""

    def __init__(self, root: Root, options: Options, memory_bytes: int, found: RootRead) -> None:
        self._root = root
        self._options = options
        self._memory_bytes = memory_bytes
        self._found = found

    def read(self, entries: Sequence[ShardEntry], add: Callable[[int], None]) -> None:
        """Read these, as many at once as memory has room for their headers."""
        batch: list[ShardEntry] = []
        nbytes = 0
        for entry in entries:
            if batch and (len(batch) == _OPEN_MAX or nbytes + entry.start > _HEADERS_BYTES_MAX):
                self._read(batch, add)
                batch, nbytes = [], 0
            batch.append(entry)
            nbytes += entry.start
        if batch:
            self._read(batch, add)

    def _read(self, entries: Sequence[ShardEntry], add: Callable[[int], None]) -> None:
        found = self._found
        found.files += 0 if found.silent else len(entries)
        opened = [
            (entry, file)
            for entry in entries
            if not found.silent and (file := self._open(entry)) is not None
        ]
        wanted = [(file, entry.start) for entry, file in opened]
        shards = []
        read = headers(wanted, self._options, lambda at, data: _is_of(opened[at][0], data))
        for (entry, file), header in zip(opened, read, strict=True):
            shard = self._located(entry, file, header)
            if shard is not None:
                found.nbytes += entry.start
                shards.append(shard)
        before = 0

        def advance(done: int, _: int) -> None:
            nonlocal before
            add(done - before)
            before = done

        surveyed = survey(shards, self._options, memory_bytes=self._memory_bytes, progress=advance)
        add(sum(entry.nbytes for entry in entries) - before)
        found.damaged.update(surveyed.damaged)
        found.nbytes += surveyed.nbytes
        found.notes += [*surveyed.notes, *map(str, surveyed.read_again.values())]

    def _open(self, entry: ShardEntry) -> _native.Replica | None:
        path = self._path(entry)
        try:
            file = self._root.storage.open_file(SHARDS, entry.file)
            if file.nbytes != entry.nbytes:
                problem = f"has {file.nbytes} bytes, {entry.nbytes} expected"
                raise FormatError(path, problem)
        except FileNotFoundError:
            self._damage(entry, "is missing")
        except (FastioError, OSError) as error:
            if self._root.answering.is_stuck:
                self._found.silent = str(error).removeprefix(f"{self._root.path}: ")
            else:
                self._damage(entry, str(error).removeprefix(f"{path}: "))
        else:
            return file
        return None

    def _located(
        self, entry: ShardEntry, file: _native.Replica, header: bytes | ReadError
    ) -> Shard | None:
        if isinstance(header, ReadError):
            self._damage(entry, str(header).removeprefix(f"{file.path}: "))
            return None
        if not _is_of(entry, header):
            self._damage(entry, "its header is damaged, or of another shard")
            return None
        return safetensors.locate(file, header)

    def _damage(self, entry: ShardEntry, cause: str) -> None:
        path = self._path(entry)
        self._found.damaged[path] = Event("damage", path, cause, "")

    def _path(self, entry: ShardEntry) -> str:
        return str(self._root.path / SHARDS / entry.file)
