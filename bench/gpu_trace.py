"""Where does the time of a load onto a GPU go, lane by lane, and which settings are the fastest?

python -m bench.gpu_trace --out trace.json

A load by default settings, cold and warm, tells for each lane how long it read, verified, queued
copies and waited. Then a small sweep of block size, depth and lanes, in mirrored rounds, for as
long as there is time.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import cache, gpu, gpu_contenders, machine, tables
from bench.campaign import Files
from bench.gpu import NoGpuError
from bench.guest_memory import Ballast
from bench.harness import ROOT, median, rounds

MIB = 2**20
BLOCKS_MIB = (2, 4, 8, 16)
DEPTHS = (4, 8, 16)
LANES = (2, 4, 8, 16)
DEFAULT_ROUNDS = 4
PARTS = (
    *("submit_s", "read_wait_s", "verify_s", "place_s"),
    *("copy_queue_s", "copy_wait_s", "room_wait_s"),
)


def sweep(pinned_limit_bytes: int) -> list[dict[str, int]]:
    """Return the settings to try: all whose blocks in flight fit into the pinned memory."""
    cores = len(os.sched_getaffinity(0))
    return [
        {"block_bytes": block * MIB, "queue_depth": depth, "lanes": lanes}
        for block, depth, lanes in itertools.product(BLOCKS_MIB, DEPTHS, LANES)
        if block * MIB * depth * lanes <= pinned_limit_bytes and lanes <= max(2, cores)
    ]


def load(path: Path, ballast: Ballast, *, cold: bool, settings: dict[str, Any]) -> dict[str, Any]:
    """Load once with the file cold or warm, and say what it took.

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
    tensors = fastio.load(
        path, framework="torch", device=gpu.device(), options=options, report=report
    )
    gpu_contenders.synchronize()
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


def trace(path: Path, ballast: Ballast, limit_s: float) -> dict[str, Any]:
    """Load by default settings, then sweep until the time is up.

    Raises
    ------
    CacheError, MeasureError, FastioError
        As `load` does.
    """
    import fastio

    deadline = time.monotonic() + limit_s
    # Pins memory and starts what is started once a process.
    load(path, ballast, cold=False, settings={})
    by_default = {
        state: [
            load(path, ballast, cold=state == "cold", settings={}) for _ in range(DEFAULT_ROUNDS)
        ]
        for state in ("cold", "warm")
    }
    tried = sweep(fastio.Options().pinned_limit_bytes)
    rows: list[dict[str, Any]] = [settings | {"seconds": []} for settings in tried]
    names = [str(index) for index in range(len(tried))]
    for name in itertools.chain.from_iterable(rounds(names, 2 * DEFAULT_ROUNDS)):
        if time.monotonic() > deadline:
            break
        index = int(name)
        rows[index]["seconds"].append(
            load(path, ballast, cold=True, settings=tried[index])["seconds"]
        )
    return {"default": by_default, "sweep_cold": [row for row in rows if row["seconds"]]}


def lines(found: dict[str, Any]) -> list[str]:
    """Return the trace as text: each lane's share of its time, and the fastest settings."""
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
    ranked = sorted(found["sweep_cold"], key=lambda row: median(row["seconds"]))
    told.append("sweep, cold, the fastest and the slowest:")
    for row in (*ranked[:3], *ranked[3:][-1:]):
        taken = tables.seconds(median(row["seconds"]))
        told.append(
            f"  blocks of {row['block_bytes'] // MIB} MiB, depth {row['queue_depth']}, lanes "
            f"{row['lanes']}: {taken} ({len(row['seconds'])} loads)"
        )
    return told


def main() -> int:
    """Trace, write and print; return 2 with no GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dir", type=Path, default=ROOT / ".cache/bench", help="for the file")
    parser.add_argument("--device", default=gpu.device(), help="cpu rehearses without a GPU")
    parser.add_argument("--model", default="llama")
    parser.add_argument("--limit-s", type=float, default=300.0, help="then the sweep ends")
    parser.add_argument("--keep", action="store_true", help="keep the file")
    asked = parser.parse_args()
    os.environ[gpu.VARIABLE] = asked.device
    asked.dir.mkdir(parents=True, exist_ok=True)
    try:
        described = gpu.describe(asked.dir)
    except NoGpuError as error:
        print(f"bench.gpu_trace: {error}", file=sys.stderr)
        return 2
    files = Files(asked.dir, print)
    try:
        path = files.get(asked.model)
        with Ballast(path.stat().st_size) as ballast:
            found = trace(path, ballast, asked.limit_s)
    finally:
        if not asked.keep:
            files.remove()
    document = {"machine": described, "versions": machine.versions(), "model": asked.model, **found}
    asked.out.write_text(tables.to_json(document))
    print(*lines(found), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
