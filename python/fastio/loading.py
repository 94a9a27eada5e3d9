"""What every way to load shares: its arguments checked, its memory made tensors, its bar drawn."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal

from fastio import _native, collector
from fastio.catalog import Catalog
from fastio.frameworks import Framework
from fastio.report import Report

Verify = bool | Literal["require"]


def check_verify(verify: object) -> None:
    """Refuse what `verify=` cannot be.

    Raises
    ------
    ValueError
    """
    if verify not in (True, False, "require"):
        raise ValueError(f"verify={verify!r}: expected True, False or 'require'")


def check_kind(what: str, value: object, kind: type) -> None:
    """Refuse an argument that is neither None nor of its class.

    Raises
    ------
    TypeError
    """
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{what} must be a fastio.{kind.__name__}, not {type(value).__name__}")


def wrapped(catalog: Catalog, loaded: _native.Loaded, held_by: Framework) -> dict[str, Any]:
    """Return what was loaded as tensors by name; they own the memory then.

    Raises
    ------
    ValueError
        A dtype and shape that do not come to a tensor's bytes.
    """
    tensors: dict[str, Any] = {}
    with collector.Paused():
        for index, shard in enumerate(catalog.shards):
            made = held_by.wrap(loaded, index, shard.dtypes, shard.shapes)
            tensors.update(zip(shard.names, made, strict=True))
    loaded.release()
    return tensors


def describe(report: Report, catalog: Catalog, *, verified: bool) -> None:
    """Say in a report what is loaded, and what of it is not verified.

    Raises
    ------
    Nothing.
    """
    report.files = len(catalog.shards)
    report.tensors = len(catalog)
    report.unverified = tuple(
        shard.path for shard in catalog.shards if shard.table is None or not verified
    )


@contextlib.contextmanager
def progress_bar(what: str, *, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar, in a terminal or a notebook; call what is given with the bytes done and the
    bytes in all. None where it is not to be shown.

    Raises
    ------
    Nothing.
    """
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    console = Console(stderr=True)
    if console.is_jupyter:  # where standard error is shown as an error
        console = Console()
    name = os.path.basename(what) or what
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name.encode(errors="replace").decode(), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
