"""How fast is a save, durable and not, beside its rivals and the limit of the disk?

Measures every case and writes bench/results/save-<machine>.json; bench/README.md has the method.
With `--case`, only those cases are measured, and replace their older figures.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.suites.campaign import command
from bench.suites.save.cases import SUITE


def main(arguments: Sequence[str]) -> int:
    """Measure, write and print; return 1 if fastio failed or an answer was wrong."""
    return command.main(SUITE, __doc__, arguments)
