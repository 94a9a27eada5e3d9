"""What does it take to load a cold file so that it stays in the page cache: copied, or mapped?

Each load has a fresh process, a file that is not cached, and memory that the machine owns. The ways
run in mirrored rounds. `direct` does not keep the file, and is the limit of the disk here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastio
from bench.measure import cache, machine
from bench.measure.guest_memory import Ballast
from bench.measure.rounds import rounds
from bench.measure.statistics import median, paired_ratio
from bench.paths import RESULTS
from bench.report.results import write

TENSORS = 64
TENSOR_BYTES = 2**25
NBYTES = TENSORS * TENSOR_BYTES
WAYS: dict[str, dict[str, str]] = {
    "copied": {"cache": "keep", "mapping": "never"},
    "mapped": {"cache": "keep", "mapping": "auto"},
    "direct": {"cache": "bypass", "mapping": "never"},
}
# Loads argv[1] with the options in argv[2]; a small load comes before.
LOAD = """
import json, sys, time
import fastio
path, small, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
fastio.load(small)
report = fastio.Report()
tensors = fastio.load(path, options=fastio.Options(**options), report=report)
begun = time.perf_counter()
for tensor in tensors.values():
    tensor.reshape(-1)[::4096].sum()
touched = time.perf_counter() - begun
print(json.dumps({
    "seconds": report.seconds, "cpu_s": report.cpu_seconds, "touch_s": touched,
    "engine": report.engine, "cache": report.cache, "chunks": report.chunks_verified,
    "mapped": report.bytes_mapped, "nbytes": report.nbytes,
}))
"""


def save_model(path: Path) -> None:
    """Save a sealed file of `NBYTES` of random tensors."""
    random = np.random.default_rng(1)
    tensors = {f"t{i}": np.frombuffer(random.bytes(TENSOR_BYTES), np.uint8) for i in range(TENSORS)}
    fastio.save(tensors, path)


def _load(path: Path, small: Path, options: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-c", LOAD, str(path), str(small), json.dumps(options)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(said)
    is_mapped = found["mapped"] == found["nbytes"]
    if found["cache"] != "cold" or is_mapped != (options["mapping"] == "auto"):
        raise RuntimeError(f"not the load that was to be measured: {found}")
    return found


def measure(path: Path, small: Path, count: int) -> dict[str, list[dict[str, Any]]]:
    """Return what each way took in each round.

    Raises
    ------
    RuntimeError
        A load went another way, or its file was cached.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    with Ballast(NBYTES) as ballast:
        for order in rounds(tuple(WAYS), count):
            for name in order:
                cache.evict(path)
                ballast.free()
                found[name].append(_load(path, small, WAYS[name]))
                ballast.fill()
                print(name, found[name][-1], flush=True)
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench kept-files", description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        path, small = Path(folder, "model.safetensors"), Path(folder, "small.safetensors")
        save_model(path)
        fastio.save({"t": np.zeros(1000)}, small)
        here = machine.describe(Path(folder))
        found = measure(path, small, asked.rounds)
    taken = {
        name: {key: [each[key] for each in of] for key in ("seconds", "cpu_s", "touch_s")}
        for name, of in found.items()
    }
    ratio = paired_ratio(taken["mapped"]["seconds"], taken["copied"]["seconds"])
    document = {
        "machine": here,
        "nbytes": NBYTES,
        "ways": taken,
        "medians": {name: {key: median(of[key]) for key in of} for name, of in taken.items()},
        "mapped_over_copied": ratio.value,
        "mapped_over_copied_interval": ratio.interval,
    }
    print(document["medians"])
    write(asked.out or RESULTS / f"kept-files-{machine.slug(here)}.json", document)
    return 0
