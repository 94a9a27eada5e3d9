"""The device of loads: its name, whether torch can use it, and its description in a result file.

A process of its own asks torch, so that the measuring process holds no memory of a GPU. The device
`cpu` rehearses everything on a machine without a GPU; figures of a rehearsal are not results.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.errors import MeasureError
from bench.measure import machine
from bench.paths import ROOT

# Workers inherit it.
VARIABLE = "FASTIO_BENCH_DEVICE"
REHEARSAL = {"name": "REHEARSAL, no GPU", "rehearsal": True}

_ASK = """
import json, subprocess, sys
try:
    import torch
except ImportError:
    print(json.dumps({"missing": "torch is not installed"}))
    raise SystemExit
if torch.version.cuda is None:
    print(json.dumps({"missing": f"torch {torch.__version__} is built without CUDA"}))
    raise SystemExit
if not torch.cuda.is_available():
    print(json.dumps({"missing": "torch finds no CUDA device"}))
    raise SystemExit
index = torch.device(sys.argv[1]).index or 0
found = torch.cuda.get_device_properties(index)
try:
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", f"--id={index}"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()
except (OSError, subprocess.CalledProcessError):
    driver = "unknown"
print(json.dumps({
    "name": found.name,
    "memory_gb": round(found.total_memory / 1e9, 1),
    "driver": driver,
    "cuda": torch.version.cuda,
    "torch": torch.__version__,
}))
"""


class NoGpuError(MeasureError):
    """There is no GPU to measure on."""


def device() -> str:
    """Return torch's name of the measured device; `cpu` in a rehearsal."""
    return os.environ.get(VARIABLE, "cuda:0")


def is_rehearsal() -> bool:
    """Whether this is a rehearsal without a GPU."""
    return device() == "cpu"


def about() -> dict[str, Any]:
    """Return name and memory of the GPU, its driver, and the version of torch.

    Raises
    ------
    NoGpuError
        There is none. The message has the reason.
    """
    if is_rehearsal():
        return dict(REHEARSAL)
    command = (sys.executable, "-c", _ASK, device())
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise NoGpuError(f"no GPU: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "missing" in found:
        raise NoGpuError(f"no GPU to measure on: {found['missing']}")
    return found


def describe(folder: Path) -> dict[str, Any]:
    """Describe this machine, as `machine.describe` does, and its GPU.

    Raises
    ------
    NoGpuError
        There is none. The message has the reason.
    """
    return machine.describe(folder) | {"gpu": about()}


def slug(described: dict[str, Any]) -> str:
    """Return a name for files about this GPU, such as `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", str(described["gpu"]["name"]).lower()).strip("-")
