"""How fast is a cold and a warm load, beside its rivals in the same run?

Measures every case and writes bench/results/load-<machine>.json; bench/README.md has the method.
With `--case`, only those cases are measured, and replace their older figures.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.suites.campaign import command
from bench.suites.load.cases import IMPORT, SUITE
from bench.suites.load.imports import measure_import


def main(arguments: Sequence[str]) -> int:
    """Measure, write and print; return 1 if fastio failed or an answer was wrong."""
    return command.main(SUITE, __doc__, arguments, {IMPORT: measure_import})
