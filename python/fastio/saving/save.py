"""save and start_save: tensors become a durable file that verifies itself, or nothing changes."""

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
from fastio.options import Options
from fastio.report import Report
from fastio.saving.durability import is_durable
from fastio.saving.job import Request, SaveWork, clocks, run_now
from fastio.saving.origins import checked_metadata, origins_of
from fastio.saving.target import file_target, folder_target
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
    """Save tensors as a safetensors file with checksums, or as a folder of such files.

    The file is written beside its place and replaces the old one in one durable step: at any
    moment, also after a power cut, the path holds the old file or the new one. A failed save leaves
    the old file untouched. The new file keeps owner, group, mode and POSIX access list of the old
    one, as far as the user may set them. A symlink is replaced and not followed. A save works
    without calls that the filesystem lacks; the report names them.

    Parameters
    ----------
    tensors : mapping of str to numpy.ndarray or torch.Tensor
        Of any memory layout. Tensors on a GPU are read through pinned memory. Tensors that share
        memory are each saved on their own.
    path : path
        The file; with `shard_bytes` the folder. As `fastio.load` takes it: it may begin with ``~``
        or be a ``file:///`` address. Missing parent folders are created. A relative path is
        resolved at the call.
    metadata : mapping of str to str, optional
        Stored in the header, without keys that begin with ``fastio.``. ``format: pt`` is added if
        there is no ``format``: loaders of models refuse metadata without it.
    shard_bytes : int or str, optional
        Save a folder in the layout of Hugging Face: files with at most this many bytes of tensors
        ("5GB" is 5 * 10**9, as in `Options`), in the order of `tensors`, and
        ``model.safetensors.index.json``. A larger tensor gets a file of its own, and the report
        says so. An old checkpoint in the folder is replaced in one step; other files stay.
    chunk_bytes : int or str, optional
        Bytes of a checksum's chunk, a power of two from 64 KiB to 16 MiB. Default 1 MiB, and more
        if the header would be too long.
    checksums : bool
        Without them the file is an ordinary one, and cannot be verified.
    durable : bool, optional
        Return when the data is on the disk. With False, return when the kernel has it: after a
        power cut the file may be damaged, and a load says so. Default: the variable
        ``FASTIO_DURABLE``, or else True.
    options : Options, optional
        `engine`, `lanes`, `queue_depth`, `block_bytes` and `huge_pages` as in a load. `cache`:
        ``bypass`` writes with O_DIRECT, ``keep`` through the page cache, ``auto`` with O_DIRECT
        unless a trial on a large file shows that it is slower on this filesystem.
        `memory_limit_bytes` bounds the memory beside the tensors. `in_place` writes into the
        existing file.
    progress : bool
        Show a progress bar.
    report : Report, optional
        Filled with engine, speed, sealed chunks, and the reasons.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    TypeError
        A name that is no str, a value that is no tensor, metadata that is not str to str.
    DtypeError
        A dtype that no file can hold; names the tensor.
    ValueError
        An invalid argument; a name that cannot be written, an empty path (`UsageError`).
    FormatError
        A header longer than the format allows.
    WriteError
        A failed system call: errno, operation, path, offset. A full disk is found before the first
        byte is written, if the filesystem tells. A path that cannot be a file: a device, a pipe, a
        folder, or a symlink to a stream, such as ``/dev/stdout``. An existing file on a filesystem
        without rename, if `in_place` is False.
    MemoryLimitError
        ``options.memory_limit_bytes`` is below one block, or it or the host's memory is too small
        for a copy of the tensors.
    MemoryError
        The system has no memory for a step; names the path.

    Notes
    -----
    Tensors should not change while they are saved. If they do, the file still verifies: the change
    is noticed, and the tensors are copied and written again. The log and the report say so. The
    file may then mix values from before the change and after it. Without checksums, no change is
    noticed.

    Saves to one path run in the order of their calls, with one exception. A save in a signal
    handler goes first if its own thread is already saving to that path. Its file is in place when
    it returns, also if the handler then ends the process. If the handler returns, the outer save
    goes on, and its file takes the place in turn, unless it had it already.

    With `in_place`, one save at a time, of any process, writes into a file. Another one raises a
    WriteError (EBUSY), and so does a save in a handler of the thread that writes.

    A process that gives up its rights, or its view of the filesystem, must import earlier:
    `fastio.SaveHandle` for `start_save`, `fastio.Store`, `fastio.torch` if PyTorch was not imported
    before fastio, ``rich.progress``.

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
        ``copy`` copies the tensors before this returns; they may change afterwards. ``borrow``
        makes no copies: the tensors must not change, and their memory must not be freed or resized,
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
    laid_out = origins_of(tensors)
    stored = FORMAT_OF_NONE | without_own_keys(checked_metadata(metadata) or {})
    if report is None:
        report = Report()
    report.clear()
    request = Request(
        path=target.path,
        origins=laid_out,
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

    def release() -> None:
        turn.release()
        work.close()

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
            release()

    try:
        turn.take()
        if copied:
            with request.memory_named():
                work.take_snapshot()
    except BaseException:
        release()
        raise
    handle = background.start(request.path, turn, run, release)
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
