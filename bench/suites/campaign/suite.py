"""The scripts' agendas: which cases each measures, what was promised of them, where results go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import gpu, machine
from bench.cases import GPU_CASES, IMPORT, LOAD_CASES, READER_CASES, SAVE_CASES, STORE_CASES, Case
from bench.gpu_targets import GPU_TARGETS
from bench.harness import ROOT
from bench.promises import LOAD_TARGETS, READER_TARGETS, SAVE_TARGETS, STORE_TARGETS
from bench.targets import Target

RESULTS = ROOT / "bench/results"
# Of result files. Older ones were measured without memory held, beside a fio on small pages.
SCHEMA = 2


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
    describe : callable
        From the folder of the files to what the result file says of the machine.
    slug : callable
        From that to a name for files.
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
        """Return the result files that are there, of every machine."""
        # "load-gpu" begins as "load" does.
        others = tuple(f"{name}-" for name in SUITES if name.startswith(f"{self.name}-"))
        found = RESULTS.glob(f"{self.name}-*.json")
        return sorted(path for path in found if not (others and path.name.startswith(others)))


LOAD = Suite("load", LOAD_CASES, LOAD_TARGETS, others=(IMPORT,))
READER = Suite("reader", READER_CASES, READER_TARGETS)
SAVE = Suite("save", SAVE_CASES, SAVE_TARGETS)
STORE = Suite("store", (), STORE_TARGETS, others=STORE_CASES)
LOAD_GPU = Suite("load-gpu", GPU_CASES, GPU_TARGETS, describe=gpu.describe, slug=gpu.slug)
SUITES = {suite.name: suite for suite in (LOAD, READER, SAVE, STORE, LOAD_GPU)}
