"""Load a real model and a made one of 2.47 GB, cold and warm, beside safetensors: `make demo`.

Both are sealed, loaded by both libraries from the same file, and compared byte by byte. The exit
status is 1 if a byte differs or a load fails. `bench.load` is the thorough one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import answers, cache, fio, tables
from bench.campaign import Files
from bench.cases import LoadCase
from bench.contender import Attempt, is_installed
from bench.contenders import LOADERS, TITLES
from bench.harness import ROOT, MeasureError, paired_ratio
from bench.load_run import LoadRun

ROUNDS = 3
MODELS = {"minilm": "all-MiniLM-L6-v2, real", "llama": "Llama-3.2-1B shapes, made"}
# A model is written once and sealed into a second file before the first one goes.
DISK_BYTES = {"minilm": 2 * 10**8, "llama": 52 * 10**8}
NO_FIO: dict[str, fio.Settings] = {}


def contenders(*, cold: bool) -> tuple[str, ...]:
    """Return who takes part: with torch where it is installed, else with numpy."""
    if is_installed("torch"):
        return ("fastio", "safetensors") if cold else ("fastio", "fastio-unverified", "safetensors")
    if cold:
        return ("fastio-numpy-verified", "safetensors-numpy")
    return ("fastio-numpy-verified", "fastio-numpy", "safetensors-numpy")


def compare(path: Path, ours: str, theirs: str) -> list[str]:
    """Load by both and return the names of tensors in which a byte differs."""
    ours_loaded, theirs_loaded = (LOADERS[name].load(Attempt(str(path))) for name in (ours, theirs))
    return answers.differences(ours_loaded, theirs_loaded)


def add_rows(table: Table, title: str, result: dict[str, Any]) -> None:
    """Add a row for each contender of a finished case, with its speed over that of safetensors."""
    found = result["contenders"]
    rival = next((name for name in found if name.startswith("safetensors")), None)
    for name, figures in found.items():
        times = "1.00 x"
        if rival is not None and name != rival:
            times = f"{paired_ratio(found[rival]['seconds'], figures['seconds']).value:.2f} x"
        state = "cold" if result["cold"] else "warm, touched"
        speed = f"{figures['gb_per_s']:.2f}"
        loader = TITLES[name] + (
            ", verified" if name in {"fastio", "fastio-numpy-verified"} else ""
        )
        table.add_row(title, state, loader, tables.seconds(figures["median_s"]), speed, times)
    table.add_section()


def show_model(model: str, files: Files, table: Table, console: Console) -> list[str]:
    """Measure and compare one model, and return what went wrong."""
    problems = []
    title = MODELS[model]
    begin = time.perf_counter()
    path = files.get(model)
    nbytes = path.stat().st_size
    console.print(
        f"{title}: {nbytes / 1e9:.2f} GB made and sealed in {time.perf_counter() - begin:.1f} s"
    )
    for cold in (True, False):
        state = "cold" if cold else "warm"
        case = LoadCase(f"{model}-{state}", title, model, contenders(cold=cold), cold=cold)
        run = LoadRun(case, files, NO_FIO, lambda text: None, everything=True)
        result = run.run(ROUNDS)
        add_rows(table, title, result)
        how = f" (evicted by {run.eviction})" if cold else ""
        console.print(f"  {state}{how}")
        for name, line in run.lines.items():
            if line:
                console.print(f"    {TITLES[name]}: {line}", highlight=False)
        for name, reason in (run.missing | run.failed).items():
            problems.append(f"{title}, {state}: {TITLES[name]}: {reason}")
    ours, *_, theirs = contenders(cold=True)
    if not problems:
        different = compare(path, ours, theirs)
        if different:
            problems.append(f"{title}: bytes differ in {', '.join(different[:5])}")
        else:
            console.print(f"  all {answers.tensor_bytes(path):,} bytes are those of safetensors")
    return problems


def main() -> int:
    """Show both models, then how fastio reads on this machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=ROOT / ".cache/demo", help="for the files")
    parser.add_argument("--keep", action="store_true", help="keep the files")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    folder: Path = arguments.dir
    folder.mkdir(parents=True, exist_ok=True)

    import fastio

    table = Table()
    for heading in ("model", "page cache", "loaded by", "median", "GB/s", "speed"):
        table.add_column(heading, justify="left" if heading in {"model", "loaded by"} else "right")
    problems: list[str] = []
    files = Files(folder, lambda text: None)
    try:
        for model, title in MODELS.items():
            free = shutil.disk_usage(folder).free
            if free < DISK_BYTES[model]:
                problems.append(
                    f"{title}: needs {DISK_BYTES[model] / 1e9:.1f} GB of disk space in "
                    f"{folder}, which has {free / 1e9:.1f} GB; name another folder with --dir"
                )
                continue
            try:
                problems += show_model(model, files, table, console)
            except (MeasureError, cache.CacheError, fastio.FastioError, OSError) as error:
                problems.append(f"{title}: {error}")
    finally:
        if not arguments.keep:
            files.remove()
    console.print()
    console.print(table)
    console.print(str(fastio.engine_report()), highlight=False)
    for problem in problems:
        console.print(f"[red]FAILED[/red] {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
