"""Print the results of a run of `.ci/gpu-run`: facts, targets, contenders, trace, tests."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console

from bench.report import tables
from bench.suites import gpu_trace, host_lanes
from bench.suites.load_gpu.targets import TARGETS


def tests_line(path: Path) -> str:
    """Return the number of passed tests from JUnit's XML, and the names of failed ones.

    Raises
    ------
    OSError, ParseError
        The file cannot be read.
    """
    suites = ElementTree.parse(path).getroot().iter("testsuite")
    failed: list[str] = []
    count = skipped = 0
    for suite in suites:
        for case in suite.iter("testcase"):
            count += 1
            skipped += case.find("skipped") is not None
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(f"{case.get('classname')}::{case.get('name')}")
    passed = count - skipped - len(failed)
    told = f"tests: {passed} passed, {len(failed)} failed, {skipped} skipped"
    return "\n  ".join([told, *failed[:20]])


def facts_lines(facts: dict[str, Any]) -> list[str]:
    """Return the facts about device, bus, disk and io_uring."""

    def told(fact: dict[str, Any], field: str) -> str:
        found = fact.get(field, fact.get("error", "not known"))
        return f"{found:.3g}" if isinstance(found, float) else str(found)

    bus, disk, ring = (facts.get(name, {}) for name in ("bus", "disk", "io_uring"))
    return [
        f"device: {told(facts.get('machine', {}).get('gpu', {}), 'name')}",
        f"bus, pinned: {told(bus, 'to_device_gb_s')} GB/s there, "
        f"{told(bus, 'from_device_gb_s')} GB/s back",
        f"disk, direct: {told(disk.get('direct_read', disk), 'gb_s')} GB/s",
        f"io_uring works: {told(ring, 'works')}",
    ]


def show(folder: Path, console: Console) -> None:
    """Print all results, and the name of each stage without one.

    Raises
    ------
    OSError, ValueError, ParseError
        A result file cannot be read.
    """

    def read(name: str) -> dict[str, Any] | None:
        path = folder / f"{name}.json"
        if not path.exists():
            console.print(f"{name}: no result")
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    facts, bench, traced, host = (read(name) for name in ("facts", "bench", "trace", "host"))
    named = bench or traced or {"machine": {"gpu": {}}}
    if named["machine"]["gpu"].get("rehearsal"):
        console.print("A REHEARSAL without a GPU: no figure below says anything.")
    if facts:
        console.print(*facts_lines(facts), sep="\n", highlight=False, markup=False)
    if bench:
        tables.show(bench, TARGETS, console)
    if traced:
        console.print(*gpu_trace.lines(traced), sep="\n", highlight=False, markup=False)
    if host:
        console.print(*host_lanes.lines(host), sep="\n", highlight=False, markup=False)
    junit = folder / "tests.xml"
    told = tests_line(junit) if junit.exists() else "tests: no result"
    console.print(told, highlight=False, markup=False)


def main(arguments: Sequence[str]) -> int:
    """Print the results in a folder."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu-table", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args(arguments).folder
    show(folder, Console(width=None if sys.stdout.isatty() else 120))
    return 0
