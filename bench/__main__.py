"""Run a suite of benchmarks, or report results: `python -m bench SUITE [arguments]`."""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
from collections.abc import Sequence

from bench.paths import ROOT

SUITES = {
    "load": "bench.suites.load",
    "reader": "bench.suites.reader",
    "save": "bench.suites.save",
    "store": "bench.suites.store",
    "load-gpu": "bench.suites.load_gpu",
    "gpu-facts": "bench.suites.gpu_facts",
    "gpu-trace": "bench.suites.gpu_trace",
    "host-lanes": "bench.suites.host_lanes",
    "fixed-buffers": "bench.suites.fixed_buffers",
    "kept-files": "bench.suites.kept_files",
    "host-ranks": "bench.suites.host_ranks",
    "formats": "bench.suites.formats",
    "demo": "bench.suites.demo",
}
FILES = {"models": "bench.measure.models"}
REPORTS = {
    "tables": "bench.report.pages",
    "plot": "bench.report.plot",
    "gpu-table": "bench.report.gpu_table",
}


def first_line(module: str) -> str:
    """Return the first line of a module's docstring without importing the module."""
    path = ROOT / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(source.read_text())) or "").partition("\n")[0]


def listing() -> str:
    """Return every command with one line each."""
    lines = ["usage: python -m bench SUITE [arguments]"]
    for heading, commands in (("suites", SUITES), ("reports", REPORTS), ("files", FILES)):
        lines += ["", f"{heading}:"]
        lines += [f"  {name:14} {first_line(module)}" for name, module in commands.items()]
    return "\n".join([*lines, "", "python -m bench SUITE --help lists the arguments of a suite."])


def unknown(name: str) -> str:
    """Return the message for a name that is no suite, with names that resemble it."""
    names = [*SUITES, *REPORTS, *FILES]
    near = difflib.get_close_matches(name.replace("_", "-").lower(), names)
    advice = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return f"bench: unknown suite {name!r}; {advice}"


def main(arguments: Sequence[str]) -> int:
    """Run the suite that the first argument names; return its exit status."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(listing())
        return 0
    name, *rest = arguments
    module = (SUITES | REPORTS | FILES).get(name)
    if module is None:
        print(unknown(name), file=sys.stderr)
        return 2
    return int(importlib.import_module(module).main(rest))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
