"""Draw the picture of a result file as SVG: GB/s of a cold and a warm load, or of saves.

    python -m bench plot bench/results/load-<machine>.json bench/results/load.svg
    python -m bench plot bench/results/save-<machine>.json bench/results/save.svg

Colours are readable on a white and on a black page. The background is transparent.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contenders.registry import LOADERS, TITLES
from bench.measure.limits import LIMITS
from bench.measure.statistics import Estimate
from bench.report import placement
from bench.report.results import read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Case = Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """Bars of one case.

    Attributes
    ----------
    case : str
        The case's name in the result file.
    title : str
        The first line of the title: the operation.
    note : str
        The second line of the title: the conditions.
    shown : tuple of str
        The contenders that have a bar.
    limits : tuple of str
        The limits of the disk, of which the fastest is a line.
    """

    case: str
    title: str
    note: str
    shown: tuple[str, ...]
    limits: tuple[str, ...] = ()


LOADERS_SHOWN = (
    "fastio",
    "fastio-unverified",
    "runai",
    "fastsafetensors",
    "safetensors",
    "safetensors-rc",
)
READS, WRITES = (
    tuple(limit.name for limit in LIMITS.values() if limit.way == way) for way in ("read", "write")
)
PANELS = (
    Panel(
        "llama-cold",
        "into host memory, cold",
        "No page of the file is in the page cache. "
        "Every page of a mapping is read once before the clock stops.",
        LOADERS_SHOWN,
        READS,
    ),
    Panel(
        "llama-warm",
        "into host memory, warm",
        "The whole file is in the page cache. "
        "Every page of the tensors is read once before the clock stops.",
        LOADERS_SHOWN,
    ),
    Panel(
        "save-llama",
        "into a new file, waiting for the disk",
        "From the moment the clock stops the file survives a power cut.",
        ("fastio-save", "fastio-save-unsummed", "safetensors-save-fsync", "torch-save-fsync"),
        WRITES,
    ),
    Panel(
        "save-llama",
        "into a new file, not waiting for the disk",
        "durable=False, and the others by default: a power cut may lose or damage the file.",
        ("fastio-save-not-durable", "safetensors-save", "torch-save"),
    ),
)
# About 4.5 : 1 against #ffffff and against #0d1117 alike.
TEXT, OURS, OURS_PALE, RIVAL, LIMIT = "#75797f", "#0b7a70", "#3d8f87", "#70757c", "#c4622d"
COLOURS = {
    "fastio": OURS,
    "fastio-unverified": OURS_PALE,
    "fastio-save": OURS,
    "fastio-save-unsummed": OURS_PALE,
    "fastio-save-not-durable": OURS,
}
# Inches, and the room between the longest bar and the frame.
WIDTH, BAR_HEIGHT, PANEL_HEIGHT, FOOT_HEIGHT = 8.2, 0.42, 1.25, 0.75
MARGIN = 1.06
FOOT_COLUMNS = 118
# A no-break space keeps a name on one line with its version.
JOINT = "\N{NO-BREAK SPACE}"


def speeds(case: Case, name: str) -> Estimate:
    """Return GB/s of a contender, from its median time and the interval of that time.

    So figures equal those of the tables. For an even number of rounds the median of speeds differs.
    """
    gb = case["tensor_bytes"] / 1e9
    times = Estimate.of(case["contenders"][name]["seconds"])
    between = times.interval
    interval = None if between is None else (gb / between[1], gb / between[0])
    return Estimate(gb / times.value, interval, times.count)


def limit(case: Case, names: Sequence[str]) -> tuple[str, float] | None:
    """Return the fastest limit of the disk, or None if none was measured."""
    found = {name: speeds(case, name).value for name in names if name in case["contenders"]}
    return max(found.items(), key=lambda item: item[1]) if found else None


def label(case: Case, name: str) -> str:
    """Return the label of a bar: its contender, and for a load the memory of the tensors.

    Titles of panels say that pages are read once within the clock.
    """
    title = TITLES.get(name, name).removesuffix(", touched")
    if name not in LOADERS:
        return title
    return f"{title}\n{placement.words(name, case['contenders'][name])}"


def draw_panel(axes: Axes, case: Case, panel: Panel) -> None:
    """Draw one bar for each contender, the fastest on top, with its interval and its figure."""
    names = [name for name in panel.shown if name in case["contenders"]]
    found = {name: speeds(case, name) for name in names}
    names.sort(key=lambda name: found[name].value)
    values = [found[name].value for name in names]
    line = limit(case, panel.limits)
    ends = [each.interval[1] for each in found.values() if each.interval is not None]
    right = max([*values, *ends, line[1] if line else 0.0])
    axes.barh(
        range(len(names)), values, color=[COLOURS.get(name, RIVAL) for name in names], height=0.62
    )
    axes.set_yticks(range(len(names)), [label(case, name) for name in names])
    for row, name in enumerate(names):
        bounds = found[name].interval
        if bounds is not None:
            axes.plot(bounds, [row, row], color="#c9ccd1", linewidth=3.2, alpha=0.9)
            axes.plot(bounds, [row, row], color="#3a3f45", linewidth=1.2)
        value = found[name].value
        text = f"{value:.{1 if value >= 10 else 2}f}"
        # In the foot of the bar, which neither interval nor limit can cross.
        within = value > right * 0.15
        place = 0.0 if within else max(value, bounds[1] if bounds else 0.0)
        color = "#ffffff" if within else TEXT
        axes.text(place + right * 0.012, row, text, va="center", color=color, fontsize=10)
    if line is not None:
        axes.axvline(line[1], color=LIMIT, linewidth=1.4, linestyle=(0, (4, 3)))
        axes.text(
            line[1],
            len(names) - 0.42,
            f"{TITLES.get(line[0], line[0])}: {line[1]:.2f}",
            ha="right",
            va="bottom",
            color=LIMIT,
            fontsize=9,
        )
    size = f"{case['tensor_bytes'] / 1e9:.2f} GB of bf16 weights"
    # Above the name of the limit, if there is one.
    rise = 18 if line else 4
    axes.annotate(
        panel.note,
        xy=(0, 1),
        xytext=(0, rise),
        xycoords="axes fraction",
        textcoords="offset points",
        color=TEXT,
        fontsize=8.5,
        va="bottom",
        ha="left",
        annotation_clip=False,
    )
    axes.set_title(f"{size} {panel.title}", loc="left", color=TEXT, fontsize=11, pad=rise + 15)
    axes.set_xlim(0, right * MARGIN)
    axes.set_xlabel("GB/s", color=TEXT, fontsize=9)
    axes.tick_params(colors=TEXT, length=0, labelsize=9.5)
    axes.tick_params(axis="x", labelsize=9)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color=TEXT, alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)


def panels_of(document: Mapping[str, Any]) -> list[Panel]:
    """Return the panels that have a bar in a result file."""
    found = {name: case.get("contenders", {}) for name, case in document["cases"].items()}
    return [
        panel for panel in PANELS if not found.get(panel.case, {}).keys().isdisjoint(panel.shown)
    ]


def _joined(values: Sequence[Any], word: str) -> str:
    """Return the values of several cases: each once, in order."""
    return f" {word} ".join(dict.fromkeys(str(value) for value in values))


def footer(machine: Mapping[str, Any], cases: Sequence[Case]) -> str:
    """Return method, dates, machine and versions of the shown cases."""
    dates = sorted(case["date"][:10] for case in cases)
    names = dict.fromkeys(name for case in cases for name in case["versions"])
    versions = [
        # fio's version begins with its name.
        f"{name} "
        + _joined(
            [case["versions"][name] for case in cases if name in case["versions"]], "and"
        ).removeprefix(f"{name}-")
        for name in names
    ]
    disk = machine["disk"]["model"] or machine["disk"]["name"]
    kind = ", virtual machine" if machine["virtual"] else ""
    lines = (
        f"Medians of {_joined([case['rounds'] for case in cases], 'and')} interleaved rounds with "
        f"95 % intervals. Measured {_joined([dates[0], dates[-1]], 'to')}.",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB{kind}; "
        f"{machine['filesystem']} on {disk}; Linux{JOINT}{machine['kernel']}, "
        f"Python{JOINT}{machine['python']}.",
        f"With {', '.join(version.replace(' ', JOINT) for version in versions)}.",
    )
    return "\n".join(part for line in lines for part in textwrap.wrap(line, FOOT_COLUMNS))


def figure_of(document: Mapping[str, Any]) -> Figure:
    """Return the picture with every panel that the document has figures for.

    Raises
    ------
    ValueError
        It has none.
    ImportError
        matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    panels = panels_of(document)
    if not panels:
        raise ValueError("the result file has no case of which there is a picture")
    cases: list[Case] = [document["cases"][panel.case] for panel in panels]
    bars = [
        sum(name in case["contenders"] for name in panel.shown)
        for case, panel in zip(cases, panels, strict=True)
    ]
    heights = [PANEL_HEIGHT + BAR_HEIGHT * count for count in bars]
    figure = Figure(figsize=(WIDTH, sum(heights) + FOOT_HEIGHT), layout="constrained")
    rows = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for axes, case, panel in zip(rows[:, 0], cases, panels, strict=True):
        draw_panel(axes, case, panel)
    figure.supxlabel(footer(document["machine"], cases), color=TEXT, fontsize=8)
    return figure


def draw(document: Mapping[str, Any], out: Path) -> None:
    """Draw the panels that the document has figures for.

    Raises
    ------
    ValueError
        It has none.
    ImportError
        matplotlib is not installed.
    OSError
        The picture could not be written.
    """
    import matplotlib as mpl

    # Text is not drawn as paths, and the same figures give the same file.
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "fastio", "font.family": "sans-serif"}
    with mpl.rc_context(style):
        metadata = {"Date": None, "Creator": None}
        figure_of(document).savefig(out, format="svg", transparent=True, metadata=metadata)


def main(arguments: Sequence[str]) -> int:
    """Draw the picture of a result file."""
    parser = argparse.ArgumentParser(prog="python -m bench plot", description=main.__doc__)
    parser.add_argument("document", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args(arguments)
    draw(read(asked.document), asked.out)
    return 0
