"""Tables of a result file, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.contenders.registry import TITLES
from bench.measure.statistics import Estimate, median, paired_ratio
from bench.report import targets
from bench.report.targets import Target

COLOURS = {"met": "green", "missed": "red", "not decided": "yellow", "not measured": "dim"}

# The characters of memory over time, from zero to its peak.
BARS = "▁▂▃▄▅▆▇█"

# Fewer values have no meaningful quartiles.
SPREAD_VALUES_MIN = 4

Rows = list[tuple[str, ...]]


def seconds(value: float) -> str:
    """Return a time with three digits in a fitting unit."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def figure(value: float, unit: str) -> str:
    """Return a figure of a target with its unit."""
    digits = f"{value:.1f}" if unit in {"%", "MiB", "ms"} else f"{value:.3f}"
    return f"{digits} {unit}"


def estimate(found: Estimate) -> str:
    """Return a ratio with its interval."""
    if found.interval is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} ({found.interval[0]:.2f} to {found.interval[1]:.2f})"


def target_rows(document: dict[str, Any], promised: Sequence[Target]) -> Rows:
    """Return target, measured, interval, verdict, judged anew from the figures."""
    rows: Rows = []
    for row in targets.evaluate(document, promised):
        sense = {">=": "≥", "<=": "≤"}[row["sense"]]
        measured = "" if row["value"] is None else figure(row["value"], row["unit"])
        between = "" if row["interval"] is None else "{:.3f} to {:.3f}".format(*row["interval"])
        bound = f"{sense} {row['bound']:g} {row['unit']}"
        rows.append((row["text"], bound, measured, between, row["verdict"]))
    return rows


def spread(values: Sequence[float]) -> str:
    """Return the interquartile range of a series over its median, in percent."""
    if len(values) < SPREAD_VALUES_MIN:
        return ""
    low, high = np.quantile(values, [0.25, 0.75])
    return f"{100 * (high - low) / median(values):.0f} %"


def case_rows(case: dict[str, Any], base: str) -> Rows:
    """Return a row for each contender, in the order of `HEADINGS`.

    The last column is its time over that of `base`.
    """
    rows: Rows = []
    contenders = case["contenders"]
    for name, found in sorted(contenders.items(), key=lambda item: item[1]["median_s"]):
        against = ""
        if base in contenders and name != base:
            against = estimate(paired_ratio(found["seconds"], contenders[base]["seconds"]))
        cpu = sorted(found["cpu_s"])[len(found["cpu_s"]) // 2] if "cpu_s" in found else None
        read = f"{max(found['bytes_read']) / 2**20:,.1f} MiB" if "bytes_read" in found else ""
        loop = seconds(median(found["loop_s"]) / case["tensors"]) if "loop_s" in found else ""
        memory = f"{max(found['peak_bytes']) / 2**20:,.0f} MiB" if "peak_bytes" in found else ""
        device = f"{max(found['device_bytes']) / 2**20:,.0f} MiB" if "device_bytes" in found else ""
        pinned = f"{max(found['pinned_bytes']) / 2**20:,.0f} MiB" if "pinned_bytes" in found else ""
        held = f"{median(found['held_bytes']) / 2**20:,.1f} MiB" if "held_bytes" in found else ""
        rows.append(
            (
                TITLES.get(name, name),
                # Sampling slows a round down, so its times are left out.
                "" if memory else seconds(found["median_s"]),
                "" if memory else spread(found["seconds"]),
                "" if memory or "gb_per_s" not in found else f"{found['gb_per_s']:.2f}",
                "" if memory or cpu is None else seconds(cpu),
                memory,
                device,
                pinned,
                held,
                read,
                loop,
                "" if memory else against,
            )
        )
    return rows


def absent(case: dict[str, Any]) -> str:
    """Return the missing contenders of a case with their reasons, or an empty string."""
    reasons: dict[str, list[str]] = {}
    for name, reason in (case["missing"] | case["failed"]).items():
        reasons.setdefault(reason, []).append(TITLES.get(name, name))
    return " ".join(f"Without {'; '.join(who)}: {why}." for why, who in reasons.items())


def disturbance(case: dict[str, Any], cores: int) -> str:
    """Return the share of cores that did other work, if it is above 5 %."""
    shares = [
        foreign / (taken * cores)
        for found in case["contenders"].values()
        for foreign, taken in zip(found.get("foreign_cpu_s", ()), found["seconds"], strict=False)
        # The kernel counts in steps of 10 ms.
        if taken >= 0.2
    ]
    share = median(shares) if shares else 0.0
    return f"Meanwhile {100 * share:.0f} % of the cores did other work." if share > 0.05 else ""


def notes(case: dict[str, Any], cores: int) -> str:
    """Return the notes below the table of a case."""
    return " ".join(text for text in (absent(case), disturbance(case, cores)) if text)


def base_of(case: dict[str, Any]) -> str:
    """Return the contender that the others of a case are compared with."""
    order = (
        *("fastio-gpu", "fastio-get", "fastio-slices", "fastio-into", "fastio-stream"),
        *("fastio-save", "fastio-save-copy"),
        *("fastio-store", "store-1", "store-sound", "store-save-1", "store-open-100000"),
        *("store-verify",),
        *("fastio", "fastio-locate", "numpy", "safetensors"),
    )
    return next((name for name in order if name in case["contenders"]), "")


HEADINGS = (
    *("", "median", "spread", "GB/s", "CPU"),
    *("peak memory", "device memory", "pinned", "memory held", "read", "loop, a tensor"),
)
TARGET_HEADINGS = ("target", "bound", "measured", "95 % interval", "verdict")


def _headings(case: dict[str, Any], rows: Rows) -> tuple[tuple[str, ...], Rows]:
    """Drop empty columns."""
    base = base_of(case)
    titles = (*HEADINGS, f"its time / {TITLES.get(base, base)}'s")
    used = [index for index in range(len(titles)) if any(row[index] for row in rows)]
    return (
        tuple(titles[index] for index in used),
        [tuple(row[index] for index in used) for row in rows],
    )


def over_time(case: dict[str, Any]) -> list[str]:
    """Return a line for each contender with memory over time."""
    lines = []
    for name, found in case["contenders"].items():
        if "memory_over_time" not in found:
            continue
        mib, end = found["memory_over_time"]["mib"], found["memory_over_time"]["seconds"][-1]
        peak = max(*mib, 1.0)
        bars = "".join(BARS[int(max(0.0, each) / peak * (len(BARS) - 1))] for each in mib)
        lines.append(f"`{bars}` {TITLES.get(name, name)}: {max(mib):,.0f} MiB, {end:.1f} s")
    return lines


def show(document: dict[str, Any], promised: Sequence[Target], console: Console) -> None:
    """Print every case and every target."""
    for case in document["cases"].values():
        headings, rows = _headings(case, case_rows(case, base_of(case)))
        caption = escape(notes(case, document["machine"]["cores"]))
        table = Table(
            title=case["title"], title_justify="left", caption=caption, caption_justify="left"
        )
        for index, heading in enumerate(headings):
            table.add_column(heading, justify="right" if index else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        for line in over_time(case):
            console.print(line.replace("`", ""), highlight=False, soft_wrap=True)
    table = Table(title="Targets", title_justify="left")
    for heading in TARGET_HEADINGS:
        table.add_column(heading)
    for row in target_rows(document, promised):
        colour = COLOURS[row[-1]]
        table.add_row(*row[:-1], f"[{colour}]{row[-1]}[/{colour}]")
    console.print(table)


def _markdown_table(headings: tuple[str, ...], rows: Rows) -> Iterator[str]:
    yield "| " + " | ".join(headings) + " |"
    yield "| " + " | ".join(["---"] + ["---:"] * (len(headings) - 1)) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _machine(document: dict[str, Any]) -> str:
    found = document["machine"]
    virtual = "virtual machine" if found["virtual"] else "bare metal"
    disk = found["disk"]
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['memory_gb']} GB, Linux {found['kernel']} "
        f"({virtual}), {found['filesystem']} on {disk['model'] or disk['name']}, "
        f"huge pages: {found['huge_pages']}, Python {found['python']}" + _gpu(found)
    )


def _gpu(machine: dict[str, Any]) -> str:
    found = machine.get("gpu")
    if found is None:
        return ""
    return f"; {found['name']}, driver {found['driver']}, torch {found['torch']}"


def _dates(document: dict[str, Any]) -> str:
    found = sorted(case["date"][:10] for case in document["cases"].values())
    return " to ".join(dict.fromkeys((found[0], found[-1])))


def _case(document: dict[str, Any], case: dict[str, Any]) -> Iterator[str]:
    count = f"{case['rounds']} rounds" if "rounds" in case else "not measured"
    yield from ("", f"**{case['title']}** ({count})", "")
    yield from _markdown_table(*_headings(case, case_rows(case, base_of(case))))
    if said := notes(case, document["machine"]["cores"]):
        yield from ("", said)
    # One paragraph a line.
    for line in over_time(case):
        yield from ("", line)


def _targets(document: dict[str, Any], promised: Sequence[Target]) -> Iterator[str]:
    yield from _markdown_table(TARGET_HEADINGS, target_rows(document, promised))


def summary(document: dict[str, Any], promised: Sequence[Target]) -> str:
    """Return targets as Markdown, with their date and the machine in short."""
    machine = document["machine"]
    name = machine["gpu"]["name"] if "gpu" in machine else machine["cpu"]
    lines = [f"Measured {_dates(document)} on {name}, {machine['cores']} cores.", ""]
    rows: Rows = [
        (text, bound, f"{measured} ({between})" if between else measured, said)
        for text, bound, measured, between, said in target_rows(document, promised)
    ]
    headings = ("target", "bound", "measured (95 % interval)", "verdict")
    return "\n".join([*lines, *_markdown_table(headings, rows)])


def markdown(document: dict[str, Any], promised: Sequence[Target]) -> str:
    """Return all results as Markdown: machine, versions, limits, targets, a table for each case."""
    versions = {
        name: version
        for case in document["cases"].values()
        for name, version in case["versions"].items()
    }
    lines = [
        f"## {_machine(document)}",
        "",
        f"Measured {_dates(document)} with these versions:",
        "",
    ]
    lines += [f"- {name} {version}" for name, version in versions.items()]
    for name, found_settings in document["limits"].items():
        block, depth, jobs = found_settings["settings"].split(":")
        lines += ["", f"{TITLES[name]}: blocks of {block} MiB, depth {depth}, jobs {jobs}."]
    lines += ["", *_targets(document, promised)]
    for case in document["cases"].values():
        lines += _case(document, case)
    return "\n".join(lines)
