"""A suite: its cases, its targets, and the names of its result files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import machine
from bench.paths import RESULTS
from bench.report.targets import Target
from bench.suites.campaign.case import Case

NAMES = ("load", "reader", "save", "store", "load-gpu")


@dataclass(frozen=True)
class Suite:
    """A suite that is held to targets.

    Attributes
    ----------
    name : str
        One of `NAMES`: for the command line, result files and the marks in README.md.
    cases : tuple of Case
    targets : tuple of Target
    others : tuple of str
        Names of cases that the suite measures by itself, after `cases`.
    describe : callable
        Describes the machine for the result file, given the folder of the files.
    slug : callable
        Makes a part of a file name from that description.
    """

    name: str
    cases: tuple[Case, ...]
    targets: tuple[Target, ...]
    others: tuple[str, ...] = ()
    describe: Callable[[Path], dict[str, Any]] = machine.describe
    slug: Callable[[dict[str, Any]], str] = machine.slug

    @property
    def case_names(self) -> tuple[str, ...]:
        return (*(case.name for case in self.cases), *self.others)

    def result_path(self, about: dict[str, Any]) -> Path:
        """Return the result file for a machine that `describe` described."""
        return RESULTS / f"{self.name}-{self.slug(about)}.json"

    def result_paths(self) -> list[Path]:
        """Return the result files of this suite, of every machine."""
        # "load-gpu" begins as "load" does.
        others = tuple(f"{name}-" for name in NAMES if name.startswith(f"{self.name}-"))
        found = RESULTS.glob(f"{self.name}-*.json")
        return sorted(path for path in found if not (others and path.name.startswith(others)))
