"""The command line of a suite: which cases are measured, and where their results go.

`load_run`, `save_run` and `gpu_run` measure a case; `limit_settings` finds settings of the limits.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.errors import MeasureError
from bench.measure import models
from bench.measure.limits import LIMITS
from bench.measure.settings import Settings
from bench.paths import FILES
from bench.report import tables, targets
from bench.report.results import SCHEMA, write
from bench.suites.campaign.case import MEMORY_ROUNDS, Case, GpuCase, LoadCase, SaveCase
from bench.suites.campaign.files import Files
from bench.suites.campaign.gpu_run import GpuRun
from bench.suites.campaign.limit_settings import settings_of
from bench.suites.campaign.load_run import LoadRun
from bench.suites.campaign.run import Run
from bench.suites.campaign.save_run import SaveRun
from bench.suites.campaign.suite import Suite

# Memory is prepared before each measurement, so that seven to nine pairs decide what took fifteen.
DEFAULT_ROUNDS = 8

Log = Callable[[str], None]
# Measures a case: takes the folder of the files, a number of rounds and a log; returns its JSON.
Measure = Callable[[Path, int, Log], dict[str, Any]]


def open_document(path: Path, here: dict[str, Any], *, fresh: bool) -> dict[str, Any]:
    """Return the JSON of an existing result file of this machine, or a new one.

    Raises
    ------
    MeasureError
        The file is of another machine or schema.
    """
    if not fresh and path.exists():
        document: dict[str, Any] = json.loads(path.read_text())
        if document.get("schema") != SCHEMA or document["machine"] != here:
            raise MeasureError(
                f"{path} is about another machine or schema: name another file with --out"
            )
        return document
    return {"schema": SCHEMA, "machine": here, "limits": {}, "cases": {}}


def run_of(case: Case, files: Files, settings: Mapping[str, Settings], log: Log) -> Run:
    """Return the rounds of a case, by its kind.

    Raises
    ------
    TypeError
        The case is of an unknown kind.
    """
    if isinstance(case, GpuCase):
        return GpuRun(case, files, settings, log)
    if isinstance(case, LoadCase):
        return LoadRun(case, files, settings, log)
    if isinstance(case, SaveCase):
        return SaveRun(case, files, settings, log)
    raise TypeError(f"{case.name} is a {type(case).__name__}")


def parse_arguments(
    suite: Suite, description: str | None, given: Sequence[str]
) -> argparse.Namespace:
    """Return the settings that a command line names."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench {suite.name}",
        description=description,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--case", action="append", choices=suite.case_names, help="only this (repeatable)"
    )
    parser.add_argument(
        "--rounds", type=int, default=DEFAULT_ROUNDS, help="even; without six there is no interval"
    )
    parser.add_argument("--dir", type=Path, default=FILES, help="for the files")
    parser.add_argument("--out", type=Path, help="result file (default: by the machine's name)")
    parser.add_argument("--settings", metavar="MIB:DEPTH:JOBS", help="of the limits; no search")
    parser.add_argument(
        "--limit-s",
        type=float,
        help="seconds, shared by the cases; no round ends later",
    )
    parser.add_argument("--keep", action="store_true", help="keep the files")
    parser.add_argument(
        "--model", choices=models.NAMES, help="instead of each case's own, as a trial; needs --out"
    )
    arguments = parser.parse_args(given)
    if arguments.model and not arguments.out:
        parser.error("figures of another model do not belong in the result file: give --out")
    return arguments


def main(
    suite: Suite,
    description: str | None,
    arguments: Sequence[str],
    others: Mapping[str, Measure] | None = None,
) -> int:
    """Measure a suite, write and print; return 1 if fastio failed or an answer was wrong.

    Parameters
    ----------
    suite : Suite
        The cases and their targets.
    description : str, optional
        The text of `--help`.
    arguments : sequence of str
        The command line after the suite's name.
    others : mapping, optional
        Measures each of `suite.others`.

    Raises
    ------
    MeasureError
        The result file is of another machine, or this machine lacks a need of the suite.
    """
    asked = parse_arguments(suite, description, arguments)
    begin = time.monotonic()
    # A pipe has no width.
    console = Console(width=None if sys.stdout.isatty() else 120)
    # Messages of contenders may have brackets.
    log = partial(console.log, markup=False)
    folder: Path = asked.dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    chosen: list[str] = asked.case or list(suite.case_names)
    here = suite.describe(folder)
    out: Path = asked.out or suite.result_path(here)
    failures: list[str] = []
    document = open_document(out, here, fresh=asked.case is None)
    files = Files(folder, log)
    cases = {case.name: case for case in suite.cases}

    def keep(name: str, result: dict[str, Any]) -> None:
        document["cases"][name] = result
        document["targets"] = targets.evaluate(document, suite.targets)
        write(out, document)

    try:
        for index, name in enumerate(chosen):
            if name not in cases:
                result = (others or {})[name](folder, asked.rounds, log)
            else:
                case = cases[name]
                if asked.model:
                    title = f"{case.title} (a trial on {asked.model})"
                    case = replace(case, title=title, model=asked.model)
                limits = [LIMITS[each] for each in case.contenders if each in LIMITS]
                if asked.settings:
                    given = {"settings": asked.settings, "search": "given on the command line"}
                    document["limits"] |= {limit.name: given for limit in limits}
                model = partial(files.get, asked.model or "llama")
                settings = {
                    limit.name: found
                    for limit in limits
                    if (found := settings_of(limit, document, suite, model, log))
                }
                run = run_of(case, files, settings, log)
                run.keep = partial(keep, name)
                if asked.limit_s is not None:
                    # Equal parts of the time that is left.
                    now = time.monotonic()
                    left_s = begin + asked.limit_s - now
                    run.deadline = now + left_s / (len(chosen) - index)
                result = run.run(min(asked.rounds, MEMORY_ROUNDS) if case.memory else asked.rounds)
            failures += [f"{name}: {who}: {why}" for who, why in result["failed"].items()]
            keep(name, result)
    finally:
        if not asked.keep:
            files.remove()
    tables.show(document, suite.targets, console)
    console.print(f"\n{out}", markup=False)
    for failure in failures:
        console.print("FAILED", failure, style="red", markup=False)
    return 1 if any("wrong answer" in each or ": fastio" in each for each in failures) else 0
