"""The scripts' agendas: which cases each measures, what was promised of them, where results go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.cases import IMPORT, LOAD_CASES, READER_CASES, Case
from bench.harness import ROOT
from bench.promises import LOAD_TARGETS, READER_TARGETS
from bench.targets import Target

RESULTS = ROOT / "bench/results"


@dataclass(frozen=True)
class Suite:
    """What one script measures and is held to.

    Attributes
    ----------
    name : str
        Of the script, of its result files, and of its marks in README.md.
    cases : tuple of Case
    targets : tuple of Target
    others : tuple of str
        Names of cases that the script measures by itself, after those.
    settings_of : str, optional
        The suite whose settings of fio are taken over, where it was measured on this machine.
    """

    name: str
    cases: tuple[Case, ...]
    targets: tuple[Target, ...]
    others: tuple[str, ...] = ()
    settings_of: str | None = None

    @property
    def case_names(self) -> tuple[str, ...]:
        return (*(case.name for case in self.cases), *self.others)

    def result_path(self, about: dict[str, Any]) -> Path:
        """Return the result file for a machine that `machine.describe` described."""
        return RESULTS / f"{self.name}-{machine.slug(about)}.json"

    def result_paths(self) -> list[Path]:
        """Return the result files that are there, of every machine."""
        return sorted(RESULTS.glob(f"{self.name}-*.json"))


LOAD = Suite("load", LOAD_CASES, LOAD_TARGETS, others=(IMPORT,))
READER = Suite("reader", READER_CASES, READER_TARGETS, settings_of=LOAD.name)
SUITES = {suite.name: suite for suite in (LOAD, READER)}
