"""save: tensors into a file that is whole, on the disk, and verifies itself; or not there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastio.arguments.checks import check_kind
from fastio.arguments.paths import AnyPath
from fastio.arguments.sizes import whole_number
from fastio.display.progress import import_progress_bar
from fastio.display.values import shown
from fastio.formats.checksums import FORMAT_OF_NONE, checked_chunk_bytes, without_own_keys
from fastio.frameworks.handed import check_path
from fastio.host.target import file_target, folder_target
from fastio.options import Options
from fastio.report import Report
from fastio.saving.durability import is_durable
from fastio.saving.job import Request, SaveWork, clocks, run_now
from fastio.saving.sources import checked_metadata, sources
from fastio.saving.turns import Turn, key_of

if TYPE_CHECKING:
    from fastio.saving.background import SaveHandle


def save(
    tensors: Mapping[str, Any],
    path: AnyPath,
    *,
    metadata: Mapping[str, str] | None = None,
    shard_bytes: float | str | None = None,
    chunk_bytes: float | str | None = None,
    checksums: bool = True,
    durable: bool | None = None,
    options: Options | None = None,
    progress: bool = False,
    report: Report | None = None,
) -> Path:
    """Save tensors as a safetensors file that carries checksums, or as a folder of them.

    The file is written beside its place and takes it in one durable step: at any moment, also after
    a power cut, there is the old file or the new one, whole. The new one takes over owner, group,
    mode and POSIX access list of the old one, as far as the user may give files away. A symlink is
    replaced, not followed. A save that fails leaves the old file. A save does without a call that
    the filesystem lacks, and the report names it.

    Parameters
    ----------
    tensors : mapping of str to numpy.ndarray or torch.Tensor
        Of any layout in memory. Those on a GPU are read through pinned memory. Tensors that share
        memory are saved each on its own.
    path : path
        The file; with `shard_bytes` the folder. As `fastio.load` takes it: it may begin with ``~``
        or be a ``file:///`` address. Folders that are missing on the way are made. A relative path
        is that of the call, wherever the process goes meanwhile.
    metadata : mapping of str to str, optional
        Stored in the header. Keys that begin with ``fastio.`` are left out; ``format`` is added
        as ``pt``, unless it is there: loaders of models refuse a file with metadata and without it.
    shard_bytes : int or str, optional
        Save a folder in the layout of Hugging Face: files with tensors of so many bytes at most
        ("5GB" is 5 * 10**9, as in `Options`), in the order of `tensors`, and
        ``model.safetensors.index.json``. A larger tensor has a file of its own, and the report says
        so. What the folder held as a checkpoint before is replaced in one step, too; its other
        files stay.
    chunk_bytes : int or str, optional
        Bytes that get a checksum, a power of two from 64 KiB to 16 MiB. Default 1 MiB; more where
        the header would be too long.
    checksums : bool
        Without them the file is an ordinary one, and nothing can be verified.
    durable : bool, optional
        Return when the data is on the disk. With False the file takes its place as soon as the
        kernel has it: after a power cut it may be damaged, which the checksums show when it is
        loaded. Default: what the variable ``FASTIO_DURABLE`` says, or else True.
    options : Options, optional
        How it is done: `engine`, `lanes`, `queue_depth`, `block_bytes` and `huge_pages` as in a
        load; `cache`: ``bypass`` writes with O_DIRECT, ``keep`` through the page cache, ``auto``
        with O_DIRECT unless a trial on a large file shows that to be slower on this filesystem;
        `memory_limit_bytes` bounds what is taken beside the tensors; `in_place` writes into the
        file that is there.
    progress : bool
        Show a progress bar.
    report : Report, optional
        Filled with what was done, how fast, and why so.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    TypeError
        A name that is no str, something that is no tensor, metadata that is not str to str.
    DtypeError
        A dtype that no file can hold: names the tensor.
    ValueError
        An argument that is none of the above; names that cannot be written, an empty path
        (`UsageError`).
    FormatError
        A header that would be longer than the format allows.
    WriteError
        A system call that failed: errno, operation, path, offset. A full disk is met before the
        first byte is written, where the filesystem can say so. A path that no file can take: a
        device, a pipe, a folder, or a symlink to a stream, such as ``/dev/stdout``. A file is there
        already, on a filesystem that cannot rename, and `in_place` is False.
    MemoryLimitError
        ``options.memory_limit_bytes`` is below one block; or a copy of the tensors would not fit,
        in it or in what the host has.
    MemoryError
        The system has no memory for a step: names the path.

    Notes
    -----
    Tensors should not change while they are saved. If they do, the file still verifies: a change is
    noticed, and the tensors are copied and written again; the log and the report say so. The file
    may then hold some values from before the change and others from after it. Without checksums
    nothing is noticed.
    Saves to one path come in the order in which they were asked for. Only a save that a signal
    handler begins while its own thread is saving to that path goes first. It is in place when it
    returns, also if the handler then ends the process. If the handler returns, the outer save goes
    on and takes the place in turn, unless it had it already.

    With `in_place` only one save at a time, of any process, writes into a file; another one is a
    WriteError (EBUSY). So is a save in a handler to what its own thread writes in place.

    A process that gives up its rights, or its view of the filesystem, imports before what it is to
    use: `fastio.SaveHandle` for `start_save`, `fastio.Store`, `fastio.torch` where PyTorch was
    not imported before fastio, ``rich.progress``.

    Examples
    --------
    >>> fastio.save({"weight": np.ones(3)}, "runs/7/model.safetensors")
    PosixPath('runs/7/model.safetensors')
    """
    request, given = _request(
        tensors,
        path,
        metadata,
        shard_bytes,
        chunk_bytes,
        checksums,
        durable,
        options,
        progress,
        report,
    )
    run_now(request)
    return given


def start_save(
    tensors: Mapping[str, Any],
    path: AnyPath,
    *,
    metadata: Mapping[str, str] | None = None,
    shard_bytes: float | str | None = None,
    chunk_bytes: float | str | None = None,
    checksums: bool = True,
    durable: bool | None = None,
    snapshot: Literal["copy", "borrow"] = "copy",
    options: Options | None = None,
    progress: bool = False,
    report: Report | None = None,
) -> SaveHandle:
    """Start to save tensors, and return while they are written.

    An invalid argument, or a path that cannot be written to, raises at the call. If no thread can
    be started, the save is done when this returns.

    Parameters
    ----------
    tensors, path, metadata, shard_bytes, chunk_bytes, checksums, durable, options, progress, report
        As `save` takes them.
    snapshot : {"copy", "borrow"}
        ``copy`` copies the tensors first, so that they may change as soon as this returns.
        ``borrow`` returns at once, and they must not change, nor their memory be freed or resized,
        before ``handle.wait_released()`` returns.

    Returns
    -------
    SaveHandle
        Its result is the absolute path.

    Raises
    ------
    As `save` does, for all that is found before the first byte is written.

    Examples
    --------
    >>> handle = fastio.start_save({"weight": np.ones(3)}, "model.safetensors")
    >>> handle.result().name
    'model.safetensors'
    """
    if snapshot not in ("copy", "borrow"):
        raise ValueError(f"snapshot={shown(snapshot)}: expected 'copy' or 'borrow'")
    request, _ = _request(
        tensors,
        path,
        metadata,
        shard_bytes,
        chunk_bytes,
        checksums,
        durable,
        options,
        progress,
        report,
    )
    return _start(request, copied=snapshot == "copy")


def _request(
    tensors: Mapping[str, Any],
    path: AnyPath,
    metadata: Mapping[str, str] | None,
    shard_bytes: float | str | None,
    chunk_bytes: float | str | None,
    checksums: bool,
    durable: bool | None,
    options: Options | None,
    progress: bool,
    report: Report | None,
) -> tuple[Request, Path]:
    """The checked request, and the path as it was given."""
    begun = clocks()
    check_path(path, "save")
    target = file_target(path) if shard_bytes is None else folder_target(path)
    check_kind("options", options, Options)
    check_kind("report", report, Report)
    shard_bytes = _checked_size("shard_bytes", shard_bytes)
    chunk_bytes = checked_chunk_bytes(_checked_size("chunk_bytes", chunk_bytes))
    laid_out = sources(tensors)
    stored = FORMAT_OF_NONE | without_own_keys(checked_metadata(metadata) or {})
    if report is None:
        report = Report()
    report.clear()
    request = Request(
        path=target.path,
        sources=laid_out,
        order=list(tensors),
        metadata=stored,
        shard_bytes=shard_bytes,
        chunk_bytes=chunk_bytes if checksums else None,
        durable=is_durable(durable),
        options=options if options is not None else Options(),
        progress=progress,
        report=report,
        begun=begun,
    )
    return request, target.given


def _start(request: Request, *, copied: bool) -> SaveHandle:
    from fastio.saving import background  # concurrent.futures takes longer to import than most need

    if request.progress:
        import_progress_bar()
    with request.memory_named():
        work = SaveWork(request)
    turn = Turn(key_of(request.path))

    def discard() -> None:
        turn.leave()
        work.discard()

    def run(handle: SaveHandle) -> None:
        try:
            turn.wait()
            with request.memory_named():
                if handle.set_running_or_notify_cancel():
                    work.run(turn, handle.release)
        except BaseException:
            request.report.clear()
            raise
        finally:
            discard()

    try:
        turn.take()
        if copied:
            with request.memory_named():
                work.take_snapshot()
    except BaseException:
        discard()
        raise
    handle = background.start(request.path, turn, run, discard)
    if copied:
        handle.release()
    return handle


def _checked_size(what: str, value: Any) -> int | None:
    if value is None:
        return None
    size = whole_number(what, value)
    if size < 1:
        raise ValueError(f"{what}={size}: expected at least 1")
    return size
