"""How fast is a store: beside a file, over disks, with a bad replica, saved, opened, verified?

Measures every case and writes bench/results/store-<machine>.json; bench/README.md has the method.
With `--case`, only those cases are measured, and replace their older figures. Needs root, for disks
that are held to 400 MB/s.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.suites.campaign import command
from bench.suites.store import measures
from bench.suites.store.cases import SUITE


def main(arguments: Sequence[str]) -> int:
    """Measure, write and print; return 1 if an answer was wrong."""
    others = {
        "store-one-root": measures.one_root,
        "store-disks": measures.several_disks,
        "store-replica": measures.bad_replica,
        "store-save": measures.saves,
        "store-open": measures.opening,
        "store-verify": measures.verifying,
    }
    return command.main(SUITE, __doc__, arguments, others)
