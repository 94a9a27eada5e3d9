"""How many lanes does a load to host memory want on a machine with many cores?

Loads a sealed model with each number of lanes, and with lanes that grow from two to the largest of
them; cold past the page cache, and warm from it. The bare reader (native/read_limit.cc) reads the
same file in between. Mirrored rounds go on until the time ends. One row has fastio's default
number of lanes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.errors import MeasureError
from bench.measure import bare_reader, cache, machine
from bench.measure.guest_memory import Ballast
from bench.measure.rounds import rounds_until
from bench.measure.settings import Settings
from bench.measure.statistics import median
from bench.report import tables
from bench.report.results import write
from bench.suites import gpu_trace
from bench.suites.campaign.files import Files

LANES = (1, 2, 4, 8, 16)
# The fastest of the bare reader's settings is the limit.
READERS = (Settings(block_mib=8, depth=8, jobs=2), Settings(block_mib=8, depth=8, jobs=8))
ROUNDS_MAX = 8
LANES_AT_FIRST = 2  # of a load that adds some
# The cold loads' share of the time.
COLD_SHARE = 0.7


def lanes_to_try(cores: int) -> list[int]:
    """Return the measured numbers of lanes: at most the cores, at least two."""
    return [lanes for lanes in LANES if lanes <= max(2, cores)]


def default_lanes() -> int:
    """Return fastio's default number of lanes here.

    Raises
    ------
    ImportError
        fastio is not installed.
    """
    import fastio

    return int(fastio.Options().lanes)


class Rows:
    """The ways to read one file, with the seconds of each, cold and warm."""

    def __init__(self, path: Path, ballast: Ballast, lanes: Sequence[int]) -> None:
        self._path = path
        self._ballast = ballast
        self._nbytes = path.stat().st_size
        self.cold: dict[str, list[float]] = {}
        self.warm: dict[str, list[float]] = {}
        self._loads = {f"lanes {count}": {"lanes": count} for count in lanes}
        if (limit := max(lanes)) > LANES_AT_FIRST:
            growing = {"lanes": LANES_AT_FIRST, "lanes_limit": limit}
            self._loads[f"lanes that grow from {LANES_AT_FIRST} to {limit}"] = growing
        self._reads = {f"bare reader, {each.jobs} threads": each for each in READERS}

    def measure(self, state: str, deadline: float) -> Iterator[None]:
        """Measure each way in mirrored rounds, and yield after each round.

        Raises
        ------
        MeasureError, CacheError, FastioError
            File or memory could not be prepared, or a read failed.
        """
        rows = self.cold if state == "cold" else self.warm
        # The bare reader bypasses the page cache, so it has no warm figures.
        names = [*self._loads, *(self._reads if state == "cold" else ())]
        for order in rounds_until(names, ROUNDS_MAX, deadline, at_least=1):
            taken = {name: self._seconds(name, cold=state == "cold") for name in order}
            for name, seconds in taken.items():
                rows.setdefault(name, []).append(round(seconds, 6))
            yield

    def _seconds(self, name: str, *, cold: bool) -> float:
        if name in self._reads:
            cache.evict(self._path)
            return self._nbytes / bare_reader.read(self._path, self._reads[name])["bytes_per_s"]
        found = gpu_trace.load(
            self._path,
            self._ballast,
            cold=cold,
            settings={**self._loads[name], "mapping": "never"},
            device=None,
        )
        return float(found["seconds"])


def lines(found: dict[str, Any]) -> list[str]:
    """Return the rows as text, in the order of measurement."""
    told = []
    for state in ("cold", "warm"):
        rows = found[state]
        if not rows:
            continue
        told.append(f"host memory, {state}, {len(next(iter(rows.values())))} rounds:")
        for name, seconds in rows.items():
            mark = ", the default" if name == f"lanes {found['default_lanes']}" else ""
            speed = found["file_bytes"] / median(seconds) / 1e9
            told.append(f"  {name}{mark}: {tables.seconds(median(seconds))}, {speed:.2f} GB/s")
    return told


def main(arguments: Sequence[str]) -> int:
    """Measure, write and print; return 2 if the bare reader is missing."""
    asked = gpu_trace.parser_of("host-lanes", __doc__, 120.0).parse_args(arguments)
    began = time.monotonic()
    if reason := bare_reader.missing():
        print(f"bench host-lanes: {reason}", file=sys.stderr)
        return 2
    asked.dir.mkdir(parents=True, exist_ok=True)
    files = Files(asked.dir, print)
    try:
        path = files.get(asked.model)
        with Ballast(path.stat().st_size) as ballast:
            rows = Rows(path, ballast, lanes_to_try(len(os.sched_getaffinity(0))))
            document = {
                "machine": machine.describe(asked.dir),
                "versions": machine.versions(),
                "model": asked.model,
                "file_bytes": path.stat().st_size,
                "default_lanes": default_lanes(),
                "cold": rows.cold,
                "warm": rows.warm,
            }
            for state, share in (("cold", COLD_SHARE), ("warm", 1.0)):
                for _ in rows.measure(state, began + share * asked.limit_s):
                    write(asked.out, document)
    except MeasureError as error:
        print(f"bench host-lanes: {error}", file=sys.stderr)
        return 1
    finally:
        if not asked.keep:
            files.remove()
    print(*lines(document), sep="\n")
    return 0
