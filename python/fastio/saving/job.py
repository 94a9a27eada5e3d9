"""A whole save, in steps that may be taken now or on another thread: planned, copied, written, put
in place.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastio.errors import MemoryLimitError, WriteError
from fastio.filesystem.leftovers import remove_leftovers
from fastio.host_memory import available_bytes
from fastio.in_place import is_there
from fastio.loading import progress_bar, shifted
from fastio.options import Options
from fastio.replacement import Replacement, status_of_file
from fastio.report import Report
from fastio.saving import folder
from fastio.saving.sources import Sources
from fastio.saving.turns import Turn
from fastio.saving.writing import FileWriter, Layout, lay_out

_log = logging.getLogger("fastio")


@dataclass(frozen=True)
class Request:
    """What is to be saved, and how; all of it checked.

    Attributes
    ----------
    path : pathlib.Path
        The file, or the folder where there are shards.
    sources : Sources
    order : sequence of str
        Names as they were handed over.
    metadata : dict of str to str, or None
    shard_bytes, chunk_bytes : int or None
    durable : bool
    options : Options
    progress : bool
    report : Report
    begun : tuple of float
        Wall-clock and processor time when it was asked for, in seconds.
    """

    path: Path
    sources: Sources
    order: Sequence[str]
    metadata: dict[str, str] | None
    shard_bytes: int | None
    chunk_bytes: int | None
    durable: bool
    options: Options
    progress: bool
    report: Report
    begun: tuple[float, float]


class SaveWork:
    """A save, from when its files are open; use it with `with`.

    Raises
    ------
    FormatError, WriteError, MemoryLimitError
        As `fastio.save` has them.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._files = contextlib.ExitStack()
        self._writers: list[FileWriter] = []
        self._index: Replacement | None = None
        self._fixed_names = False
        self._shortfalls: list[str] = []
        self._files.callback(self._discard_index)  # after the shards that it names
        if request.shard_bytes is None:
            shards = [request.sources]
            status_of_file(request.path)  # refuses what is no file
            self._paths = [request.path]
        else:
            shards = folder.partition(request.order, request.sources, request.shard_bytes)
            folder.make(request.path, durable=request.durable)
            self._paths = folder.provisional_paths(request.path, len(shards))
        like = None if request.shard_bytes is None else folder.predecessor(request.path)
        layouts = [
            lay_out(shard, path, request.metadata, chunk_bytes=request.chunk_bytes)
            for shard, path in zip(shards, self._paths, strict=True)
        ]
        try:
            for path, layout in zip(self._paths, layouts, strict=True):
                self._open(path, layout, like)
        except BaseException:
            self.discard()
            raise

    def _open(self, path: Path, layout: Layout, like: Path | None) -> None:
        sharded = self._request.shard_bytes is not None
        written_as = self._request.path / folder.SINGLE if sharded else path
        writer = FileWriter(path, layout, self._request.options, written_as=written_as, like=like)
        self._files.callback(writer.discard)
        self._writers.append(writer)

    def discard(self) -> None:
        """Close the files; of those that did not take their place nothing is left."""
        self._files.close()

    def _discard_index(self) -> None:
        if self._index is not None:
            self._index.discard()

    def take_snapshot(self) -> None:
        """Copy all tensors; they are not looked at any more.

        Raises
        ------
        MemoryLimitError
            If there is no memory for that; nothing was copied.
        """
        request = self._request
        limit = request.options.memory_limit_bytes
        _check_fits(request.sources.data_bytes, limit)
        for writer in self._writers:
            writer.take_snapshot()

    def run(self, release: Callable[[], None]) -> None:
        """Write everything and put it in place.

        Parameters
        ----------
        release : callable
            Called when the tensors are not looked at any more.

        Raises
        ------
        WriteError, MemoryLimitError, MemoryError
            As `fastio.save` has them.
        """
        request = self._request
        self._clean_up()
        self._begin()
        ways = []
        total, before = request.sources.data_bytes, 0
        with progress_bar(str(request.path), shown=request.progress) as advance:
            for writer in self._writers:
                ways.append(
                    writer.write_data(
                        durable=request.durable, progress=shifted(advance, before, total)
                    )
                )
                before += writer.layout.sources.data_bytes
                if writer is self._writers[-1]:
                    release()
                writer.finish(durable=request.durable)
        self._commit()
        self._tell([way.reason for way in ways])

    def _begin(self) -> None:
        for writer in self._writers:
            writer.reserve()
        self._fixed_names = self._has_fixed_names()
        if self._fixed_names:
            self._index = folder.begin_with_names(
                self._request.path,
                [writer.layout.sources for writer in self._writers],
                [writer.replacement for writer in self._writers],
                in_place=self._request.options.in_place,
            )
        for writer in self._writers:
            writer.begin()

    def _has_fixed_names(self) -> bool:
        """Whether shards need their names at once, as the filesystem cannot rename, or as the index
        that is there is to be written in place.
        """
        request = self._request
        if request.shard_bytes is None:
            return False
        in_place = request.options.in_place and is_there(request.path / folder.INDEX)
        return in_place or not all(writer.replacement.renames for writer in self._writers)

    def _clean_up(self) -> None:
        if self._request.shard_bytes is None:
            remove_leftovers(self._request.path)
        else:
            folder.clean_up(self._request.path)

    def _commit(self) -> None:
        request = self._request
        sources = [writer.layout.sources for writer in self._writers]
        replacements = [writer.replacement for writer in self._writers]
        if self._fixed_names:
            self._shortfalls = folder.commit_with_names(
                request.path, sources, replacements, self._index, durable=request.durable
            )
        elif request.shard_bytes is not None:
            self._shortfalls = folder.commit(
                request.path, sources, replacements, durable=request.durable
            )
        else:
            (replacement,) = replacements
            replacement.link()
            replacement.rename()
            if request.durable:
                replacement.sync_name()

    def _tell(self, reasons: Sequence[str]) -> None:
        request, report = self._request, self._request.report
        for writer in self._writers:
            report.add_saved(writer.statistics)
            report.note(writer.replacement.shortfalls)
        report.note(self._shortfalls)
        report.cache_reason = "; ".join(dict.fromkeys(reasons))
        report.tensors, report.files = len(request.sources.names), len(self._writers)
        if request.shard_bytes is not None:
            report.fallbacks += tuple(
                f"{name} has {nbytes} bytes, more than shard_bytes: it has a shard of its own"
                for name, nbytes in zip(
                    request.sources.names, request.sources.nbytes.tolist(), strict=True
                )
                if nbytes > request.shard_bytes
            )
        begun, cpu_begun = request.begun
        ended, cpu_ended = clocks()
        report.seconds, report.cpu_seconds = ended - begun, cpu_ended - cpu_begun
        _log.info("saved %s: %s", request.path, report)


def run_now(request: Request) -> None:
    """Save, when it is the turn of this save, and return when it is done.

    Raises
    ------
    FormatError, WriteError, MemoryLimitError, MemoryError
        As `fastio.save` has them.
    """
    with Turn(request.path):
        work = SaveWork(request)
        try:
            work.run(lambda: None)
        except BaseException:
            request.report.clear()
            raise
        finally:
            work.discard()


def _check_fits(nbytes: int, limit_bytes: int | None) -> None:
    """Refuse a copy that would not fit, before it is begun."""
    if limit_bytes is not None and nbytes > limit_bytes:
        raise MemoryLimitError(nbytes, limit_bytes)
    available = available_bytes()
    if available is not None and nbytes > available:
        raise MemoryLimitError(nbytes, available)


def clocks() -> tuple[float, float]:
    """Return wall-clock and processor time, in seconds."""
    return time.perf_counter(), time.process_time()


def path_of(path: str | os.PathLike[str]) -> Path:
    """Return a path as it was given.

    Raises
    ------
    TypeError
        If it is none.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or os.PathLike, not {type(path).__name__}")
    return Path(os.fsdecode(path))


def file_path_of(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file as it was given.

    Raises
    ------
    TypeError
        If it is no path.
    WriteError
        If it ends as only that of a folder does.
    """
    found = path_of(path)
    if os.fsdecode(path).endswith(os.sep):
        raise WriteError(
            errno.EISDIR, "open", found, detail="it ends as a folder's does; shard_bytes makes one"
        )
    return found
