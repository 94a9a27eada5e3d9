"""What most users ever call: load."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from types import ModuleType
from typing import Any, Literal

from fastio import _native, collector
from fastio.catalog import Catalog, Shard
from fastio.errors import ChecksumError, FormatError, MemoryLimitError
from fastio.formats import huggingface
from fastio.options import Options
from fastio.report import Report

_log = logging.getLogger("fastio")

FRAMEWORKS = ("numpy", "torch")


def load(
    source: str | os.PathLike[str] | list[Any] | tuple[Any, ...],
    *,
    framework: str = "numpy",
    names: Collection[str] | None = None,
    verify: bool | Literal["require"] = True,
    options: Options | None = None,
    progress: bool = False,
    report: Report | None = None,
) -> dict[str, Any]:
    """Load tensors into memory, verified while they are read.

    Parameters
    ----------
    source : path or list of paths
        A ``.safetensors`` file, several of them, a Hugging Face folder or its
        ``*.safetensors.index.json``.
    framework : {"numpy", "torch"}
        What the tensors are. bf16, fp8 come as ml_dtypes in numpy; packed fp4 as uint8 of half the
        last axis.
    names : collection of str, optional
        Load only these; the result has them in this order. Default: all, in file order.
    verify : bool or "require"
        True compares the checksums of files that carry them (`fastio.seal` adds them) and says in
        the report which ones do not. "require" refuses such files. False reads only; a sealed
        file's header is checked all the same.
    options : Options, optional
        How it is done; the default fits most machines.
    progress : bool
        Show a progress bar.
    report : Report, optional
        Filled with what was done, how fast, and why so.

    Returns
    -------
    dict of str to array
        Each tensor owns its memory, writable, aligned for its dtype.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        The source is not there, or a shard that an index names; a folder in a list.
    FormatError
        A file that is not what it says: path, offset, what was expected. Also with
        ``verify="require"`` a file that carries no checksums, and a tensor whose name occurs in two
        files.
    ChecksumError
        Bytes that are not those that were saved: path, chunk, extent, tensors.
    ReadError
        A read that failed: errno, path, offset.
    TensorNotFoundError
        A name that no file has, with close matches.
    MemoryLimitError
        More bytes than ``options.memory_limit_bytes``; nothing was read.
    TypeError, ValueError
        An argument that is none of the above, or a dtype that the framework cannot hold.
    """
    wrapper = _framework_module(framework)
    if verify not in (True, False, "require"):
        raise ValueError(f"verify={verify!r}: expected True, False or 'require'")
    _check_kind("options", options, Options)
    _check_kind("report", report, Report)
    options = options if options is not None else Options()
    if report is None:
        report = Report()
    else:
        report.clear()
    if names is not None and not isinstance(names, (str, bytes)):
        names = tuple(names)
    try:
        started, cpu_started = time.perf_counter(), time.process_time()
        catalog = huggingface.locate(source, names)
        wanted = catalog if names is None else catalog.select(names)
        _check_dtypes(wanted, framework, wrapper)
        if verify == "require":
            _require_tables(wanted)
        _describe(report, wanted, verified=bool(verify))
        with _progress(catalog.source) if progress else contextlib.nullcontext() as advance:
            loaded = _read(wanted, bool(verify), options, advance)
        report.take(loaded.statistics)
        tensors = _wrapped(wanted, loaded, wrapper)
        if names is not None:
            tensors = {str(name): tensors[name] for name in names}
        report.seconds = time.perf_counter() - started
        report.cpu_seconds = time.process_time() - cpu_started
    except BaseException:
        report.clear()
        raise
    _log.info("loaded %s: %s", catalog.source, report)
    return tensors


def _check_kind(what: str, value: object, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{what} must be a fastio.{kind.__name__}, not {type(value).__name__}")


def _wrapped(catalog: Catalog, loaded: _native.Loaded, wrapper: ModuleType) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    with collector.Paused():
        for index, shard in enumerate(catalog.shards):
            wrapped = wrapper.wrap(loaded, index, shard.dtypes, shard.shapes)
            tensors.update(zip(shard.names, wrapped, strict=True))
    loaded.release()
    return tensors


def _framework_module(framework: str) -> ModuleType:
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework={framework!r}: expected one of {', '.join(FRAMEWORKS)}")
    return importlib.import_module(f"fastio.{framework}")


def _check_dtypes(catalog: Catalog, framework: str, wrapper: ModuleType) -> None:
    for shard in catalog.shards:
        unknown = set(shard.dtypes) - wrapper.DTYPES.keys()
        if unknown:
            name, dtype = next(
                (n, d) for n, d in zip(shard.names, shard.dtypes, strict=True) if d in unknown
            )
            raise TypeError(
                f"{shard.path}: tensor {name!r} has dtype {dtype}, which {framework} cannot hold"
            )
        if "F4" in shard.dtypes:
            _check_packed(shard, framework)


def _check_packed(shard: Shard, framework: str) -> None:
    """Refuse F4 whose rows do not end with a byte: frameworks hold pairs of its values."""
    for name, dtype, shape in zip(shard.names, shard.dtypes, shard.shapes, strict=True):
        if dtype == "F4" and shape[-1] % 2:
            raise TypeError(
                f"{shard.path}: tensor {name!r} has dtype F4 and shape {list(shape)}: its rows are "
                f"not whole bytes, which {framework} cannot hold"
            )


def _require_tables(catalog: Catalog) -> None:
    for shard in catalog.shards:
        if shard.table is None:
            raise FormatError(
                shard.path,
                "carries no checksums, and verify='require' was asked for",
                expected="a sealed file (fastio.seal makes one)",
            )


def _describe(report: Report, catalog: Catalog, *, verified: bool) -> None:
    report.files = len(catalog.shards)
    report.tensors = len(catalog)
    report.unverified = tuple(
        shard.path for shard in catalog.shards if shard.table is None or not verified
    )


def _read(
    catalog: Catalog, verify: bool, options: Options, advance: Callable[[int, int], None] | None
) -> _native.Loaded:
    requests = []
    for shard in catalog.shards:
        table = shard.table if verify else None
        native_table = None if table is None else (table.start, table.chunk_bytes, table.digests)
        requests.append((shard.file, shard.begins, shard.ends, native_table))
    try:
        return _native.load(
            requests,
            engine=options.engine,
            cache=options.cache,
            mapping=options.mapping,
            huge_pages=options.huge_pages,
            keep_cold=_others_will_read(sum(shard.file.nbytes for shard in catalog.shards)),
            block_bytes=options.block_bytes,
            queue_depth=options.queue_depth,
            lanes=options.lanes,
            memory_limit_bytes=options.memory_limit_bytes,
            progress=advance,
        )
    except ChecksumError as error:
        raise ChecksumError(
            error.path,
            chunk=error.chunk,
            offset=error.offset,
            nbytes=error.nbytes,
            expected=error.expected,
            found=error.found,
            tensors=[
                name
                for shard in catalog.shards
                if shard.path == error.path
                for name in shard.names_within(error.offset, error.nbytes)
            ],
        ) from None
    except MemoryLimitError:
        raise
    except MemoryError as error:
        nbytes = sum(int((shard.ends - shard.begins).sum()) for shard in catalog.shards)
        raise MemoryError(
            f"{catalog.source}: there is no memory for tensors of {nbytes} bytes"
        ) from error


def _others_will_read(nbytes: int) -> bool:
    """Whether other ranks of this host are about to read these bytes, and memory can keep them."""
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if not ranks.isdecimal() or int(ranks) <= 1:
        return False
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        available = next(
            (int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:")), 0
        )
    # The cache keeps one copy, each rank has one of its own.
    return nbytes * (1 + int(ranks)) < available


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar; call what is given with the bytes done and the bytes in all."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    name = os.path.basename(what) or what
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name.encode(errors="replace").decode(), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
