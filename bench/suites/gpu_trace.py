"""Where does the time of a load onto a GPU go, lane by lane, and which settings are the fastest?

Loads by default settings, cold and warm, give each lane's time of reads, verification, queued
copies and waits. Then block size, depth and lanes are swept in mirrored rounds until the time ends.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.contenders import gpu_loads
from bench.measure import cache, gpu, guest_memory, machine
from bench.measure.gpu import NoGpuError
from bench.measure.guest_memory import Ballast
from bench.measure.rounds import rounds_until
from bench.measure.statistics import median
from bench.paths import FILES
from bench.report import tables
from bench.report.results import write
from bench.suites.campaign.files import Files

MIB = 2**20
# Caches and cores bound a warm load, bytes in flight on the disk a cold one.
GRIDS: dict[str, dict[str, tuple[int, ...]]] = {
    "warm": {"block_mib": (1, 2, 4), "depth": (1, 2, 8), "lanes": (2, 8, 12, 16)},
    "cold": {"block_mib": (1, 4), "depth": (2, 8), "lanes": (2, 8, 16)},
}
# The warm sweep's share of the time; the cold one has the rest.
WARM_SHARE = 0.4
DEFAULT_ROUNDS = 4
PARTS = (
    *("submit_s", "read_wait_s", "verify_s", "place_s"),
    *("copy_queue_s", "copy_wait_s", "room_wait_s"),
)


def sweep(state: str, pinned_limit_bytes: int) -> list[dict[str, int]]:
    """Return the settings whose blocks in flight fit into the pinned memory."""
    cores = len(os.sched_getaffinity(0))
    return [
        {"block_bytes": block * MIB, "queue_depth": depth, "lanes": lanes}
        for block, depth, lanes in itertools.product(*GRIDS[state].values())
        if block * MIB * depth * lanes <= pinned_limit_bytes and lanes <= max(2, cores)
    ]


def load(
    path: Path, ballast: Ballast, *, cold: bool, settings: dict[str, Any], device: str | None
) -> dict[str, Any]:
    """Load a cold or warm file once, to a device or to host memory, and return the figures.

    Raises
    ------
    CacheError, MeasureError
        File or memory could not be prepared.
    FastioError
        The load failed.
    """
    import fastio

    gc.collect()
    if cold:
        cache.evict(path)
    else:
        cache.populate(path)
    ballast.free()
    report = fastio.Report()
    options = fastio.Options(**settings) if settings else None
    begin = time.perf_counter()
    tensors = fastio.load(path, framework="torch", device=device, options=options, report=report)
    if device is not None:
        gpu_loads.synchronize()
    seconds = time.perf_counter() - begin
    ballast.fill()
    del tensors
    return {
        "seconds": round(seconds, 6),
        "nbytes": report.nbytes,
        "engine": report.engine,
        "cache": report.cache,
        "lanes": [asdict(lane) for lane in report.lane_times],
    }


def trace(path: Path, ballast: Ballast, deadline: float) -> Iterator[dict[str, Any]]:
    """Load by default settings, then sweep; yield the results so far after each part.

    Parameters
    ----------
    path : Path
        A sealed file.
    ballast : Ballast
        Memory that is freed before each load.
    deadline : float
        On the clock of `time.monotonic`: no round of the sweep begins that would end after it.

    Raises
    ------
    CacheError, MeasureError, FastioError
        As `load` does.
    """
    # Pins memory, and does all else that happens once in a process.
    load(path, ballast, cold=False, settings={}, device=gpu.device())
    found: dict[str, Any] = {"default": {}, "sweep_warm": [], "sweep_cold": []}
    for state in ("cold", "warm"):
        found["default"][state] = [
            load(path, ballast, cold=state == "cold", settings={}, device=gpu.device())
            for _ in range(DEFAULT_ROUNDS)
        ]
    yield found
    begin = time.monotonic()
    warm_until = begin + WARM_SHARE * (deadline - begin)
    for state, until in (("warm", warm_until), ("cold", deadline)):
        for rows in swept(path, ballast, state, until):
            found[f"sweep_{state}"] = rows
            yield found


def swept(
    path: Path, ballast: Ballast, state: str, deadline: float
) -> Iterator[list[dict[str, Any]]]:
    """Load by each of the settings in turn; yield them with their seconds after each round.

    Raises
    ------
    CacheError, MeasureError, FastioError
        As `load` does.
    """
    import fastio

    # The first are the default settings.
    tried = [{}, *sweep(state, fastio.Options().pinned_limit_bytes)]
    rows: list[dict[str, Any]] = [{**settings, "seconds": []} for settings in tried]
    names = [str(index) for index in range(len(tried))]
    for order in rounds_until(names, 2 * DEFAULT_ROUNDS, deadline):
        # A round counts as a whole, so that all settings have as many loads.
        taken = {
            index: load(
                path, ballast, cold=state == "cold", settings=tried[index], device=gpu.device()
            )["seconds"]
            for index in map(int, order)
        }
        for index, seconds in taken.items():
            rows[index]["seconds"].append(seconds)
        yield rows


def named(row: dict[str, Any]) -> str:
    """Return the settings of a row in words."""
    if "block_bytes" not in row:
        return "by default"
    return (
        f"blocks of {row['block_bytes'] // MIB} MiB, depth {row['queue_depth']}, "
        f"lanes {row['lanes']}"
    )


def lines(found: dict[str, Any]) -> list[str]:
    """Return the trace as text: each lane's share of its time, and the settings, fastest first."""
    told = []
    for state, loads in found["default"].items():
        middle = sorted(loads, key=lambda each: float(each["seconds"]))[len(loads) // 2]
        speed = middle["nbytes"] / middle["seconds"] / 1e9
        told.append(f"{state}: {tables.seconds(middle['seconds'])}, {speed:.2f} GB/s")
        for at, lane in enumerate(middle["lanes"]):
            total = lane["total_s"] or 1.0
            shares = [
                f"{part.removesuffix('_s').replace('_', ' ')} {100 * lane[part] / total:.0f} %"
                for part in PARTS
                if lane[part] / total >= 0.005
            ]
            told.append(f"  lane {at}: {tables.seconds(lane['total_s'])}: {', '.join(shares)}")
    for state in ("warm", "cold"):
        ranked = sorted(found[f"sweep_{state}"], key=lambda row: median(row["seconds"]))
        if ranked:
            told.append(f"sweep, {state}, {len(ranked[0]['seconds'])} rounds:")
        told += [f"  {named(row)}: {tables.seconds(median(row['seconds']))}" for row in ranked]
    return told


def parser_of(name: str, description: str | None, limit_s: float) -> argparse.ArgumentParser:
    """Return a parser of the arguments of each sweep.

    Parameters
    ----------
    name : str
        Of the suite.
    description : str or None
    limit_s : float
        The default time after which no round begins.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m bench {name}",
        description=description,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dir", type=Path, default=FILES, help="for the file")
    parser.add_argument("--model", default="llama")
    parser.add_argument("--limit-s", type=float, default=limit_s, help="then no round begins")
    parser.add_argument("--keep", action="store_true", help="keep the file")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Trace, write and print; return 2 with no GPU."""
    parser = parser_of("gpu-trace", __doc__, 300.0)
    parser.add_argument("--device", default=gpu.device(), help="cpu rehearses without a GPU")
    asked = parser.parse_args(arguments)
    deadline = time.monotonic() + asked.limit_s
    os.environ[gpu.VARIABLE] = asked.device
    asked.dir.mkdir(parents=True, exist_ok=True)
    try:
        described = gpu.describe(asked.dir)
    except NoGpuError as error:
        print(f"bench gpu-trace: {error}", file=sys.stderr)
        return 2
    files = Files(asked.dir, print)
    found: dict[str, Any] = {"default": {}, "sweep_warm": [], "sweep_cold": []}
    try:
        path = files.get(asked.model)
        # A load to a device needs little memory of the host.
        with Ballast(path.stat().st_size // guest_memory.FACTOR) as ballast:
            for found in trace(path, ballast, deadline):
                document = {"machine": described, "versions": machine.versions()}
                write(asked.out, document | {"model": asked.model} | found)
    finally:
        if not asked.keep:
            files.remove()
    print(*lines(found), sep="\n")
    return 0
