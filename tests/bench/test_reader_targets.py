"""The reader's targets are judged by the right figures of its result file."""

from typing import Any

import pytest
from rich.console import Console

from bench.measure import statistics
from bench.report import pages, tables, targets
from bench.suites.campaign.suite import Suite
from bench.suites.reader.targets import TARGETS

MIB = targets.MIB
ROUNDS = 16
Contenders = dict[str, dict[str, Any]]


def document(case: str, contenders: Contenders, **more: Any) -> dict[str, Any]:
    """Return a result file with one case; figures that are numbers are those of every round."""
    described = {
        name: {
            "median_s": figures.get("seconds", 1.0),
            "notes": {},
            **{
                field: value if isinstance(value, (list, dict)) else [value] * ROUNDS
                for field, value in {"seconds": 1.0, **figures}.items()
            },
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
    return {"machine": {"cores": 2}, "limits": {}, "cases": {case: found | more}}


def judged(found: dict[str, Any], text: str) -> tuple[float | None, str]:
    """Return value and verdict of the one target that says `text`."""
    (row,) = (row for row in targets.evaluate(found, TARGETS) if row["text"] == text)
    return row["value"], row["verdict"]


def test_nothing_measured_is_nothing_met():
    rows = targets.evaluate({"cases": {}}, TARGETS)
    assert {row["verdict"] for row in rows} == {"not measured"}
    assert len({row["text"] for row in rows}) == len(rows)


def test_many_tensors_are_judged_by_the_loop_alone():
    found = document(
        "get-many",
        {
            "fastio-get-unverified": {"seconds": 9.0, "loop_s": 0.6},
            "safetensors-get": {"seconds": 1.0, "loop_s": 0.5},
        },
        tensors=100_000,
    )
    text = "100,000 tensors: get_tensor, warm, verify=False, the loop alone"
    assert judged(found, text) == (1.2, "met")
    rows = tables.case_rows(found["cases"]["get-many"], "")
    assert {row[-2] for row in rows} == {"6 µs", "5 µs"}


@pytest.mark.parametrize(
    ("name", "beyond", "text", "expected"),
    [
        ("fastio-slices", 200 * MIB, "verified", (2.0, "met")),
        ("fastio-slices", 201 * MIB, "verified", (2.01, "missed")),
        ("fastio-slices-unverified", 100 * 8192, "verify=False", (8.0, "met")),
        ("fastio-slices-unverified", 100 * 8200, "verify=False", (8.0078, "missed")),
    ],
)
def test_bytes_read_beyond_need_are_those_of_a_slice_and_exact(name, beyond, text, expected):
    needed = 25 * 10**6
    read = [needed] * (ROUNDS - 1) + [needed + beyond]
    found = document("slices-cold", {name: {"bytes_read": read}}, tensor_bytes=needed)
    assert judged(found, f"1 % of all rows: read beyond what is needed, {text}") == expected


def test_cpu_is_that_of_a_gigabyte():
    found = document("into-cold", {"fastio-into": {"cpu_s": 0.9}})
    assert judged(found, "CPU of load_into, verified") == (0.45, "missed")


@pytest.mark.parametrize(("peak_mib", "expected"), [(560, "met"), (570, "missed")])
def test_a_stream_is_held_to_its_limit_or_to_the_largest_tensor(peak_mib: int, expected: str):
    peaks = [400 * MIB, peak_mib * MIB]
    found = document(
        "stream-memory",
        {"fastio-stream": {"peak_bytes": peaks, "allowed_bytes": [500 * MIB] * 2}},
    )
    text = "stream: peak memory above the limit, or the largest tensor"
    assert judged(found, text) == (peak_mib - 500, expected)


@pytest.mark.parametrize(
    ("numpy_s", "expected"),
    [
        ([1.02] * ROUNDS, "met"),
        ([0.98] * ROUNDS, "met"),
        ([1.05] * ROUNDS, "missed"),
        ([0.95] * ROUNDS, "missed"),
        ([0.9, 1.1] * (ROUNDS // 2), "not decided"),
    ],
)
def test_frameworks_are_near_each_other_whichever_is_faster(numpy_s, expected):
    found = document(
        "frameworks-warm", {"fastio": {}, "fastio-numpy-verified": {"seconds": numpy_s}}
    )
    assert judged(found, "numpy and torch, warm, verified, apart")[1] == expected


def test_the_distance_of_two_that_may_be_equal_begins_at_nothing():
    numpy_s = [0.99, 1.01] * (ROUNDS // 2)
    found = document(
        "frameworks-cold", {"fastio": {}, "fastio-numpy-verified": {"seconds": numpy_s}}
    )
    measure = targets.percent_apart("frameworks-cold", "fastio-numpy-verified", "fastio")
    estimate = measure(found)
    assert estimate.interval is not None
    assert estimate.interval[0] == 0.0
    assert estimate.interval[1] == pytest.approx(1.0)
    few = document("frameworks-cold", {"fastio": {}, "fastio-numpy-verified": {}})
    for figures in few["cases"]["frameworks-cold"]["contenders"].values():
        figures["seconds"] = [1.0, 1.0]
    assert measure(few) == statistics.Estimate(0.0, None, 2)


def test_memory_over_time_is_a_line_of_bars():
    found = document(
        "stream-memory",
        {
            "fastio-stream": {
                "peak_bytes": 512 * MIB,
                "memory_over_time": {"seconds": [0.0, 0.5, 1.5], "mib": [-0.1, 256.0, 512.0]},
            }
        },
    )
    (line,) = tables.over_time(found["cases"]["stream-memory"])
    assert line.startswith("`▁▄█` fastio, stream")
    assert line.endswith(": 512 MiB, 1.5 s")
    tables.show(found, TARGETS, Console(quiet=True))


def test_a_suite_without_results_says_so_between_its_marks():
    nothing = Suite("no-such-suite", (), ())
    begin, end = pages.marks(nothing)
    text = pages.filled(f"before\n{begin}\nold\n{end}\nafter\n", nothing)
    assert text == f"before\n{begin}\n\nNot measured yet.\n\n{end}\nafter\n"
    with pytest.raises(ValueError, match="no-such-suite: begin"):
        pages.filled("nothing", nothing)
