"""A whole run of a script: its command line, its files, the limits' settings, its result file.

What is measured comes as a `Suite`; how one case is measured stands in `load_run` and `save_run`.
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

from bench import cache, models, tables, targets
from bench.cases import MEMORY_ROUNDS, Case, GpuCase, LoadCase, SaveCase
from bench.contender import is_installed
from bench.errors import MeasureError
from bench.gpu_run import GpuRun
from bench.harness import ROOT
from bench.limits import LIMITS, Limit
from bench.load_run import LoadRun
from bench.outputs import Outputs
from bench.run import Run
from bench.save_run import SaveRun
from bench.settings import Settings, search
from bench.suites import RESULTS, SCHEMA, Suite

# Memory is prepared before each measurement, so that seven to nine pairs decide what took fifteen.
DEFAULT_ROUNDS = 8

Log = Callable[[str], None]
# A case that a script measures by itself: from a number of rounds to what the JSON says of it.
Measure = Callable[[int, Log], dict[str, Any]]


class Files:
    """The models of a run: made once, sealed where fastio is there to do it."""

    def __init__(self, folder: Path, log: Log) -> None:
        self._folder = folder
        self._log = log
        self._made: dict[str, Path] = {}
        self._own: list[Path] = []
        self.sealed = is_installed("fastio")

    def get(self, name: str) -> Path:
        """Return the path of a model, made now if it was not asked for before."""
        if name not in self._made:
            self._log(f"making {name}")
            known = set(self._folder.glob("*"))
            path = models.make(name, self._folder)
            if path not in known:
                self._own.append(path)
            if self.sealed:
                import fastio

                # In place, so that only one copy of it stays; a sealed one is left as it is.
                fastio.seal(path)
            self._made[name] = path
        return self._made[name]

    def remove(self) -> None:
        """Remove what this run made, and the folder if nothing else is in it."""
        for path in self._own:
            path.unlink(missing_ok=True)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()


def open_document(path: Path, here: dict[str, Any], *, fresh: bool) -> dict[str, Any]:
    """Return the result file to go on with, or a new one, of the machine that is described.

    Raises
    ------
    MeasureError
        The file is about another machine, so its figures cannot stand beside new ones.
    """
    if not fresh and path.exists():
        document: dict[str, Any] = json.loads(path.read_text())
        if document.get("schema") != SCHEMA or document["machine"] != here:
            raise MeasureError(
                f"{path} is about another machine or schema: name another file with --out"
            )
        return document
    return {"schema": SCHEMA, "machine": here, "limits": {}, "cases": {}}


def settings_of(
    limit: Limit, document: dict[str, Any], suite: Suite, model: Callable[[], Path], log: Log
) -> Settings | None:
    """Return a limit's settings: from this result file, from another suite's of this machine, or
    searched now with the file of a model. None where the limit cannot run.

    Raises
    ------
    MeasureError
        The limit could not be measured.
    """
    known = document["limits"]
    if limit.missing():
        return None
    if limit.name not in known:
        for path in sorted(set(RESULTS.glob("*.json")) - set(suite.result_paths())):
            other = json.loads(path.read_text())
            # A name is not the whole of a machine.
            same = other.get("schema") == SCHEMA and other["machine"] == document["machine"]
            if same and limit.name in other["limits"]:
                found = other["limits"][limit.name]["settings"]
                known[limit.name] = {"settings": found, "from": path.name}
    if limit.name not in known:
        log(f"searching the settings of {limit.name}")
        best, runs = search_limit(limit, model())
        log(f"{limit.name}: {best}")
        known[limit.name] = {"settings": best.text(), "search": runs}
    return Settings.parse(known[limit.name]["settings"])


def search_limit(limit: Limit, path: Path) -> tuple[Settings, list[dict[str, Any]]]:
    """Search with a file that is there: it is read cold, or files of its size are written.

    Raises
    ------
    MeasureError
        The limit could not be measured.
    """
    whole = path.stat().st_size
    if limit.way == "read":
        cache.evict(path)
        return search(lambda settings, n: limit.run(path, settings, n or whole), limit.grid)
    outputs = Outputs.beside(path)

    def write(settings: Settings, nbytes: int | None) -> dict[str, float]:
        outputs.settle()
        return limit.run(outputs.path("search"), settings, nbytes or whole)

    try:
        return search(write, limit.grid)
    finally:
        outputs.remove()


def write(path: Path, document: dict[str, Any]) -> None:
    """Write a result file, as a whole or not at all: whoever measures may be cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partly = path.with_name(path.name + ".part")
    partly.write_text(tables.to_json(document))
    partly.replace(path)


def run_of(case: Case, files: Files, settings: Mapping[str, Settings], log: Log) -> Run:
    """Return what measures a case of its kind.

    Raises
    ------
    TypeError
        It is of no kind that is known.
    """
    if isinstance(case, GpuCase):
        return GpuRun(case, files, settings, log)
    if isinstance(case, LoadCase):
        return LoadRun(case, files, settings, log)
    if isinstance(case, SaveCase):
        return SaveRun(case, files, settings, log)
    raise TypeError(f"{case.name} is a {type(case).__name__}")


def parse_arguments(
    suite: Suite, description: str | None, given: Sequence[str] | None
) -> argparse.Namespace:
    """Read the command line, or what is given in its place."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--case", action="append", choices=suite.case_names, help="only this (repeatable)"
    )
    parser.add_argument(
        "--rounds", type=int, default=DEFAULT_ROUNDS, help="even; without six there is no interval"
    )
    parser.add_argument("--dir", type=Path, default=ROOT / ".cache/bench", help="for the files")
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
    others: Mapping[str, Measure] | None = None,
    arguments: Sequence[str] | None = None,
) -> int:
    """Measure a suite, write and print; return 1 if fastio failed or an answer was wrong.

    Parameters
    ----------
    suite : Suite
        The cases, and what was promised of them.
    description : str, optional
        What the script says of itself on `--help`.
    others : mapping, optional
        How each of `suite.others` is measured.
    arguments : sequence of str, optional
        In the place of the command line's.

    Raises
    ------
    MeasureError
        The result file is about another machine, or this one lacks what the suite needs.
    """
    asked = parse_arguments(suite, description, arguments)
    begin = time.monotonic()
    # A pipe has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else 120)
    # What others say may have brackets.
    log = partial(console.log, markup=False)
    folder: Path = asked.dir
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
                result = (others or {})[name](asked.rounds, log)
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
                    # What is left, in equal parts.
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
