"""A whole save, in steps that may be taken now or on another thread: planned, copied, written, put
in place.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from fastio.display.progress import progress_bar, shifted
from fastio.display.short_log import brief
from fastio.display.values import listed
from fastio.errors import MemoryLimitError, WriteError
from fastio.host import folders
from fastio.host.descriptors import make_room
from fastio.host.in_place import is_there
from fastio.host.leftovers import remove_leftovers
from fastio.host.memory import available_bytes
from fastio.host.replacement import Replacement, status_of_file
from fastio.host.shortage import memory_named
from fastio.options import Options
from fastio.report import Report
from fastio.saving import folder
from fastio.saving.origins import Origins
from fastio.saving.turns import Turn, key_of
from fastio.saving.uninterrupted import UninterruptedStep
from fastio.saving.writing import FileWriter, Layout, Writer, lay_out, open_file

_LARGER_SHOWN_MAX = 3  # tensors that the report names, as they have a shard of their own

# How long a change of a folder may hold up whoever presses Ctrl-C; its disk may hang.
_PATIENCE_S = 0.03


def clocks() -> tuple[float, float]:
    """Return wall-clock and processor time, in seconds."""
    return time.perf_counter(), time.process_time()


class Request(msgspec.Struct, frozen=True):
    """The tensors to save, and how; all checked.

    Attributes
    ----------
    path : pathlib.Path
        The file, or the folder where there are shards; as `fastio.saving.target` anchors it.
    origins : Origins
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
    makes_folders : bool
        Whether folders that are missing on the way to `path` are made.
    writer : callable
        Makes the writer of a file, which is open then, from its layout and the options.
    """

    path: Path
    origins: Origins
    order: Sequence[str]
    metadata: dict[str, str] | None
    shard_bytes: int | None
    chunk_bytes: int | None
    durable: bool
    options: Options
    progress: bool = False
    report: Report = msgspec.field(default_factory=Report)
    begun: tuple[float, float] = msgspec.field(default_factory=clocks)
    makes_folders: bool = True
    writer: Callable[[Replacement, Layout, Options], Writer] = FileWriter

    def memory_named(self) -> contextlib.AbstractContextManager[None]:
        """Name the path where there is no memory for a step of the save."""
        return memory_named(
            str(self.path), lambda: f"a save of tensors of {self.origins.data_bytes} bytes"
        )


class SaveWork:
    """A save, from when its files are open; `discard` closes them.

    Raises
    ------
    FormatError, WriteError, MemoryLimitError
        As `fastio.save` has them.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._files = contextlib.ExitStack()
        # Of a save that does not begin to write, no folder is left.
        self._files.callback(lambda: folders.remove(self._made))
        self._files.callback(self._close_index)  # after the shards that it names
        self._writers: list[Writer] = []
        self._index: Replacement | None = None
        self._made: list[Path] = []
        self._fixed_names = False
        self._shortfalls: list[str] = []
        if request.shard_bytes is None:
            shards = [request.origins]
            self._paths = [request.path]
        else:
            shards = folder.partition(request.order, request.origins, request.shard_bytes)
            self._paths = folder.provisional_paths(request.path, len(shards))
        if len(shards) > 1:
            make_room(3 * len(shards), str(request.path))
        missing = self._missing_folders()
        like = None
        if request.shard_bytes is None:
            status_of_file(request.path)  # refuses what is no file
        else:
            like = folder.predecessor(request.path)
        layouts = [
            lay_out(shard, path, request.metadata, chunk_bytes=request.chunk_bytes)
            for shard, path in zip(shards, self._paths, strict=True)
        ]
        try:
            self._make_folders(missing)
            for path, layout in zip(self._paths, layouts, strict=True):
                self._open(path, layout, like)
            if request.shard_bytes is not None:
                # OpenStore now: its mode is what the umask of the call leaves.
                self._index = folder.new_index(request.path)
        except BaseException:
            self.close()
            raise

    def _missing_folders(self) -> list[Path]:
        request = self._request
        needed = request.path if request.shard_bytes is not None else request.path.parent
        found = folders.missing(needed, blamed=request.path)
        if found and not request.makes_folders:
            detail = f"the folder {found[0]} is missing"
            raise WriteError(errno.ENOENT, "open", request.path, detail=detail)
        return found

    def _make_folders(self, missing: Sequence[Path]) -> None:
        request = self._request
        self._made = folders.make(missing, durable=request.durable, blamed=request.path)

    def _open(self, path: Path, layout: Layout, like: Path | None) -> None:
        sharded = self._request.shard_bytes is not None
        written_as = self._request.path / folder.SINGLE if sharded else path
        options = self._request.options
        file = open_file(path, options, written_as=written_as, like=like)
        writer = self._request.writer(file, layout, options)
        self._files.callback(writer.close)
        self._writers.append(writer)

    def _close_index(self) -> None:
        index, self._index = self._index, None
        if index is not None:
            index.close()

    def close(self) -> None:
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
        _check_fits(request.origins.data_bytes, limit)
        for writer in self._writers:
            assert isinstance(writer, FileWriter)
            writer.take_snapshot()

    def run(self, turn: Turn, release: Callable[[], None]) -> None:
        """Write everything and put it in place.

        Parameters
        ----------
        turn : Turn
            The turn of this save, which it has.
        release : callable
            Called when the tensors are not looked at any more.

        Raises
        ------
        WriteError, MemoryLimitError, MemoryError
            As `fastio.save` has them.
        """
        with brief(str(self._request.path)):
            self._run(turn, release)

    def _run(self, turn: Turn, release: Callable[[], None]) -> None:
        request = self._request
        self._made = []
        self._clean_up(turn)
        self._begin(turn)
        modes = []
        total, before = request.origins.data_bytes, 0
        with progress_bar(str(request.path), total, shown=request.progress) as advance:
            for writer in self._writers:
                modes.append(
                    writer.write_data(
                        durable=request.durable, progress=shifted(advance, before, total)
                    )
                )
                before += writer.layout.origins.data_bytes
                if writer is self._writers[-1]:
                    release()
                writer.finish(durable=request.durable)
        # A save that a signal handler began meanwhile, in the background, is before this one.
        turn.wait()
        self._commit(turn)
        self._tell([mode.reason for mode in modes])

    def _begin(self, turn: Turn) -> None:
        for writer in self._writers:
            writer.reserve()
        self._fixed_names = self._has_fixed_names()
        turn.exposed = self._fixed_names or any(
            writer.replacement.is_at_its_place for writer in self._writers
        )
        if self._fixed_names:
            self._change_folder(turn, self._fix_names)
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

    def _clean_up(self, turn: Turn) -> None:
        path = self._request.path
        if self._request.shard_bytes is None:
            remove_leftovers(path)
        else:
            self._change_folder(turn, lambda: folder.clean_up(path))

    def _commit(self, turn: Turn) -> None:
        if self._request.shard_bytes is not None:
            self._change_folder(turn, self._commit_folder)
            return
        (writer,) = self._writers
        writer.replacement.link()
        writer.replacement.rename()
        if self._request.durable:
            writer.replacement.sync_name()

    def _fix_names(self) -> None:
        assert self._index is not None
        in_place = self._request.options.in_place
        if not folder.begin_with_names(self._index, *self._shards(), in_place=in_place):
            self._close_index()

    def _commit_folder(self) -> None:
        path, durable = self._request.path, self._request.durable
        if self._fixed_names:
            shortfalls = folder.commit_with_names(
                path, self._index, *self._shards(), durable=durable
            )
        else:
            index, self._index = self._index, None
            assert index is not None
            shortfalls = folder.commit(index, *self._shards(), durable=durable)
        self._shortfalls = shortfalls

    def _shards(self) -> tuple[list[Origins], list[Replacement]]:
        return (
            [writer.layout.origins for writer in self._writers],
            [writer.replacement for writer in self._writers],
        )

    def _change_folder(self, turn: Turn, change: Callable[[], None]) -> None:
        """Change a folder as a whole: a save in a signal handler finds it before or behind."""

        def take() -> None:
            with turn.lent():
                change()

        step = UninterruptedStep(take, f"fastio.save {self._request.path.name}")
        try:
            step.run(patience_s=_PATIENCE_S)
        except BaseException:
            step.when_over(self._files.pop_all().close)  # it may still need the files
            raise

    def _tell(self, reasons: Sequence[str]) -> None:
        request, report = self._request, self._request.report
        for writer in self._writers:
            report.add_saved(writer.statistics)
            report.fall_back(writer.replacement.shortfalls)
        report.fall_back(self._shortfalls)
        report.cache_reason = "; ".join(dict.fromkeys(reasons))
        report.tensors, report.files = len(request.origins.names), len(self._writers)
        report.fallbacks += _larger(request)
        begun, cpu_begun = request.begun
        ended, cpu_ended = clocks()
        report.seconds, report.cpu_seconds = ended - begun, cpu_ended - cpu_begun
        report.log("saved %s", request.path)


def _larger(request: Request) -> tuple[str, ...]:
    """The tensors that do not fit into a shard, in one line."""
    most = request.shard_bytes
    names = request.origins.names
    larger = [
        f"{name} has {nbytes} bytes"
        for name, nbytes in zip(names, request.origins.nbytes.tolist(), strict=True)
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
    with Turn(key_of(request.path)) as turn, request.memory_named():
        work = SaveWork(request)
        try:
            work.run(turn, lambda: None)
        except BaseException:
            request.report.clear()
            raise
        finally:
            work.close()


def _check_fits(nbytes: int, limit_bytes: int | None) -> None:
    """Refuse a copy that would not fit, before it is begun."""
    if limit_bytes is not None and nbytes > limit_bytes:
        raise MemoryLimitError(nbytes, limit_bytes)
    available = available_bytes()
    if available is not None and nbytes > available:
        raise MemoryLimitError(nbytes, available)
