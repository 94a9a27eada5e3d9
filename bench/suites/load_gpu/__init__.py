"""How fast does a model get onto a GPU, beside what storage and bus give, and beside others?

`python -m bench.load_gpu` measures both cases and writes bench/results/load-gpu-<device>.json;
README.md says how it is done. Needs an NVIDIA GPU, and a torch that has it. `.ci/gpu-run` runs it
on a machine that has nothing else. On `--device cpu` it is rehearsed: its figures say nothing.

`python -m bench.load_gpu --adopt OUT/bench.json` keeps the results of `.ci/gpu-run` in
bench/results.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from bench import campaign, gpu
from bench.gpu import NoGpuError
from bench.suites import LOAD_GPU, RESULTS

# What lies beside bench.json, and is kept with it.
BESIDE = ("facts", "trace", "host")


def adopt(path: Path) -> list[Path]:
    """Copy the result files of a run of `.ci/gpu-run` to bench/results, named for the device.

    Raises
    ------
    ValueError
        They are those of a rehearsal.
    OSError
        A file could not be read or written.
    """
    described = json.loads(path.read_text())["machine"]
    if described["gpu"].get("rehearsal"):
        raise ValueError(f"{path} is a rehearsal's: it says nothing of any GPU")
    kept = {path: LOAD_GPU.result_path(described)}
    for name in BESIDE:
        beside = path.with_name(f"{name}.json")
        if beside.exists():
            kept[beside] = RESULTS / f"{name}-gpu-{LOAD_GPU.slug(described)}.json"
    for source, target in kept.items():
        shutil.copyfile(source, target)
    return list(kept.values())


def main() -> int:
    """Measure, write and print; return 1 if fastio failed or an answer was wrong, 2 with no GPU."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--device", default=gpu.device())
    parser.add_argument("--adopt", type=Path)
    own, rest = parser.parse_known_args()
    try:
        if own.adopt:
            print(*adopt(own.adopt), sep="\n")
            return 0
        os.environ[gpu.VARIABLE] = own.device
        return campaign.main(LOAD_GPU, __doc__, arguments=rest)
    except (NoGpuError, ValueError) as error:
        print(f"bench.load_gpu: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
