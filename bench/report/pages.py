"""Write the tables of the result files: targets into bench/README.md, all into a page a suite.

The pages are bench/results/<suite>.md. `--check` compares files and JSON instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.paths import RESULTS, ROOT
from bench.report import tables
from bench.report.results import read
from bench.suites.campaign.suite import Suite
from bench.suites.registry import SUITES

README = ROOT / "bench/README.md"
NOT_MEASURED = "Not measured yet."


def marks(suite: Suite) -> tuple[str, str]:
    """Return the lines before and after a suite's tables in README.md."""
    return f"<!-- {suite.name}: begin -->", f"<!-- {suite.name}: end -->"


def filled(text: str, suite: Suite) -> str:
    """Return the text with a suite's targets, of every machine, between its marks.

    Raises
    ------
    ValueError
        The text lacks the two marks, or a result file is of another schema.
    """
    begin, end = marks(suite)
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{README} needs one {begin} and one {end}")
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    parts = [tables.summary(read(path), suite.targets) for path in suite.result_paths()]
    link = f"All tables: [results/{suite.name}.md](results/{suite.name}.md)."
    body = "\n\n".join([*parts, link]) if parts else NOT_MEASURED
    return f"{head}{begin}\n\n{body}\n\n{end}{tail}"


def page(suite: Suite) -> str:
    """Return all tables of a suite, of every machine.

    Raises
    ------
    ValueError
        A result file is of another schema.
    """
    parts = [tables.markdown(read(path), suite.targets) for path in suite.result_paths()]
    said = "`python -m bench tables` writes this page from the JSON files beside it."
    title = f"# Results of the suite {suite.name}"
    return "\n\n".join([title, said, *(parts or [NOT_MEASURED])]) + "\n"


def rendered() -> dict[Path, str]:
    """Return the text of README.md and of each suite's page.

    Raises
    ------
    ValueError
        README.md lacks the marks of a suite, or a result file is of another schema.
    """
    readme = README.read_text()
    for suite in SUITES.values():
        readme = filled(readme, suite)
    pages = {RESULTS / f"{suite.name}.md": page(suite) for suite in SUITES.values()}
    return {README: readme, **pages}


def main(arguments: Sequence[str]) -> int:
    """Write the tables, or compare them."""
    parser = argparse.ArgumentParser(prog="python -m bench tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a file differs")
    asked = parser.parse_args(arguments)
    stale = []
    for path, text in rendered().items():
        if path.exists() and path.read_text() == text:
            continue
        stale.append(path)
        if not asked.check:
            path.write_text(text)
    if not asked.check:
        return 0
    for path in stale:
        named = path.relative_to(ROOT)
        print(f"{named} differs from the JSON: run python -m bench tables", file=sys.stderr)
    return 1 if stale else 0
