"""A whole save, in steps that may be taken now or on another thread: planned, copied, written, put
in place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastio.errors import MemoryLimitError, WriteError
from fastio.events import brief
from fastio.host_memory import available_bytes
from fastio.loading import shifted
from fastio.options import Options
from fastio.progress import progress_bar
from fastio.replacement import remove_leftovers, status_of_file, sync_folder
from fastio.report import Report
from fastio.saving import folder
from fastio.saving.sources import Sources
from fastio.saving.turns import Turn
from fastio.saving.writing import FileWriter, Layout, lay_out
from fastio.shown import listed

_LARGER_SHOWN_MAX = 3  # tensors that the report names, as they have a shard of their own


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
        if request.shard_bytes is None:
            shards = [request.sources]
            status_of_file(request.path)  # refuses what is no file
            self._paths = [request.path]
        else:
            shards = folder.partition(request.order, request.sources, request.shard_bytes)
            folder.make(request.path, durable=request.durable)
            self._paths = folder.provisional_paths(request.path, len(shards))
        layouts = [
            lay_out(shard, path, request.metadata, chunk_bytes=request.chunk_bytes)
            for shard, path in zip(shards, self._paths, strict=True)
        ]
        try:
            for path, layout in zip(self._paths, layouts, strict=True):
                self._open(path, layout)
        except BaseException:
            self.discard()
            raise

    def _open(self, path: Path, layout: Layout) -> None:
        sharded = self._request.shard_bytes is not None
        written_as = self._request.path / folder.SINGLE if sharded else path
        writer = FileWriter(path, layout, self._request.options, written_as=written_as)
        self._files.callback(writer.discard)
        self._writers.append(writer)

    def discard(self) -> None:
        """Close the files; of those that did not take their place nothing is left."""
        self._files.close()

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
        with brief(str(self._request.path)):
            self._run(release)

    def _run(self, release: Callable[[], None]) -> None:
        request = self._request
        self._clean_up()
        for writer in self._writers:
            writer.reserve()
        ways = []
        total, before = request.sources.data_bytes, 0
        with progress_bar(str(request.path), total, shown=request.progress) as advance:
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

    def _clean_up(self) -> None:
        if self._request.shard_bytes is None:
            remove_leftovers(self._request.path)
        else:
            folder.clean_up(self._request.path)

    def _commit(self) -> None:
        request = self._request
        if request.shard_bytes is not None:
            folder.commit(
                request.path,
                [writer.layout.sources for writer in self._writers],
                [writer.replacement for writer in self._writers],
                durable=request.durable,
            )
            return
        (writer,) = self._writers
        writer.replacement.link()
        writer.replacement.rename()
        if request.durable:
            sync_folder(request.path.parent, blamed=request.path)

    def _tell(self, reasons: Sequence[str]) -> None:
        request, report = self._request, self._request.report
        for writer in self._writers:
            report.add_saved(writer.statistics)
        report.cache_reason = "; ".join(dict.fromkeys(reasons))
        report.tensors, report.files = len(request.sources.names), len(self._writers)
        report.fallbacks += _larger(request)
        begun, cpu_begun = request.begun
        ended, cpu_ended = clocks()
        report.seconds, report.cpu_seconds = ended - begun, cpu_ended - cpu_begun
        report.log("saved %s", request.path)


def _larger(request: Request) -> tuple[str, ...]:
    """The tensors that do not fit into a shard, in one line."""
    most = request.shard_bytes
    names = request.sources.names
    larger = [
        f"{name} has {nbytes} bytes"
        for name, nbytes in zip(names, request.sources.nbytes.tolist(), strict=True)
        if most is not None and nbytes > most
    ]
    if not larger:
        return ()
    each = "it has" if len(larger) == 1 else "each has"
    told = ", ".join(listed(larger, _LARGER_SHOWN_MAX))
    return (f"{told}, more than shard_bytes: {each} a shard of its own",)


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
