"""The common part of all loads: memory becomes tensors, and the report says how."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import fastio._native as _native
from fastio.catalog import Catalog
from fastio.display.progress import shifted
from fastio.errors import MemoryLimitError
from fastio.frameworks import Framework
from fastio.host import collector
from fastio.options import Options
from fastio.reading import encoded, fetch, small, split, stored
from fastio.reading.located import LocatedSource
from fastio.reading.tally import Tally
from fastio.report import Report


def wrapped(catalog: Catalog, loaded: _native.Loaded, framework: Framework) -> dict[str, Any]:
    """Return what was loaded as tensors by name; they own the memory then.

    Raises
    ------
    ValueError
        A dtype and shape that do not come to a tensor's bytes.
    """
    tensors: dict[str, Any] = {}
    with collector.CollectorPaused():
        for index, shard in enumerate(catalog.shards):
            made = framework.wrap(loaded, index, shard.dtypes, shard.shapes)
            tensors.update(zip(shard.names, made, strict=True))
    loaded.release()
    return tensors


def describe(report: Report, located: LocatedSource, *, verified: bool) -> None:
    """Say in a report what is loaded, and what of it is not verified.

    Raises
    ------
    Nothing.
    """
    shards = located.shards
    report.files = len({shard.path for shard in shards})
    report.tensors = len(located)
    report.unverified = tuple(
        dict.fromkeys(shard.path for shard in shards if not (shard.files.is_sealed and verified))
    )


def note_events(report: Report, located: LocatedSource) -> None:
    """Say in a report which replicas failed, and what was done about it.

    Raises
    ------
    Nothing.
    """
    if located.watch is None:
        return
    report.note(located.watch.events())
    if located.watch.on_damage == "repair":
        report.replicas_unread, copied_bytes = _other_replicas(located)
        nbytes = sum({shard.path: shard.files.nbytes for shard in located.shards}.values())
        report.bytes_unread = max(0, nbytes + copied_bytes - report.bytes_read)


def _other_replicas(located: LocatedSource) -> tuple[int, int]:
    """How many replicas the shards have beside the one that has to be read, and their bytes."""
    replicas = {
        shard.path: (len(shard.files.replicas) - 1, shard.files.nbytes) for shard in located.shards
    }
    return sum(n for n, _ in replicas.values()), sum(n * nbytes for n, nbytes in replicas.values())


@contextlib.contextmanager
def summed_up(located: LocatedSource) -> Iterator[None]:
    """When it ends, however it does, tell of bad replicas what was not told of them yet.

    Raises
    ------
    Nothing of its own.
    """
    try:
        yield
    finally:
        if located.watch is not None:
            located.watch.sum_up()


def bytes_of(located: LocatedSource) -> int:
    """Return how many bytes the tensors of a source have.

    Raises
    ------
    Nothing.
    """
    return sum(shard.nbytes() for shard in located.shards)


def read_all(
    located: LocatedSource,
    framework: Framework,
    *,
    verify: bool,
    options: Options,
    report: Report,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Return all tensors of a source, and count in the report what was read.

    Raises
    ------
    ChecksumError, MemoryError, MemoryLimitError, ReadError, ReplicaError
        As `fastio.load` has them.
    """
    fetch.check_held(located, framework)
    _check_limit(located, options)
    if not located.cuts and not stored.is_any(located.shards):
        found = small.tensors(
            located.shards, framework, verify=verify, options=options, report=report
        )
        if found is not None:
            if progress is not None:
                progress(report.nbytes, report.nbytes)
            return found
    total = bytes_of(located)
    tensors = _whole(
        located,
        framework,
        verify=verify,
        options=options,
        report=report,
        progress=progress if not located.cuts else shifted(progress, 0, total),
    )
    before = total - sum(cut.nbytes for cut in located.cuts.values())
    for name, cut in located.cuts.items():
        tensors[name], statistics = split.read(
            located,
            cut,
            framework,
            verify=verify,
            options=options,
            progress=shifted(progress, before, total),
        )
        before += cut.nbytes
        report.add(statistics)
    return tensors


def _whole(
    located: LocatedSource,
    framework: Framework,
    *,
    verify: bool,
    options: Options,
    report: Report,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """The tensors in one piece: read in one job, and decoded where they are encoded."""
    catalog = located.catalog
    if not stored.is_any(catalog.shards):
        loaded = fetch.read(
            located,
            catalog,
            verify=verify,
            options=options,
            progress=progress,
            mapping_room_bytes=located.mapping_room_bytes(options),
        )
        report.add(loaded.statistics)
        return wrapped(catalog, loaded, framework)
    tally = Tally()
    load = encoded.start_all(
        located, catalog, framework, verify=verify, options=options, tally=tally
    )
    tensors = dict(encoded.told(load, catalog, progress))
    report.merge(tally.report())
    return tensors


def _check_limit(located: LocatedSource, options: Options) -> None:
    """Refuse what does not fit, cut tensors included, before the first byte."""
    limit = options.memory_limit_bytes
    if limit is None or not located.cuts:
        return
    asked = bytes_of(located)
    if asked > limit:
        raise MemoryLimitError(asked, limit)
