"""How fast is a cold and a warm load, beside its rivals in the same run?

`python -m bench.load` measures every case and writes bench/results/load-<machine>.json; README.md
says how it is done. With `--case` only those are measured, and put in the place of the old ones.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import answers, cache, fio, machine, models, tables, targets
from bench.cases import CASE_NAMES, CASES, IMPORT, MEMORY_ROUNDS, Case
from bench.contenders import CONTENDERS, FIO, FIO_HUGE, is_installed
from bench.harness import ROOT, MeasureError, Worker, median, rounds

SCHEMA = 1
FIOS = {FIO, FIO_HUGE}
DEFAULT_ROUNDS = 16
# Below this, the kernel's own imprecision in RssAnon is larger than what is looked for.
CHECKED_BYTES = 64 * 2**20
FIELDS = ("seconds", "touch_s", "cpu_s", "foreign_cpu_s", "peak_bytes", "peak_rss_bytes")


class Files:
    """The models of a run: made once, sealed where fastio is there to do it."""

    def __init__(self, folder: Path, log: Callable[[str], None]) -> None:
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


class Run:
    """All rounds of one case."""

    def __init__(
        self,
        case: Case,
        files: Files,
        settings: dict[str, fio.Settings],
        log: Callable[[str], None],
        *,
        everything: bool = False,
    ) -> None:
        self._everything = everything
        self._case = case
        self._path = files.get(case.model)
        self._warm = files.get("tiny")
        self._settings = settings
        self._log = log
        self._tensor_bytes = answers.tensor_bytes(self._path)
        entries = answers.file_entries(self._path)
        self._digest = answers.file_digest(self._path)
        self._names_digest = answers.names_digest(entry.name for entry in entries)
        self._series: dict[str, dict[str, list[float]]] = {}
        self._notes: dict[str, dict[str, Any]] = {}
        self.lines: dict[str, str] = {}
        self.eviction = ""
        self.missing: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    def run(self, count: int) -> dict[str, Any]:
        """Measure `count` rounds and return what the JSON says of the case."""
        started = datetime.datetime.now(datetime.timezone.utc)
        names = [name for name in self._case.contenders if not self._is_missing(name)]
        orders = rounds(names, count)
        for index, order in enumerate(orders):
            for name in order:
                if name in self.failed:
                    continue
                try:
                    self._record(name, self._one(name))
                except (MeasureError, cache.CacheError) as error:
                    self.failed[name] = self._without_paths(str(error))
                    self._series.pop(name, None)
                    self._log(f"{self._case.name}: {name} FAILED: {error}")
            self._log(f"{self._case.name}: round {index + 1} of {count}: {self._latest()}")
        return {
            "title": self._case.title,
            "date": started.isoformat(timespec="seconds"),
            "versions": machine.versions(),
            "cold": self._case.cold,
            "file_bytes": self._path.stat().st_size,
            "tensor_bytes": self._tensor_bytes,
            "tensors": len(answers.file_entries(self._path)),
            "rounds": count,
            "repeats": self._case.repeats,
            "orders": orders,
            "digest": self._digest,
            "missing": self.missing,
            "failed": self.failed,
            "contenders": {
                name: {
                    "median_s": round(median(self._series[name]["seconds"]), 6),
                    **self._speed(name),
                    "notes": self._notes.get(name, {}),
                    **self._series[name],
                }
                for name in names
                if name in self._series
            },
        }

    def _speed(self, name: str) -> dict[str, float]:
        if name in CONTENDERS and CONTENDERS[name].parses:
            return {}
        seconds = median(self._series[name]["seconds"])
        return {"gb_per_s": round(self._tensor_bytes / 1e9 / seconds, 3)}

    def _is_missing(self, name: str) -> bool:
        if name in FIOS:
            reason = fio.missing(huge_pages=name == FIO_HUGE)
        else:
            reason = CONTENDERS[name].missing()
        if reason is not None:
            self.missing[name] = reason
            self._log(f"{self._case.name}: without {name}: {reason}")
        return reason is not None

    def _prepare(self) -> None:
        if self._case.cold:
            self.eviction = cache.evict(self._path, everything=self._everything)
        else:
            cache.populate(self._path)

    def _one(self, name: str) -> dict[str, Any]:
        if name in FIOS:
            self._prepare()
            found = fio.read(self._path, self._settings[name])
            return {
                "seconds": self._tensor_bytes / found["bytes_per_s"],
                "cpu_s": found["cpu_s"],
                "notes": {"settings": str(self._settings[name])},
            }
        contender = CONTENDERS[name]
        job = {
            "contender": name,
            "path": str(self._path),
            "warm": str(self._warm),
            "touch": not contender.parses and (contender.maps or not self._case.cold),
        }
        found_each = []
        with Worker(job) as worker:
            for repeat in range(self._case.repeats):
                if repeat:
                    worker.ask({"do": "release"})
                self._prepare()
                found = worker.ask({"do": "measure"}, sample_memory=self._case.memory)
                self._check(name, found, worker.ask({"do": "digest"})["digest"])
                found_each.append(found)
        merged = dict(found_each[-1])
        for field in FIELDS:
            if field in merged:
                merged[field] = median([found[field] for found in found_each])
        return merged

    def _check(self, name: str, found: dict[str, Any], digest: str) -> None:
        """Believe a measurement only if its tensors are right, and in memory."""
        contender = CONTENDERS[name]
        expected = self._names_digest if contender.parses else self._digest
        if digest != expected:
            raise MeasureError(f"wrong answer: digest {digest}, expected {expected}")
        in_memory = contender.parses or contender.maps or not self._case.cold
        if not in_memory and self._tensor_bytes >= CHECKED_BYTES:
            least = 0.98 * self._tensor_bytes
            if found["anonymous_bytes"] < least:
                raise MeasureError(
                    f"a cold load that is not done: {found['anonymous_bytes']:,} bytes in memory, "
                    f"expected {least:,.0f} or more"
                )
        if self._case.memory:
            before = found["anonymous_before_bytes"]
            found["peak_bytes"] = max(
                found["sampled_peak_bytes"] - before, found["anonymous_bytes"]
            )

    def _record(self, name: str, found: dict[str, Any]) -> None:
        series = self._series.setdefault(name, {})
        for field in FIELDS:
            if field in found:
                series.setdefault(field, []).append(round(found[field], 7))
        self.lines[name] = found.get("line", "")
        self._notes[name] = json.loads(self._without_paths(json.dumps(found.get("notes", {}))))

    def _without_paths(self, text: str) -> str:
        """Take the folder out of what goes into the result file: it is nobody else's."""
        return text.replace(f"{self._path.parent}/", "")

    def _latest(self) -> str:
        return ", ".join(
            f"{name} {1000 * series['seconds'][-1]:.4g} ms" for name, series in self._series.items()
        )


def measure_import(count: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Start interpreters in pairs: one imports numpy, the other numpy and fastio."""
    started = datetime.datetime.now(datetime.timezone.utc)
    result: dict[str, Any] = {
        "title": "Import time, whole interpreter runs",
        "date": started.isoformat(timespec="seconds"),
        "versions": machine.versions(),
        "missing": {},
        "failed": {},
        "contenders": {},
    }
    if not is_installed("fastio"):
        result["missing"]["fastio"] = "fastio not installed"
        return result
    programs = ("numpy", "numpy, fastio")

    def start(program: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {program}"], check=True, cwd=ROOT)
        return time.perf_counter() - begin

    for program in programs:
        # Writes the byte code and reads the libraries.
        start(program)
    seconds: dict[str, list[float]] = {program: [] for program in programs}
    for order in rounds(programs, count):
        for program in order:
            seconds[program].append(round(start(program), 6))
    result["rounds"] = count
    result["contenders"] = {
        program: {"median_s": round(median(values), 6), "seconds": values}
        for program, values in seconds.items()
    }
    log(f"{IMPORT}: " + ", ".join(f"{name} {median(seconds[name]):.3f} s" for name in programs))
    return result


def open_document(path: Path, folder: Path, *, fresh: bool) -> dict[str, Any]:
    """Return the result file to go on with, or a new one.

    Raises
    ------
    MeasureError
        The file is about another machine, so its figures cannot stand beside new ones.
    """
    here = machine.describe(folder)
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
    given: str | None,
    log: Callable[[str], None],
) -> fio.Settings | None:
    """Return fio's settings: given, from the result file, or searched now."""
    huge_pages = name == FIO_HUGE
    if fio.missing(huge_pages=huge_pages):
        return None
    if given:
        document["fio"][name] = {"settings": given, "search": "given on the command line"}
    if name not in document["fio"]:
        path = files.get("llama")
        cache.evict(path)
        log(f"searching the settings of {name}")
        settings, found = fio.search(path, huge_pages=huge_pages)
        log(f"{name}: {settings}")
        text = f"{settings.block_mib}:{settings.depth}:{settings.jobs}"
        document["fio"][name] = {"settings": text, "search": found}
    return fio.Settings.parse(document["fio"][name]["settings"], huge_pages=huge_pages)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--case", action="append", choices=CASE_NAMES, help="only this (repeatable)"
    )
    parser.add_argument(
        "--rounds", type=int, default=DEFAULT_ROUNDS, help="even, at least 15 pairs"
    )
    parser.add_argument("--dir", type=Path, default=ROOT / ".cache/bench", help="for the files")
    parser.add_argument("--out", type=Path, help="result file (default: by the machine's name)")
    parser.add_argument("--fio", metavar="MIB:DEPTH:JOBS", help="fio's settings; no search")
    parser.add_argument("--keep", action="store_true", help="keep the files")
    return parser.parse_args()


def main() -> int:
    """Measure, write and print; return 1 if a contender of ours failed or an answer was wrong."""
    arguments = parse_arguments()
    # A pipe has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else 120)
    folder: Path = arguments.dir
    folder.mkdir(parents=True, exist_ok=True)
    chosen: list[str] = arguments.case or list(CASE_NAMES)
    out: Path = arguments.out or (
        ROOT / "bench/results" / f"load-{machine.slug(machine.describe(folder))}.json"
    )
    failures: list[str] = []
    document = open_document(out, folder, fresh=arguments.case is None)
    files = Files(folder, console.log)
    try:
        for name in chosen:
            if name == IMPORT:
                result = measure_import(2 * arguments.rounds, console.log)
            else:
                case = CASES[name]
                settings = {
                    each: found
                    for each in FIOS & set(case.contenders)
                    if (found := search_fio(each, document, files, arguments.fio, console.log))
                }
                count = min(arguments.rounds, MEMORY_ROUNDS) if case.memory else arguments.rounds
                result = Run(case, files, settings, console.log).run(count)
            failures += [f"{name}: {who}: {why}" for who, why in result["failed"].items()]
            document["cases"][name] = result
            document["targets"] = targets.evaluate(document)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(tables.to_json(document))
    finally:
        if not arguments.keep:
            files.remove()
    tables.show(document, console)
    console.print(f"\n{out}")
    for failure in failures:
        console.print(f"[red]FAILED[/red] {failure}")
    return 1 if any("wrong answer" in each or ": fastio" in each for each in failures) else 0


if __name__ == "__main__":
    sys.exit(main())
