"""How fast does a model get onto a GPU, beside the limits of storage and bus, and beside rivals?

Measures both cases and writes bench/results/load-gpu-<device>.json; bench/README.md has the method.
Needs an NVIDIA GPU and a torch built for CUDA. `.ci/gpu-run` runs it on a machine without a
network. `--device cpu` rehearses it without a GPU; the figures of a rehearsal are not results.

`--adopt OUT/bench.json` keeps the results of `.ci/gpu-run` in bench/results.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.measure import gpu
from bench.measure.gpu import NoGpuError
from bench.paths import RESULTS
from bench.suites.campaign import command
from bench.suites.load_gpu.cases import SUITE

# Result files beside bench.json that are kept with it.
BESIDE = ("facts", "trace", "host")


def adopt(path: Path) -> list[Path]:
    """Copy the result files of a run of `.ci/gpu-run` to bench/results, named for the device.

    Raises
    ------
    ValueError
        The results are those of a rehearsal.
    OSError
        A file could not be read or written.
    """
    described = json.loads(path.read_text())["machine"]
    if described["gpu"].get("rehearsal"):
        raise ValueError(f"{path} is a rehearsal's: it says nothing of any GPU")
    kept = {path: SUITE.result_path(described)}
    for name in BESIDE:
        beside = path.with_name(f"{name}.json")
        if beside.exists():
            kept[beside] = RESULTS / f"{name}-gpu-{SUITE.slug(described)}.json"
    for source, target in kept.items():
        shutil.copyfile(source, target)
    return list(kept.values())


def main(arguments: Sequence[str]) -> int:
    """Measure, write and print; return 1 if fastio failed or an answer was wrong, 2 with no GPU."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--device", default=gpu.device())
    parser.add_argument("--adopt", type=Path)
    own, rest = parser.parse_known_args(arguments)
    try:
        if own.adopt:
            print(*adopt(own.adopt), sep="\n")
            return 0
        os.environ[gpu.VARIABLE] = own.device
        return command.main(SUITE, __doc__, rest)
    except (NoGpuError, ValueError) as error:
        print(f"bench load-gpu: {error}", file=sys.stderr)
        return 2
