"""Verdicts and tables follow from the JSON alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.contenders import registry
from bench.measure.limits import FIO, FIO_WRITE, LIMITS, READER
from bench.report import results, tables, targets
from bench.suites.campaign.case import LoadCase, SaveCase
from bench.suites.campaign.suite import Suite
from bench.suites.load.targets import TARGETS as LOAD_TARGETS
from bench.suites.registry import SUITES


def document(ours_s: float, rival_s: float, count: int = 16) -> dict[str, Any]:
    """Return a result file with one case, in which both drift together."""
    drift = [1 + 0.5 * (index % 3) for index in range(count)]
    contenders = {
        name: {
            "median_s": base,
            "gb_per_s": 2.0 / base,
            "notes": {},
            "seconds": [base * each for each in drift],
            "cpu_s": [0.5 * each for each in drift],
        }
        for name, base in {"fastio": ours_s, "fio": rival_s}.items()
    }
    case = {
        "title": "made up",
        "date": "2026-01-01T00:00:00+00:00",
        "versions": {"numpy": "2"},
        "tensor_bytes": 2 * 10**9,
        "rounds": count,
        "contenders": contenders,
        "missing": {"runai": "runai_model_streamer not installed"},
        "failed": {},
    }
    machine = {
        "cpu": "abacus",
        "cores": 2,
        "memory_gb": 1.0,
        "kernel": "6",
        "virtual": True,
        "filesystem": "ext4",
        "disk": {"name": "vda", "model": "virtio block device"},
        "huge_pages": "madvise",
        "python": "3.12",
    }
    return {
        "machine": machine,
        "limits": {"fio": {"settings": "4:8:2"}},
        "cases": {"llama-cold": case},
    }


def test_nothing_measured_is_nothing_met():
    verdicts = {each["verdict"] for each in targets.evaluate({"cases": {}}, LOAD_TARGETS)}
    assert verdicts == {"not measured"}


@pytest.mark.parametrize(("rival_s", "expected"), [(0.96, "met"), (0.94, "missed")])
def test_a_ratio_is_judged_by_its_pairs(rival_s: float, expected: str):
    judged = targets.evaluate(document(1.0, rival_s), LOAD_TARGETS)
    (found,) = (each for each in judged if each["text"] == "cold, verified, beside fio")
    assert found["verdict"] == expected


def test_cold_speed_is_the_rival_s_time_over_ours():
    judged = [
        each
        for each in targets.evaluate(document(1.0, 2.8), LOAD_TARGETS)
        if each["case"] == "llama-cold" and each["value"] is not None
    ]
    by_text = {each["text"]: each for each in judged}
    beside = by_text["cold, verified, beside fio"]
    assert (beside["value"], beside["verdict"], beside["count"]) == (2.8, "met", 16)
    # 0.5 to 1.0 CPU seconds for 2 GB.
    assert by_text["all CPU of a cold load"]["verdict"] == "met"


def test_too_few_rounds_decide_nothing():
    judged = targets.evaluate(document(1.0, 5.0, count=4), LOAD_TARGETS)
    assert {each["verdict"] for each in judged} == {"not decided", "not measured"}


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_every_contender_and_case_that_a_target_names_exists(suite: Suite):
    for case in suite.cases:
        assert set(case.contenders) <= set(registry.TITLES)
    assert {target.case for target in suite.targets} <= set(suite.case_names)


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_all_contenders_of_a_case_are_asked_for_the_same(suite: Suite):
    for case in suite.cases:
        ours = [name for name in case.contenders if name in registry.CONTENDERS]
        limits = set(case.contenders) - set(ours)
        if isinstance(case, SaveCase):
            assert set(ours) <= set(registry.SAVERS)
            assert limits <= {FIO_WRITE}
            continue
        gives = {registry.LOADERS[name].gives for name in ours}
        assert len(gives) == 1
        assert limits <= {FIO, READER}
        # Rows are too few to be found in memory, and fio reads whole files.
        assert gives != {"rows"} or (isinstance(case, LoadCase) and case.touched)
        assert gives != {"rows"} or not limits


def test_each_contender_has_a_name_of_its_own():
    everybody = len(registry.LOADERS) + len(registry.SAVERS) + len(registry.STORES)
    assert len(registry.TITLES) == everybody + len(LIMITS)


def test_json_is_folded_and_says_the_same():
    found = document(1.0, 2.8)
    text = results.to_json(found)
    assert json.loads(text) == found
    assert len(text.splitlines()) < 80


def test_tables_name_missing_contenders():
    found = document(1.0, 2.8)
    text = tables.markdown(found, LOAD_TARGETS)
    assert "Without Run:ai streamer: runai_model_streamer not installed." in text
    assert "abacus" in text
    assert "| 2.800 x | 2.800 to 2.800 | met |" in text
    tables.show(found, LOAD_TARGETS, Console(quiet=True))


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0, 1.1, 0.9, 1.0], "5 %"), ([2.0] * 8, "0 %"), ([1.0, 2.0], "")]
)
def test_a_table_says_how_steady_a_contender_was(values: list[float], expected: str):
    assert tables.spread(values) == expected
    found = document(1.0, 2.8)["cases"]["llama-cold"]
    found["contenders"]["fastio"]["seconds"] = values
    assert tables.case_rows(found, "")[0][2] == expected


def test_a_table_says_when_others_used_the_machine():
    found = document(1.0, 2.8)
    assert "did other work" not in tables.markdown(found, LOAD_TARGETS)
    for figures in found["cases"]["llama-cold"]["contenders"].values():
        figures["foreign_cpu_s"] = [0.5 * seconds for seconds in figures["seconds"]]
    assert "Meanwhile 25 % of the cores did other work." in tables.markdown(found, LOAD_TARGETS)


@pytest.mark.parametrize(
    ("value", "expected"), [(2.5, "2.5 s"), (0.0125, "12.5 ms"), (0.000042, "42 µs")]
)
def test_times_have_a_fitting_unit(value: float, expected: str):
    assert tables.seconds(value) == expected


def test_a_result_file_of_another_schema_is_refused(tmp_path: Path):
    path = tmp_path / "load-abacus.json"
    path.write_text(json.dumps({"schema": 1, "machine": {}, "cases": {}}))
    with pytest.raises(ValueError, match="is of schema 1: measure it again"):
        results.read(path)
    path.write_text(json.dumps({"schema": results.SCHEMA}))
    assert results.read(path) == {"schema": results.SCHEMA}
