"""What most users ever call: load, open, load_into."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection
from typing import Any, Literal

from fastio import fetch
from fastio.fill import load_into
from fastio.formats import huggingface
from fastio.frameworks import check_dtypes
from fastio.frameworks import framework as framework_named
from fastio.loading import check_kind, check_verify, describe, progress_bar, wrapped
from fastio.options import Options
from fastio.reader import open
from fastio.report import Report

__all__ = ["load", "load_into", "open"]

_log = logging.getLogger("fastio")


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
    held_by = framework_named(framework)
    check_verify(verify)
    check_kind("options", options, Options)
    check_kind("report", report, Report)
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
        check_dtypes(wanted, held_by)
        if verify == "require":
            fetch.require_tables(wanted)
        describe(report, wanted, verified=bool(verify))
        with progress_bar(catalog.source, shown=progress) as advance:
            loaded = fetch.read(wanted, verify=bool(verify), options=options, progress=advance)
        report.take(loaded.statistics)
        tensors = wrapped(wanted, loaded, held_by)
        if names is not None:
            tensors = {str(name): tensors[name] for name in names}
        report.seconds = time.perf_counter() - started
        report.cpu_seconds = time.process_time() - cpu_started
    except BaseException:
        report.clear()
        raise
    _log.info("loaded %s: %s", catalog.source, report)
    return tensors
