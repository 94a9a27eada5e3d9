"""The bare reader (native/read_limit.cc): the limit of storage on machines that have no fio."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from bench.errors import MeasureError
from bench.measure.settings import MIB, Grid, Settings
from bench.paths import ROOT

# `make bench` and `.ci/gpu-run build` compile it.
PROGRAM = ROOT / "build/bench/read-limit"
# Few of each, since a GPU is available for minutes. No more threads than cores.
GRID = Grid(
    blocks_mib=(1, 8),
    depths=(8, 32),
    jobs=tuple(jobs for jobs in (2, 8, 16) if jobs <= max(2, os.cpu_count() or 1)),
    finalists=2,
    final_rounds=2,
)
TIMEOUT_S = 120


def missing() -> str | None:
    """Return why it cannot run here, or None if it can."""
    return None if PROGRAM.is_file() else f"{PROGRAM.name} is not compiled"


def read(path: Path, settings: Settings, nbytes: int | None = None) -> dict[str, float]:
    """Read a file (or its first `nbytes`) once, and return bytes per second and CPU seconds.

    Each thread reads its own part of the file. At most one block for each thread is left out.

    Raises
    ------
    MeasureError
        The program failed, or read another number of bytes.
    """
    total = min(nbytes or path.stat().st_size, path.stat().st_size)
    block = settings.block_mib * MIB
    command = (PROGRAM, path, block, settings.depth, settings.jobs, total)
    try:
        done = subprocess.run(
            [str(each) for each in command],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MeasureError(f"{PROGRAM.name}: {error}") from error
    if done.returncode != 0:
        raise MeasureError(done.stderr.strip() or f"{PROGRAM.name}: exit status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    expected = total // settings.jobs // block * block * settings.jobs
    if found["bytes"] != expected:
        raise MeasureError(f"{PROGRAM.name}: read {found['bytes']} of {expected} bytes")
    return {"bytes_per_s": found["bytes"] / found["seconds"], "cpu_s": found["cpu_s"]}
