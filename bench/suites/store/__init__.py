"""How fast is a store: beside a file, over disks, with a bad replica, saved, opened, verified?

`python -m bench.store` measures every case and writes bench/results/store-<machine>.json; README.md
says how it is done. With `--case` only those are measured, and put in the place of the old ones.
Needs root, for disks that are held to 400 MB/s.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from bench import campaign, store_run
from bench.harness import ROOT
from bench.suites import STORE

FOLDER = ROOT / ".cache/bench"


def main() -> int:
    """Measure, write and print; return 1 if an answer was wrong."""
    measures = {
        "store-one-root": store_run.one_root,
        "store-disks": store_run.several_disks,
        "store-replica": store_run.bad_replica,
        "store-save": store_run.saves,
        "store-open": store_run.opening,
        "store-verify": store_run.verifying,
    }
    folder = _folder(sys.argv)
    return campaign.main(
        STORE, __doc__, {name: partial(run, folder) for name, run in measures.items()}
    )


def _folder(arguments: list[str]) -> Path:
    """Where the files go: `campaign` reads the same argument."""
    given = arguments[arguments.index("--dir") + 1] if "--dir" in arguments else FOLDER
    return Path(given).resolve()


if __name__ == "__main__":
    sys.exit(main())
