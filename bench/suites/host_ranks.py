"""What do several processes of one host take that load the same cold model at once?

Each round begins with a file that is not cached. So many processes, which have imported fastio, are
then told to load at once with ``cache="keep"``, as ranks of a host do. The disk's own counter says
how often it was read, and the kernel how much memory the processes have together.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.errors import MeasureError
from bench.measure import cache, machine
from bench.measure.guest_memory import Ballast
from bench.measure.rounds import rounds
from bench.measure.statistics import median
from bench.paths import RESULTS
from bench.report.results import write
from bench.suites.kept_files import NBYTES, save_model

COUNTS = (1, 2, 4, 8)
SECTOR_BYTES = 512  # of /sys/block/*/stat, whatever the disk's own are (kernel: block/stat.rst)
# How many processes, and whether they believe each other's checksums.
Case = tuple[int, bool]
# Loads argv[1] when told, says what it took, and ends when told: their memory is looked at before.
RANK = """
import json, sys
import fastio
path, trusts = sys.argv[1], sys.argv[2] == "True"
fastio.engine_report()
options = fastio.Options(cache="keep", trust_verified=trusts)
report = fastio.Report()
print("ready", flush=True)
sys.stdin.readline()
tensors = fastio.load(path, options=options, report=report)
total = sum(int(tensor[::4096].sum()) for tensor in tensors.values())
print(json.dumps({
    "cpu_s": report.cpu_seconds, "seconds": report.seconds, "total": total,
    "verified": report.chunks_verified, "trusted": report.chunks_trusted,
}), flush=True)
sys.stdin.readline()
"""


def disk_bytes_read(path: Path) -> int:
    """Return the bytes that the disk under a file has read so far.

    Raises
    ------
    MeasureError
        The disk has no counter, as that of a tmpfs.
    """
    device = path.stat().st_dev
    counter = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    try:
        return int(counter.read_text().split()[2]) * SECTOR_BYTES
    except OSError as error:
        raise MeasureError(f"{path}: its disk does not say what it has read: {error}") from error


def proportional_bytes(process: int) -> int:
    """Return the memory of a process, in which shared pages are shared out (PSS)."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise MeasureError(f"process {process} has no PSS")


def _tell(rank: subprocess.Popen[str]) -> None:
    assert rank.stdin is not None
    rank.stdin.write("\n")
    rank.stdin.flush()


def _line_of(rank: subprocess.Popen[str]) -> str:
    assert rank.stdout is not None
    return rank.stdout.readline()


def load_at_once(path: Path, count: int, *, trusts: bool, ballast: Ballast) -> dict[str, float]:
    """Return what `count` processes took that loaded a cold file at once.

    Raises
    ------
    MeasureError
        They got different bytes.
    """
    command = (sys.executable, "-c", RANK, str(path), str(trusts))
    with contextlib.ExitStack() as opened:
        ranks = [
            opened.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(count)
        ]
        for rank in ranks:
            _line_of(rank)
        cache.evict(path)
        before = disk_bytes_read(path)
        ballast.free()
        begun = time.perf_counter()
        for rank in ranks:
            _tell(rank)
        answers = [json.loads(_line_of(rank)) for rank in ranks]
        seconds = time.perf_counter() - begun
        read = disk_bytes_read(path) - before
        memory = sum(proportional_bytes(rank.pid) for rank in ranks)
        for rank in ranks:
            _tell(rank)
    ballast.fill()
    if len({answer["total"] for answer in answers}) != 1:
        raise MeasureError(f"the processes got different bytes: {answers}")
    return {
        "seconds": seconds,
        "cpu_s": sum(answer["cpu_s"] for answer in answers),
        "disk_reads": read / NBYTES,
        "memory": memory / NBYTES,
        "verified": sum(answer["verified"] for answer in answers),
        "trusted": sum(answer["trusted"] for answer in answers),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench host-ranks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    cases: dict[str, Case] = {f"{count}": (count, False) for count in COUNTS}
    cases |= {f"{count}, trusting": (count, True) for count in COUNTS[1:]}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        here = machine.describe(Path(folder))
        path = Path(folder, "model.safetensors")
        save_model(path)
        with Ballast(NBYTES) as ballast:
            for order in rounds(tuple(cases), asked.rounds):
                for name in order:
                    count, trusts = cases[name]
                    os.utime(path)  # another state of the file: no record says that it was verified
                    time.sleep(3)  # records are not kept of files that have just changed
                    taken = load_at_once(path, count, trusts=trusts, ballast=ballast)
                    found[name].append(taken)
                    print(name, taken, flush=True)
    ways = {name: {key: [each[key] for each in of] for key in of[0]} for name, of in found.items()}
    medians = {name: {key: median(of[key]) for key in of} for name, of in ways.items()}
    document = {
        "machine": here,
        "nbytes": NBYTES,
        "ways": ways,
        "medians": medians,
        "two_over_one": medians["2"]["seconds"] / medians["1"]["seconds"],
    }
    for name, of in medians.items():
        print(name, {key: round(value, 3) for key, value in of.items()})
    write(asked.out or RESULTS / f"host-ranks-{machine.slug(here)}.json", document)
    return 0
