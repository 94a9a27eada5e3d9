"""A picture contains its whole drawing and names date, machine and versions of the measurement."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.report import placement, plot
from bench.suites.registry import SUITES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of each a time and notes.
Contenders = dict[str, tuple[float, dict[str, Any]]]
ROUNDS = 8
RESULTS = (*SUITES["load"].result_paths(), *SUITES["save"].result_paths())
COLD = {"engine": "uring", "cache": "cold"}
WARM = {"engine": "mmap", "cache": "warm"}
MACHINE = {
    "cpu": "A Processor @ 2.50GHz",
    "cores": 2,
    "memory_gb": 25.3,
    "kernel": "6.18.0",
    "virtual": True,
    "filesystem": "ext4",
    "disk": {"name": "vda", "model": "a model of a disk"},
    "python": "3.11.7",
}


@pytest.fixture(autouse=True)
def matplotlib() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib comes with the extra of benchmarks only")


def case(date: str, contenders: Contenders) -> dict[str, Any]:
    """Return a case in which each contender jitters widely about a number of seconds."""
    return {
        "date": f"{date}T08:00:00+00:00",
        "versions": {"fastio-tensor": "0.1.0", "safetensors": "0.8.0", "fio": "fio-3.33"},
        "tensor_bytes": 2 * 10**9,
        "rounds": ROUNDS,
        "contenders": {
            name: {
                "seconds": [seconds * (0.2 + index / 4) for index in range(ROUNDS)],
                "notes": notes,
            }
            for name, (seconds, notes) in contenders.items()
        },
    }


@pytest.fixture
def loads() -> dict[str, Any]:
    """Return a result file of loads, with a bar for every contender."""
    rivals: Contenders = {
        "runai": (2.0, {}),
        "fastsafetensors": (3.0, {}),
        "safetensors": (1.5, {}),
    }
    cold = {"fastio": (1.0, COLD), "fastio-unverified": (0.9, COLD), "fio": (0.8, {})}
    warm = {"fastio": (0.1, WARM), "fastio-unverified": (0.01, WARM)}
    cases = {
        "llama-cold": case("2026-11-21", cold | rivals),
        "llama-warm": case("2026-11-22", warm | rivals),
    }
    return {"machine": MACHINE, "cases": cases}


@pytest.fixture
def saves() -> dict[str, Any]:
    """Return a result file of saves."""
    names = (*plot.PANELS[2].shown, *plot.PANELS[3].shown, "fio-write")
    contenders: Contenders = {name: (1.0 + index, {}) for index, name in enumerate(names)}
    return {"machine": MACHINE, "cases": {"save-llama": case("2026-11-22", contenders)}}


@pytest.fixture
def documents(loads: dict[str, Any], saves: dict[str, Any]) -> list[dict[str, Any]]:
    """Return both, and every result file that has a picture."""
    return [loads, saves, *(json.loads(path.read_text()) for path in RESULTS)]


def drawn(document: dict[str, Any]) -> Iterator[tuple["Axes", plot.Panel, dict[str, Any]]]:
    """Draw the document and return its panels with their subjects."""
    panels = plot.panels_of(document)
    for axes, panel in zip(plot.figure_of(document).axes, panels, strict=True):
        yield axes, panel, document["cases"][panel.case]


def labels(axes: "Axes") -> list[str]:
    """Return the labels of the bars, from the bottom up."""
    return [each.get_text() for each in axes.get_yticklabels()]


def text_of(figure: "Figure") -> str:
    """Return the text below the panels, with its line breaks as spaces."""
    return " ".join(figure.get_supxlabel().split())


def test_no_interval_and_no_limit_leaves_the_frame(documents: list[dict[str, Any]]):
    count = 0
    for document in documents:
        for axes, panel, measured in drawn(document):
            left, right = axes.get_xlim()
            for name in (*panel.shown, *panel.limits):
                if name in measured["contenders"]:
                    found = plot.speeds(measured, name)
                    low, high = found.interval or (found.value, found.value)
                    assert left <= low <= high < right or name in panel.limits
                    assert left <= found.value < right
                    count += 1
    assert count > 0


def test_a_figure_is_that_of_the_tables():
    for path in RESULTS:
        for axes, panel, measured in drawn(json.loads(path.read_text())):
            found = [measured["contenders"].get(name) for name in panel.shown]
            said = {text.get_text() for text in axes.texts}
            for figures in filter(None, found):
                digits = 1 if figures["gb_per_s"] >= 10 else 2
                assert f"{figures['gb_per_s']:.{digits}f}" in said


def test_no_text_leaves_the_picture(documents: list[dict[str, Any]]):
    from matplotlib.text import Text

    for document in documents:
        figure = plot.figure_of(document)
        figure.draw_without_rendering()
        # Those of ticks beyond the limits are not drawn.
        unseen = {id(text) for axes in figure.axes for text in axes.get_xticklabels()}
        texts = [text for text in figure.findobj(Text) if id(text) not in unseen]
        for text in texts:
            assert isinstance(text, Text)
            if text.get_text():
                box = text.get_window_extent()
                assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text.get_text()
                assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text.get_text()


def test_the_footer_names_machine_dates_and_every_version(documents: list[dict[str, Any]]):
    for document in documents:
        footer, about = text_of(plot.figure_of(document)), document["machine"]
        assert f"{about['cpu']}, {about['cores']} cores" in footer
        assert f"Linux {about['kernel']}" in footer
        for _, _, measured in drawn(document):
            assert measured["date"][:10] in footer
            assert f"{measured['rounds']} interleaved rounds" in footer
            for name, version in measured["versions"].items():
                assert f"{name} {version.removeprefix('fio-')}" in footer


def test_panels_of_different_versions_name_both(loads: dict[str, Any]):
    loads["cases"]["llama-warm"]["versions"] = {"safetensors": "0.9.0"}
    footer = text_of(plot.figure_of(loads))
    assert "safetensors 0.8.0 and 0.9.0" in footer
    assert "Measured 2026-11-21 to 2026-11-22." in footer


def test_a_mapped_load_is_labelled_apart_from_one_that_copies(loads: dict[str, Any]):
    cold, warm = (labels(axes) for axes, _, _ in drawn(loads))
    copying = [f"{name}\n{placement.COPIES}" for name in ("fastsafetensors", "Run:ai streamer")]
    ours = ("fastio", "fastio, verify=False")
    mapped = f"safetensors\n{placement.MAPS}"
    assert cold == [*copying, mapped, *(f"{name}\n{placement.COPIES}" for name in ours)]
    assert warm == [*copying, mapped, *(f"{name}\n{placement.MAPS}" for name in ours)]


def test_a_warm_load_of_ours_that_copied_is_not_called_mapped(loads: dict[str, Any]):
    loads["cases"]["llama-warm"]["contenders"]["fastio"]["notes"] = COLD | {"cache": "warm"}
    _, warm = (labels(axes) for axes, _, _ in drawn(loads))
    assert f"fastio\n{placement.COPIES}" in warm


def test_reading_every_page_once_is_said_in_words(documents: list[dict[str, Any]]):
    for document in documents:
        for axes, panel, _ in drawn(document):
            notes = [text.get_text() for text in axes.texts]
            assert panel.note in notes
            assert ("read once before the clock stops" in panel.note) == (
                panel.case in {"llama-cold", "llama-warm"}
            )
            assert not any("touched" in each for each in (*labels(axes), *notes))


def test_the_picture_explains_durable_false(saves: dict[str, Any]):
    (_, durable, _), (axes, early, _) = drawn(saves)
    assert durable.limits
    assert "fastio.save, durable=False" in labels(axes)
    assert "not waiting for the disk" in axes.get_title(loc="left")
    assert "durable=False" in early.note
    assert "a power cut may lose or damage the file" in early.note


def test_a_measured_candidate_of_safetensors_has_a_bar(loads: dict[str, Any]):
    without = [len(labels(axes)) for axes, _, _ in drawn(loads)]
    for measured in loads["cases"].values():
        found = measured["contenders"]
        found["safetensors-rc"] = copy.deepcopy(found["safetensors"])
    for (axes, _, _), before in zip(drawn(loads), without, strict=True):
        assert len(labels(axes)) == before + 1
        assert len({label for label in labels(axes) if placement.MAPS in label}) >= 2


def test_the_same_figures_give_the_same_file(loads: dict[str, Any], tmp_path: Path):
    paths = [tmp_path / "one.svg", tmp_path / "other.svg"]
    for path in paths:
        plot.draw(loads, path)
    one, other = (path.read_text() for path in paths)
    assert one == other
    assert f">{placement.MAPS}<" in one, "text stays text"


def test_a_file_without_a_panel_has_no_picture(loads: dict[str, Any], tmp_path: Path):
    document = loads | {"cases": {"small-cold": loads["cases"]["llama-cold"]}}
    with pytest.raises(ValueError, match="no case of which there is a picture"):
        plot.draw(document, tmp_path / "none.svg")
    assert not list(tmp_path.iterdir())
