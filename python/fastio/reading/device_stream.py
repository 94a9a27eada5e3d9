"""Tensors of a source one after another on their devices: a row of loads in a window of memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from fastio.frameworks import Framework
from fastio.options import Options
from fastio.reading import fetch
from fastio.reading.devices import Choose, DeviceLoad
from fastio.reading.located import LocatedSource
from fastio.reading.tally import Tally


def in_file_order(
    located: LocatedSource,
    framework: Framework,
    choose: Choose,
    *,
    verify: bool,
    options: Options,
    window_bytes: int,
    tally: Tally,
) -> Iterator[tuple[str, Any]]:
    """Yield every tensor with its name, on its device, read ahead within a window of its memory.

    Raises
    ------
    ChecksumError, DeviceError, MemoryError, MemoryLimitError, ReadError, ReplicaError
        As `fastio.load` does, when the iteration comes to what is damaged.
    """

    def begin(part: LocatedSource) -> DeviceLoad:
        return DeviceLoad(part, framework, choose, verify=verify, options=options)

    def take(load: DeviceLoad) -> dict[str, Any]:
        with tally.job():
            load.wait()
        tally.count(load.statistics)
        return load.tensors()

    limit = options.device_memory_limit_bytes
    window_bytes = min(window_bytes, window_bytes if limit is None else limit)
    parts = _parts(located, max(window_bytes // 4, 1))
    coming = next(parts, None)
    waiting: list[tuple[_Part, DeviceLoad]] = []
    taken_bytes = 0  # of the part before: its last tensor may still be held
    while True:
        # Two are read while another one is taken; one, where it fills the window alone.
        while coming is not None and len(waiting) < 2:
            held = taken_bytes + sum(part.nbytes for part, _ in waiting)
            if waiting and held + coming.nbytes > window_bytes:
                break
            waiting.append((coming, begin(coming.located)))
            coming = next(parts, None)
        if not waiting:
            return
        part, load = waiting.pop(0)
        taken_bytes = part.nbytes
        try:
            tensors = take(load)
        except fetch.DATA_ERRORS:  # earlier tensors are not damaged
            waiting.clear()
            del load
            for name in part.located:
                yield from take(begin(part.located.select([name]))).items()
            raise
        del load
        for name in part.located:
            yield name, tensors.pop(name)


class _Part(NamedTuple):
    located: LocatedSource
    nbytes: int


def _parts(located: LocatedSource, nbytes: int) -> Iterator[_Part]:
    """A source, some tensors at a time: of so many bytes, or one."""
    names: list[str] = []
    taken = 0
    for name in located:
        size = located.info(name).nbytes
        if names and taken + size > nbytes:
            yield _Part(located.select(names), taken)
            names, taken = [], 0
        names.append(name)
        taken += size
    if names:
        yield _Part(located.select(names), taken)
