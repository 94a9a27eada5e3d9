"""The GPU that loads go to: whether torch has one, and what a result file says of it.

Asked in a process of its own, so that whoever measures holds nothing of a GPU.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import machine
from bench.harness import ROOT, MeasureError

DEVICE = "cuda:0"

_ASK = """
import json, subprocess
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
found = torch.cuda.get_device_properties(0)
try:
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"],
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


def about() -> dict[str, Any]:
    """Return name and memory of the GPU, its driver, and the torch that uses it.

    Raises
    ------
    NoGpuError
        There is none, and why.
    """
    command = (sys.executable, "-c", _ASK)
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
        There is none, and why.
    """
    return machine.describe(folder) | {"gpu": about()}


def slug(described: dict[str, Any]) -> str:
    """Return a name for files about this GPU, such as `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", str(described["gpu"]["name"]).lower()).strip("-")
