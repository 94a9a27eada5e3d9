"""The settings of a limit: known from a result file of this machine, or searched now."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.measure import cache
from bench.measure.limits import Limit
from bench.measure.outputs import Outputs
from bench.measure.settings import Settings, search
from bench.paths import RESULTS
from bench.report.results import SCHEMA
from bench.suites.campaign.suite import Suite

Log = Callable[[str], None]


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
