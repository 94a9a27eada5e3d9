"""Load a real model and a made one of 2.47 GB, cold and warm, beside safetensors: `make demo`.

Both models are sealed. fastio and safetensors load the same file, as numpy arrays and, where torch
is installed, as torch tensors. Each framework has a table of its own, and speeds are compared only
within it. The exit status is 1 if a byte differs or a load fails. The suite `load` is thorough.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.contenders.contender import Attempt, is_installed
from bench.contenders.registry import LOADERS, TITLES
from bench.errors import MeasureError
from bench.measure import answers, cache
from bench.paths import ROOT
from bench.report import placement, tables
from bench.suites.campaign.case import LoadCase
from bench.suites.campaign.files import Files
from bench.suites.campaign.load_run import LoadRun

ROUNDS = 3
COLUMNS = ("model", "file", "loaded by", "how", "verified", "median", "GB/s", "speed")
NUMBERS = ("median", "GB/s", "speed")


@dataclass(frozen=True)
class Model:
    """A model that the demo loads.

    Attributes
    ----------
    name, title : str
        Its name in `models`, and for people.
    disk_bytes : int
        The peak: it is written once, and sealed into a second file.
    """

    name: str
    title: str
    disk_bytes: int


MODELS = (
    Model("minilm", "all-MiniLM-L6-v2", 2 * 10**8),
    Model("llama", "Llama-3.2-1B, made", 52 * 10**8),
)


@dataclass(frozen=True)
class Block:
    """The loaders of one framework, which are compared only with each other.

    Attributes
    ----------
    framework : str
        The framework of the tensors.
    verified, unverified, rival : str
        Names of loaders: fastio, fastio with `verify=False`, and safetensors.
    """

    framework: str
    verified: str
    unverified: str
    rival: str

    def loaders(self, *, cold: bool) -> tuple[str, ...]:
        """Return the loaders. Only warm loads show the cost of verification."""
        return (self.verified, *(() if cold else (self.unverified,)), self.rival)

    def label(self, name: str) -> str:
        """Return the name of a loader in the table of its framework."""
        labels = {self.verified: "fastio", self.unverified: "fastio, verify=False"}
        return labels.get(name, "safetensors")


NUMPY = Block("numpy", "fastio-numpy-verified", "fastio-numpy", "safetensors-numpy")
TORCH = Block("torch", "fastio", "fastio-unverified", "safetensors")


@dataclass(frozen=True)
class Measured:
    """One model, cold or warm.

    Attributes
    ----------
    title : str
        The model's.
    result : dict
        The JSON of the case.
    """

    title: str
    result: dict[str, Any]


def blocks() -> tuple[Block, ...]:
    """Return numpy's block, and torch's if torch is installed."""
    return (NUMPY, TORCH) if is_installed("torch") else (NUMPY,)


def compare(path: Path, block: Block) -> list[str]:
    """Load by both libraries and return the names of tensors in which a byte differs."""
    loads = []
    for loader in (LOADERS[block.verified], LOADERS[block.rival]):
        for module in loader.modules:
            importlib.import_module(module)
        loads.append(loader.load(Attempt(str(path))))
    return answers.differences(*loads)


def add_rows(table: Table, block: Block, measured: Measured) -> None:
    """Add a row for each loader of the block, with its speed beside that of safetensors."""
    found = measured.result["contenders"]
    for name in block.loaders(cold=measured.result["cold"]):
        if name not in found:
            continue
        figures = found[name]
        against = ""
        if block.rival in found:
            # The ratio of the medians in the table, so that readers can check it.
            against = f"{found[block.rival]['median_s'] / figures['median_s']:.2f} x"
        table.add_row(
            measured.title,
            "cold" if measured.result["cold"] else "warm",
            block.label(name),
            placement.words(name, figures),
            "yes" if figures["notes"].get("chunks_verified") else "no",
            tables.seconds(figures["median_s"]),
            f"{figures['gb_per_s']:.2f}",
            against,
        )
    table.add_section()


def table_of(block: Block, measured: Iterable[Measured]) -> Table:
    """Return the table of one framework."""
    title = f"fastio beside safetensors, {block.framework}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    for heading in COLUMNS:
        table.add_column(heading, justify="right" if heading in NUMBERS else "left")
    for each in measured:
        add_rows(table, block, each)
    return table


def measure(
    model: Model, path: Path, files: Files, taking_part: Sequence[Block], *, cold: bool
) -> tuple[Measured, list[str]]:
    """Measure one model in one state, and return figures and problems.

    Raises
    ------
    MeasureError, CacheError, OSError
        The file cannot be read, or not be put into that state.
    """
    state = "cold" if cold else "warm"
    names = tuple(name for block in taking_part for name in block.loaders(cold=cold))
    case = LoadCase(f"{model.name}-{state}", model.title, model.name, names, cold=cold)
    run = LoadRun(case, files, {}, lambda text: None)
    result = run.run(ROUNDS)
    problems = [
        f"{path.name}, {state}: {TITLES[name]}: {reason}"
        for name, reason in (run.missing | run.failed).items()
    ]
    return Measured(model.title, result), problems


def show_model(
    model: Model, files: Files, taking_part: Sequence[Block], console: Console
) -> tuple[list[Measured], list[str]]:
    """Measure and compare one model, and return figures and problems.

    Raises
    ------
    MeasureError, CacheError, FastioError, OSError
        The model cannot be made or measured.
    """
    begin = time.perf_counter()
    path = files.get(model.name)
    gb, seconds = path.stat().st_size / 1e9, time.perf_counter() - begin
    console.print(f"{model.title}: {gb:.2f} GB, made and sealed in {seconds:.1f} s")
    measured, problems = [], []
    for cold in (True, False):
        console.print(f"  {'cold' if cold else 'warm'}: {ROUNDS} loads by each loader ...")
        found, failed = measure(model, path, files, taking_part, cold=cold)
        measured.append(found)
        problems += failed
    if problems:
        return measured, problems
    for block in taking_part:
        different = compare(path, block)
        if different:
            names = ", ".join(different[:5])
            problems.append(f"{model.title}, {block.framework}: bytes differ in {names}")
        else:
            nbytes = answers.tensor_bytes(path)
            console.print(f"  {block.framework}: both libraries give the same {nbytes:,} bytes")
    return measured, problems


def explain(console: Console) -> None:
    """Explain the words of the tables, and the method."""
    for line in (
        "cold: no page of the file was in the page cache. warm: every page was.",
        f"{placement.MAPS}: the tensors are the page cache's own pages.",
        f"{placement.COPIES}: the tensors have memory of their own.",
        "verified: fastio compared every chunk with its checksum. safetensors has no checksums.",
        "One byte of every page is read before the clock stops: of mapped tensors, and when warm "
        "of all tensors.",
        f"The times are medians of {ROUNDS} loads, each in a fresh process. The speed is in "
        "multiples of safetensors' in the same table.",
    ):
        console.print(line, highlight=False)


def show(folder: Path, models: Sequence[Model], console: Console, *, keep: bool = False) -> int:
    """Show all models, the engine and the result; return the exit status.

    Parameters
    ----------
    folder : Path
        The folder of the files.
    models : sequence of Model
    console : Console
    keep : bool
        The files stay.

    Raises
    ------
    OSError
        The folder cannot be made, or a file not be removed.
    """
    import fastio

    folder.mkdir(parents=True, exist_ok=True)
    files = Files(folder, lambda text: None)
    taking_part = blocks()
    measured: list[Measured] = []
    problems: list[str] = []
    try:
        for model in models:
            free = shutil.disk_usage(folder).free
            if free < model.disk_bytes:
                problems.append(
                    f"{model.title}: needs {model.disk_bytes / 1e9:.1f} GB of disk space in "
                    f"{folder}, which has {free / 1e9:.1f} GB; name another folder with --dir"
                )
                continue
            try:
                found, failed = show_model(model, files, taking_part, console)
            except (MeasureError, cache.CacheError, fastio.FastioError, OSError) as error:
                problems.append(f"{model.title}: {error}")
            else:
                measured += found
                problems += failed
    finally:
        if not keep:
            files.remove()
    for block in taking_part:
        console.print()
        console.print(table_of(block, measured))
    console.print()
    explain(console)
    if TORCH not in taking_part:
        console.print("torch is not installed, so this compares numpy alone.")
    report = fastio.engine_report()
    console.print()
    console.print(
        f"fastio reads with the engine {report.chosen} here: {report.reason}.", highlight=False
    )
    for problem in problems:
        console.print(f"[red]FAILED[/red] {escape(problem)}")
    if not problems:
        frameworks = " and ".join(block.framework for block in taking_part)
        console.print(f"OK: fastio and safetensors give the same bytes, with {frameworks}.")
    return 1 if problems else 0


def main(arguments: Sequence[str]) -> int:
    """Show both models."""
    parser = argparse.ArgumentParser(prog="python -m bench demo", description=__doc__)
    parser.add_argument("--dir", type=Path, default=ROOT / ".cache/demo", help="for the files")
    parser.add_argument("--keep", action="store_true", help="keep the files")
    asked = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    return show(asked.dir, MODELS, console, keep=asked.keep)
