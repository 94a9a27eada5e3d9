"""The time of `import fastio`, in whole runs of the interpreter."""

from __future__ import annotations

import datetime
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.contenders.contender import is_installed
from bench.measure import machine
from bench.measure.rounds import rounds
from bench.measure.statistics import median
from bench.paths import ROOT
from bench.suites.load.cases import IMPORT


def measure_import(folder: Path, round_count: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Start interpreters in pairs: one imports numpy, the other numpy and fastio.

    There are twice as many rounds as in other cases, since a start is short and varies.

    Raises
    ------
    CalledProcessError
        An import failed.
    """
    started = datetime.datetime.now(datetime.timezone.utc)
    result: dict[str, Any] = {
        "title": "Import time, whole interpreter runs",
        "date": started.isoformat(timespec="seconds"),
        "versions": machine.versions(),
        "missing": {},
        "failed": {},
        "contenders": {},
    }
    if not is_installed("fastio"):
        result["missing"]["fastio"] = "fastio not installed"
        return result
    programs = ("numpy", "numpy, fastio")

    def start(program: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {program}"], check=True, cwd=ROOT)
        return time.perf_counter() - begin

    for program in programs:
        # The first start writes byte code and reads libraries.
        start(program)
    count = 2 * round_count
    seconds: dict[str, list[float]] = {program: [] for program in programs}
    for order in rounds(programs, count):
        for program in order:
            seconds[program].append(round(start(program), 6))
    result["rounds"] = count
    result["contenders"] = {
        program: {"median_s": round(median(values), 6), "seconds": values}
        for program, values in seconds.items()
    }
    log(f"{IMPORT}: " + ", ".join(f"{name} {median(seconds[name]):.3f} s" for name in programs))
    return result
