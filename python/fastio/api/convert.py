"""convert: the tensors of any source, streamed into safetensors files in bounded memory."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from fastio.arguments.checks import check_kind
from fastio.arguments.paths import AnyPath, Source
from fastio.arguments.sizes import whole_number
from fastio.display.values import shown
from fastio.errors import UsageError
from fastio.locate import locate_again
from fastio.options import Options
from fastio.reading.reader import Reader
from fastio.report import Report
from fastio.saving.converted import CASTS, OTHER_ENDINGS, Rename, Taken
from fastio.saving.durability import is_durable
from fastio.saving.job import clocks
from fastio.saving.target import file_target, folder_target


def convert(
    source: Source,
    path: AnyPath,
    *,
    names: Collection[str] | None = None,
    rename: Rename = None,
    dtype: str | None = None,
    shard_bytes: float | str | None = None,
    durable: bool | None = None,
    options: Options | None = None,
    progress: bool = False,
    report: Report | None = None,
) -> Path:
    """Write the tensors of a source of any format to sealed safetensors files.

    Tensors are streamed: 256 MiB of memory are enough for any size, and for decoded tensors as much
    as the largest one. Metadata are kept. The new file is durable, and takes its place whole, as
    that of `fastio.save` does.

    Parameters
    ----------
    source : path or collection of paths
        As `fastio.load` takes it. It may be the file that is replaced.
    path : path
        The file; with `shard_bytes` the folder.
    names : collection of str, optional
        Only these tensors.
    rename : mapping of str to str, or callable, optional
        The new name of a tensor, by its old one. A mapping keeps the names that it lacks.
    dtype : {"F64", "F32", "F16", "BF16"}, optional
        What tensors of these four dtypes become; all others stay as they are. Values are rounded to
        the nearest.
    shard_bytes : int or str, optional
        As `fastio.save` takes it.
    durable : bool, optional
        As `fastio.save` takes it.
    options, progress, report
        As `fastio.save` takes them. `options` are those of the reading, too.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    ChecksumError, FileNotFoundError, FormatError, ReadError
        As `fastio.load` does; nothing is changed then.
    DtypeError
        A dtype that numpy does not hold.
    TensorNotFoundError
        A name that the source lacks.
    UsageError
        Two tensors would have one name; a path that ends as a file of another format.
    ValueError
        Another `dtype`.
    MemoryError, WriteError
        As `fastio.save` does.

    Examples
    --------
    >>> fastio.convert("model.safetensors", "half.safetensors", dtype="F16", rename={"bias": "b"})
    PosixPath('half.safetensors')
    >>> {name: str(array.dtype) for name, array in fastio.load("half.safetensors").items()}
    {'b': 'float16', 'weight': 'float16'}
    """
    begun = clocks()
    check_kind("options", options, Options)
    check_kind("report", report, Report)
    if dtype is not None and dtype not in CASTS:
        raise ValueError(f"dtype={shown(dtype)}: expected one of {', '.join(CASTS)}")
    size = None if shard_bytes is None else max(whole_number("shard_bytes", shard_bytes), 1)
    target = file_target(path) if size is None else folder_target(path)
    if target.path.name.lower().endswith(OTHER_ENDINGS):
        problem = f"{target.path} ends as a file of another format"
        raise UsageError(f"{problem}: convert writes safetensors files")
    report = report if report is not None else Report()
    report.clear()
    with Reader(partial(locate_again, source), options=options) as reader:
        taken = Taken(reader, names, rename, dtype)
        taken.write(
            target.path,
            shard_bytes=size,
            durable=is_durable(durable),
            options=options if options is not None else Options(),
            progress=progress,
            report=report,
            begun=begun,
        )
        report.note_decoded(reader.report.decoded)
    return target.given
