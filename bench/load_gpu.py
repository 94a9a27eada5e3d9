"""How fast does a model get onto a GPU, beside what storage and bus give, and beside others?

`python -m bench.load_gpu` measures every case and writes bench/results/load-gpu-<device>.json;
README.md says how it is done. With `--case` only those are measured, and put in the place of the
old ones. Needs an NVIDIA GPU, and a torch that has it.
"""

from __future__ import annotations

import sys

from bench import campaign
from bench.gpu import NoGpuError
from bench.suites import LOAD_GPU


def main() -> int:
    """Measure, write and print; return 1 if fastio failed or an answer was wrong, 2 with no GPU."""
    try:
        return campaign.main(LOAD_GPU, __doc__)
    except NoGpuError as error:
        print(f"bench.load_gpu: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
