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
    """Return a limit's settings, or None if the limit cannot run here.

    They come from this result file, from that of another suite of this machine, or from a search
    with the file of a model.

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
            # Two machines may have one name.
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
    """Search by reading a cold file, or by writing files of its size.

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
