"""The picture of a result file, as SVG: GB/s of a cold and of a warm load, or of saves.

    python -m bench.plot bench/results/load-<machine>.json bench/results/load.svg
    python -m bench.plot bench/results/save-<machine>.json bench/results/save.svg

Colours are chosen to be read on a white and on a black page; the background is left open.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contenders import FIO_WRITES, FIOS, TITLES
from bench.harness import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Panel:
    """Bars of one case: `shown` are its contenders, `limits` the ways of fio that are its line."""

    case: str
    title: str
    shown: tuple[str, ...]
    limits: tuple[str, ...] = ()


LOADERS_SHOWN = ("fastio", "fastio-unverified", "runai", "fastsafetensors", "safetensors")
PANELS = (
    Panel("llama-cold", "into host memory, cold", LOADERS_SHOWN, FIOS),
    Panel("llama-warm", "into host memory, warm, every page touched", LOADERS_SHOWN),
    Panel(
        "save-llama",
        "into a new file, on the disk when done",
        ("fastio-save", "fastio-save-unsummed", "safetensors-save-fsync", "torch-save-fsync"),
        FIO_WRITES,
    ),
    Panel(
        "save-llama",
        "into a new file, in the kernel's hands when done",
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


def speeds(case: dict[str, Any], name: str) -> Estimate:
    """Return GB/s of a contender: of the median, with the interval of its rounds."""
    gb = case["tensor_bytes"] / 1e9
    return Estimate.of([gb / seconds for seconds in case["contenders"][name]["seconds"]])


def limit(case: dict[str, Any], names: Sequence[str]) -> tuple[str, float] | None:
    """Return the faster of the ways in which fio ran, or None where it did not."""
    found = {name: speeds(case, name).value for name in names if name in case["contenders"]}
    return max(found.items(), key=lambda item: item[1]) if found else None


def draw_panel(axes: Axes, case: dict[str, Any], panel: Panel) -> None:
    """Draw one bar a contender, the fastest on top, with its interval and its figure."""
    names = [name for name in panel.shown if name in case["contenders"]]
    found = {name: speeds(case, name) for name in names}
    names.sort(key=lambda name: found[name].value)
    values = [found[name].value for name in names]
    line = limit(case, panel.limits)
    right = max([*values, line[1] if line else 0.0])
    axes.barh(
        [TITLES[name] for name in names],
        values,
        color=[COLOURS.get(name, RIVAL) for name in names],
        height=0.62,
    )
    for row, name in enumerate(names):
        bounds = found[name].interval
        if bounds is not None:
            axes.plot(bounds, [row, row], color="#c9ccd1", linewidth=3.2, alpha=0.9)
            axes.plot(bounds, [row, row], color="#3a3f45", linewidth=1.2)
        value = found[name].value
        label = f"{value:.{1 if value >= 10 else 2}f}"
        # In the foot of the bar, where neither interval nor limit can cross it.
        within = value > right * 0.15
        place = 0.0 if within else max(value, bounds[1] if bounds else 0.0)
        color = "#ffffff" if within else TEXT
        axes.text(place + right * 0.012, row, label, va="center", color=color, fontsize=10)
    if line is not None:
        axes.axvline(line[1], color=LIMIT, linewidth=1.4, linestyle=(0, (4, 3)))
        axes.text(
            line[1],
            len(names) - 0.42,
            f"{TITLES[line[0]]}: {line[1]:.2f}",
            ha="right",
            va="bottom",
            color=LIMIT,
            fontsize=9,
        )
    size = f"{case['tensor_bytes'] / 1e9:.2f} GB of bf16 weights"
    axes.set_title(f"{size} {panel.title}", loc="left", color=TEXT, fontsize=11, pad=18)
    axes.set_xlim(0, right * 1.06)
    axes.set_xlabel("GB/s", color=TEXT, fontsize=9)
    axes.tick_params(colors=TEXT, length=0, labelsize=10)
    axes.tick_params(axis="x", labelsize=9)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color=TEXT, alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)


def panels_of(document: dict[str, Any]) -> list[Panel]:
    """Return the panels that have a bar in a result file."""
    found = {name: case.get("contenders", {}) for name, case in document["cases"].items()}
    return [
        panel for panel in PANELS if not found.get(panel.case, {}).keys().isdisjoint(panel.shown)
    ]


def draw(document: dict[str, Any], out: Path) -> None:
    """Draw the panels that the document has figures for.

    Raises
    ------
    ValueError
        It has none.
    ImportError
        matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    panels = panels_of(document)
    if not panels:
        raise ValueError("the result file has no case of which there is a picture")
    # Text stays text, and the same figures give the same file.
    mpl.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "fastio", "font.family": "sans-serif"}
    )
    figure, rows = plt.subplots(
        len(panels), 1, figsize=(8.2, 2.75 * len(panels)), squeeze=False, layout="constrained"
    )
    machine, first = document["machine"], document["cases"][panels[0].case]
    for axes, panel in zip(rows[:, 0], panels, strict=True):
        draw_panel(axes, document["cases"][panel.case], panel)
    figure.supxlabel(
        f"medians of {first['rounds']} interleaved rounds, 95 % intervals; "
        f"{machine['cores']} cores, {machine['device']['model'] or machine['device']['name']}, "
        f"Linux {machine['kernel']}",
        color=TEXT,
        fontsize=8,
    )
    figure.savefig(out, transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def main() -> None:
    """Draw the picture of a result file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("document", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    draw(json.loads(arguments.document.read_text()), arguments.out)


if __name__ == "__main__":
    main()
