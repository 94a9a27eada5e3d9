"""A whole run of a script: its command line, its files, fio's settings, its result file.

What is measured comes as a `Suite`; how one case is measured stands in `load_run` and `save_run`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import cache, fio, models, tables, targets
from bench.cases import MEMORY_ROUNDS, Case, GpuCase, LoadCase, SaveCase
from bench.contender import is_installed
from bench.contenders import CONTENDERS, FIO_WRITES, WITH_HUGE_PAGES
from bench.gpu_run import GpuRun
from bench.harness import ROOT, MeasureError
from bench.load_run import LoadRun
from bench.outputs import Outputs
from bench.run import Run
from bench.save_run import SaveRun
from bench.suites import SUITES, Suite

SCHEMA = 1
DEFAULT_ROUNDS = 16

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
    return {"schema": SCHEMA, "machine": here, "fio": {}, "cases": {}}


def search_fio(
    name: str,
    document: dict[str, Any],
    files: Files,
    log: Log,
    *,
    given: str | None,
    settings_of: str | None,
) -> fio.Settings | None:
    """Return fio's settings: given, from this result file or another suite's, or searched now."""
    huge_pages = name in WITH_HUGE_PAGES
    if fio.missing(huge_pages=huge_pages):
        return None
    if given:
        document["fio"][name] = {"settings": given, "search": "given on the command line"}
    if name not in document["fio"] and settings_of is not None:
        path = SUITES[settings_of].result_path(document["machine"])
        other = json.loads(path.read_text()) if path.exists() else {}
        # A name is not the whole of a machine.
        if other.get("machine") == document["machine"] and name in other["fio"]:
            settings = other["fio"][name]["settings"]
            document["fio"][name] = {"settings": settings, "search": f"that of {path.name}"}
    if name not in document["fio"]:
        log(f"searching the settings of {name}")
        path = files.get("llama")
        if name in FIO_WRITES:
            found, runs = _search_writes(path, huge_pages=huge_pages)
        else:
            cache.evict(path)
            found, runs = fio.search(partial(fio.read, path), huge_pages=huge_pages)
        log(f"{name}: {found}")
        text = f"{found.block_mib}:{found.depth}:{found.jobs}"
        document["fio"][name] = {"settings": text, "search": runs}
    return fio.Settings.parse(document["fio"][name]["settings"], huge_pages=huge_pages)


def _search_writes(path: Path, *, huge_pages: bool) -> tuple[fio.Settings, list[dict[str, Any]]]:
    """Search with files of the size of one that is there, each written on a disk at rest."""
    outputs = Outputs.beside(path)

    def write(settings: fio.Settings, nbytes: int | None) -> dict[str, float]:
        outputs.settle()
        return fio.write(outputs.path("search"), settings, nbytes or path.stat().st_size)

    try:
        return fio.search(write, huge_pages=huge_pages, jobs=fio.WRITE_JOBS)
    finally:
        outputs.remove()


def run_of(case: Case, files: Files, settings: Mapping[str, fio.Settings], log: Log) -> Run:
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


def parse_arguments(suite: Suite, description: str | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--case", action="append", choices=suite.case_names, help="only this (repeatable)"
    )
    parser.add_argument(
        "--rounds", type=int, default=DEFAULT_ROUNDS, help="even, at least 15 pairs"
    )
    parser.add_argument("--dir", type=Path, default=ROOT / ".cache/bench", help="for the files")
    parser.add_argument("--out", type=Path, help="result file (default: by the machine's name)")
    parser.add_argument("--fio", metavar="MIB:DEPTH:JOBS", help="fio's settings; no search")
    parser.add_argument("--keep", action="store_true", help="keep the files")
    parser.add_argument(
        "--model", choices=models.NAMES, help="instead of each case's own, as a trial; needs --out"
    )
    arguments = parser.parse_args()
    if arguments.model and not arguments.out:
        parser.error("figures of another model do not belong in the result file: give --out")
    return arguments


def main(suite: Suite, description: str | None, others: Mapping[str, Measure] | None = None) -> int:
    """Measure a suite, write and print; return 1 if fastio failed or an answer was wrong.

    Parameters
    ----------
    suite : Suite
        The cases, and what was promised of them.
    description : str, optional
        What the script says of itself on `--help`.
    others : mapping, optional
        How each of `suite.others` is measured.

    Raises
    ------
    MeasureError
        The result file is about another machine, or this one lacks what the suite needs.
    """
    arguments = parse_arguments(suite, description)
    # A pipe has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else 120)
    folder: Path = arguments.dir
    folder.mkdir(parents=True, exist_ok=True)
    chosen: list[str] = arguments.case or list(suite.case_names)
    here = suite.describe(folder)
    out: Path = arguments.out or suite.result_path(here)
    failures: list[str] = []
    document = open_document(out, here, fresh=arguments.case is None)
    files = Files(folder, console.log)
    cases = {case.name: case for case in suite.cases}
    try:
        for name in chosen:
            if name in cases:
                case = cases[name]
                if arguments.model:
                    title = f"{case.title} (a trial on {arguments.model})"
                    case = replace(case, title=title, model=arguments.model)
                settings = {
                    each: found
                    for each in case.contenders
                    if each not in CONTENDERS
                    and (
                        found := search_fio(
                            each,
                            document,
                            files,
                            console.log,
                            given=arguments.fio,
                            settings_of=suite.settings_of,
                        )
                    )
                }
                count = arguments.rounds * case.rounds_factor
                if case.memory:
                    count = min(count, MEMORY_ROUNDS)
                result = run_of(case, files, settings, console.log).run(count)
            else:
                result = (others or {})[name](arguments.rounds, console.log)
            failures += [f"{name}: {who}: {why}" for who, why in result["failed"].items()]
            document["cases"][name] = result
            document["targets"] = targets.evaluate(document, suite.targets)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(tables.to_json(document))
    finally:
        if not arguments.keep:
            files.remove()
    tables.show(document, suite.targets, console)
    console.print(f"\n{out}")
    for failure in failures:
        console.print(f"[red]FAILED[/red] {failure}")
    return 1 if any("wrong answer" in each or ": fastio" in each for each in failures) else 0
