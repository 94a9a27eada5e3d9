"""The targets of saves are judged by the right figures of the result file, and drawn."""

from typing import Any

import pytest

from bench.report import plot, tables, targets
from bench.suites.save.targets import TARGETS

ROUNDS = 16
MIB = targets.MIB


def document(case: str, contenders: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return a result file with one case; each figure is that of every round."""
    described = {
        name: {
            "median_s": figures.get("seconds", 1.0),
            "notes": {},
            **{field: [value] * ROUNDS for field, value in {"seconds": 1.0, **figures}.items()},
        }
        for name, figures in contenders.items()
    }
    found = {
        "title": "made up",
        "tensor_bytes": 2 * 10**9,
        "tensors": 100,
        "rounds": ROUNDS,
        "missing": {},
        "failed": {},
        "contenders": described,
    }
    return {"machine": {"cores": 2}, "limits": {}, "cases": {case: found}}


def judged(found: dict[str, Any], text: str) -> tuple[float | None, str]:
    """Return value and verdict of the one target that says `text`."""
    (row,) = (row for row in targets.evaluate(found, TARGETS) if row["text"] == text)
    return row["value"], row["verdict"]


def test_nothing_measured_is_nothing_met():
    rows = targets.evaluate({"cases": {}}, TARGETS)
    assert {row["verdict"] for row in rows} == {"not measured"}
    assert len({row["text"] for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("rival", "text", "bound"),
    [
        ("fio-write", "durable, beside fio with end_fsync", 0.95),
    ],
)
def test_durable_saves_are_compared_with_durable_saves(rival: str, text: str, bound: float):
    contenders = {"fastio-save": {"seconds": 2.0}, "fastio-save-not-durable": {"seconds": 0.1}}
    met = document("save-llama", contenders | {rival: {"seconds": 2.0 * bound}})
    assert judged(met, text) == (bound, "met")
    missed = document("save-llama", contenders | {rival: {"seconds": 1.9 * bound}})
    assert judged(missed, text)[1] == "missed"


def test_the_cost_of_checksums_is_the_difference_to_a_save_without_them():
    found = document(
        "save-llama", {"fastio-save": {"seconds": 1.04}, "fastio-save-unsummed": {"seconds": 1.0}}
    )
    assert judged(found, "time of checksums") == (4.0, "met")


@pytest.mark.parametrize(("peak_mib", "expected"), [(64, "met"), (65, "missed")])
def test_the_memory_of_the_saved_tensors_is_not_counted(peak_mib: int, expected: str):
    found = document("save-memory", {"fastio-save": {"peak_bytes": peak_mib * MIB}})
    assert judged(found, "peak memory beside the tensors") == (peak_mib, expected)


@pytest.mark.parametrize(("seconds", "expected"), [(0.004, "met"), (0.011, "missed")])
def test_a_borrowed_snapshot_is_judged_by_when_the_call_returns(seconds: float, expected: str):
    found = document("save-background", {"fastio-save-borrow": {"seconds": seconds}})
    assert judged(found, "start_save, snapshot=borrow returns") == (1000 * seconds, expected)


def test_others_are_compared_with_the_plain_save():
    found = document("save-llama", {"torch-save": {}, "fastio-save": {}, "fio-write": {}})
    assert tables.base_of(found["cases"]["save-llama"]) == "fastio-save"


def test_the_picture_of_saves_tells_durable_ones_from_others():
    found = document(
        "save-llama",
        {
            "fastio-save": {},
            "safetensors-save": {},
            "fio-write": {"seconds": 0.5},
        },
    )
    durable, kept = plot.panels_of(found)
    case = found["cases"]["save-llama"]
    assert "safetensors-save" in kept.shown
    assert "safetensors-save" not in durable.shown
    assert plot.limit(case, durable.limits) == ("fio-write", 4.0)
    assert plot.limit(case, kept.limits) is None
    assert plot.panels_of({"cases": {}}) == []
