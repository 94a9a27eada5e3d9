"""Loads onto a GPU are judged by the right figures, compared there, and refused without a GPU.

These tests need no GPU: torch computes the digest on the CPU, and the worker is a stand-in.
"""

from __future__ import annotations

import io
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from bench.contenders import gpu_limits, gpu_loads, registry
from bench.contenders.contender import Attempt, Loader
from bench.errors import MeasureError
from bench.measure import answers, gpu, gpu_answers, guest_memory, limits, machine, models
from bench.report import gpu_table, tables, targets
from bench.suites import gpu_trace, load_gpu
from bench.suites.campaign import gpu_run, run, suite
from bench.suites.campaign.case import GpuCase
from bench.suites.load_gpu.targets import CACHE, COPY, TARGETS
from bench.suites.registry import SUITES
from testbed.stand_in import Made, StandIn

MIB = 2**20
ROUNDS = 16
COLD, WARM = "gpu-cold", "gpu-warm"


def document(case: str, **seconds: Any) -> dict[str, Any]:
    """Return a result file with one case; names have _ for -, figures are those of every round."""
    described = {}
    for name, figures in seconds.items():
        found = figures if isinstance(figures, dict) else {"seconds": figures}
        described[name.replace("_", "-")] = {
            "median_s": 1.0,
            "notes": {},
            **{
                field: value if isinstance(value, list) else [value] * ROUNDS
                for field, value in {"seconds": 1.0, **found}.items()
            },
        }
    found_case = {
        "title": "made up",
        "date": "2026-01-01T00:00:00+00:00",
        "versions": {"torch": "2"},
        "tensor_bytes": 10**9,
        "tensors": 100,
        "rounds": ROUNDS,
        "missing": {"instanttensor-gpu": "instanttensor not installed"},
        "failed": {},
        "contenders": described,
    }
    return {"machine": {"cores": 2}, "limits": {}, "cases": {case: found_case}}


def judged(found: dict[str, Any], text: str) -> tuple[float | None, str]:
    """Return value and verdict of the one target that ends with `text`."""
    (row,) = (row for row in targets.evaluate(found, TARGETS) if row["text"].endswith(text))
    return row["value"], row["verdict"]


# ---- targets


def test_nothing_measured_is_nothing_met():
    rows = targets.evaluate({"cases": {}}, TARGETS)
    assert {row["verdict"] for row in rows} == {"not measured"}
    assert len({row["text"] for row in rows}) == len(rows) == 7


@pytest.mark.parametrize(
    ("ours_s", "storage", "copy_s", "expected"),
    [
        (1.0, {"native_reader": 1.0}, 0.1, (1.0, "met")),
        (1.0, {"native_reader": 0.1}, 0.96, (0.96, "met")),
        (1.0, {"native_reader": 0.9}, 0.94, (0.94, "missed")),
        # The faster way of two to read.
        (1.0, {"fio": 2.0, "native_reader": 0.9}, 0.5, (0.9, "missed")),
        (1.0, {"fio": 0.9, "native_reader": 2.0}, 0.5, (0.9, "missed")),
    ],
)
def test_a_cold_load_is_held_to_the_slower_of_storage_and_bus(ours_s, storage, copy_s, expected):
    found = document(COLD, fastio_gpu=ours_s, copy_pinned=copy_s, **storage)
    assert judged(found, "beside the slower of storage and pinned copies") == expected


def test_a_limit_without_a_measurement_is_none():
    found = document(COLD, fastio_gpu=1.0, copy_pinned=1.0)
    assert judged(found, "storage and pinned copies") == (None, "not measured")
    found = document(COLD, fastio_gpu=1.0, native_reader=1.0)
    assert judged(found, "storage and pinned copies") == (None, "not measured")


def test_a_warm_load_is_held_to_the_slower_of_bus_and_cache():
    found = document(WARM, fastio_gpu=1.0, copy_pinned=0.5, cache_read=0.91)
    assert judged(found, "pinned copies and reads from the cache") == (0.91, "met")


@pytest.mark.parametrize("case", [COLD, WARM])
def test_the_best_rival_has_the_least_median(case: str):
    found = document(case, fastio_gpu=1.0, runai_gpu=3.0, safetensors_gpu=1.2)
    assert judged(found, f"{case.removeprefix('gpu-')}, beside the best rival") == (1.2, "met")
    found["cases"][case]["contenders"].pop("safetensors-gpu")
    assert judged(found, f"{case.removeprefix('gpu-')}, beside the best rival") == (3.0, "met")
    found["cases"][case]["contenders"].pop("runai-gpu")
    assert judged(found, f"{case.removeprefix('gpu-')}, beside the best rival")[1] == "not measured"


@pytest.mark.parametrize(("pinned", "expected"), [(512, (0.0, "met")), (513, (1.0, "missed"))])
def test_pinned_memory_is_judged_by_its_most(pinned: int, expected: tuple[float, str]):
    figures = {
        "pinned_bytes": [MIB] * (ROUNDS - 1) + [pinned * MIB],
        "pinned_limit_bytes": 512 * MIB,
    }
    found = document(COLD, fastio_gpu=figures)
    assert judged(found, "pinned memory above its limit") == expected


@pytest.mark.parametrize(("taken", "expected"), [(1.01, (1.0, "met")), (1.02, (2.0, "missed"))])
def test_memory_of_the_device_is_judged_by_its_most(taken: float, expected: tuple[float, str]):
    figures = {"device_bytes": [10**9] * (ROUNDS - 1) + [round(taken * 10**9)]}
    found = document(COLD, fastio_gpu=figures)
    assert judged(found, "memory of the device beside the tensors") == expected


def test_pinning_is_judged_by_the_loads_after_the_first():
    figures = {"pinning_s": 0.04, "seconds": 0.8, "first": {"pinning_s": 0.7, "seconds": 0.8}}
    found = document(WARM, fastio_gpu={"pinning_s": 0.04, "seconds": 0.8})
    found["cases"][WARM]["contenders"]["fastio-gpu"]["first"] = figures["first"]
    assert judged(found, "time that a second load spends pinning") == (5.0, "met")


def test_tables_name_the_gpu_and_the_missing_contenders():
    found = document(COLD, fastio_gpu=1.0, copy_pinned=0.5)
    about = {
        "cpu": "abacus",
        "cores": 2,
        "memory_gb": 1.0,
        "kernel": "6",
        "virtual": False,
        "filesystem": "xfs",
        "disk": {"name": "nvme0n1", "model": ""},
        "huge_pages": "madvise",
        "python": "3.12",
        "gpu": {"name": "NVIDIA H200", "driver": "580.1", "torch": "2.11.0"},
    }
    text = tables.markdown(found | {"machine": about}, TARGETS)
    assert "NVIDIA H200, driver 580.1, torch 2.11.0" in text
    assert "Without InstantTensor, to cuda: instanttensor not installed." in text
    assert "its time / fastio, to cuda's" in text
    tables.show(found, TARGETS, Console(quiet=True))


# ---- the suite


def test_its_results_are_not_those_of_loads_into_host_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(suite, "RESULTS", tmp_path)
    described = {"gpu": {"name": "NVIDIA GeForce RTX 4090 (Laptop)"}}
    path = SUITES["load-gpu"].result_path(described)
    assert path.name == "load-gpu-nvidia-geforce-rtx-4090-laptop.json"
    for name in (path.name, "load-abacus-2-cores.json"):
        (tmp_path / name).touch()
    assert [path.name for path in SUITES["load"].result_paths()] == ["load-abacus-2-cores.json"]
    assert SUITES["load-gpu"].result_paths() == [path]


def test_six_loaders_and_every_limit_take_part():
    for case in SUITES["load-gpu"].cases:
        assert isinstance(case, GpuCase)
        loaders = set(case.contenders) - set(gpu_limits.NAMES) - set(limits.LIMITS)
        assert len(loaders) <= 6
        assert len(loaders & set(gpu_loads.RIVALS)) == 3
        storage = {limits.READER} if case.cold else set(CACHE)
        assert {*storage, *COPY} <= set(case.contenders)
    assert set(CACHE + COPY) == set(gpu_limits.NAMES)


@pytest.mark.parametrize("rehearsal", [True, False])
def test_results_are_kept_for_their_device_and_those_of_a_rehearsal_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rehearsal: bool
):
    results = tmp_path / "results"
    results.mkdir()
    monkeypatch.setattr(suite, "RESULTS", results)
    monkeypatch.setattr(load_gpu, "RESULTS", results)
    out = tmp_path / "bench.json"
    about = gpu.REHEARSAL if rehearsal else {"name": "NVIDIA H200"}
    out.write_text(json.dumps({"machine": {"gpu": about}}))
    (tmp_path / "trace.json").write_text("{}")
    if rehearsal:
        with pytest.raises(ValueError, match="is a rehearsal's"):
            load_gpu.adopt(out)
        assert list(results.iterdir()) == []
    else:
        kept = ["load-gpu-nvidia-h200.json", "trace-gpu-nvidia-h200.json"]
        assert [path.name for path in load_gpu.adopt(out)] == kept
        assert sorted(path.name for path in results.iterdir()) == kept


def test_without_a_gpu_it_says_so_and_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    if torch.cuda.is_available():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = tmp_path / "result.json"
    assert load_gpu.main(["--dir", str(tmp_path / "d"), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("bench load-gpu: no GPU to measure on: torch ")
    assert not out.exists()
    with pytest.raises(gpu.NoGpuError, match="no GPU to measure on"):
        gpu.describe(tmp_path)


# ---- answers


@pytest.mark.parametrize("piece_bytes", [512, 4096, gpu_answers.PIECE_BYTES])
@pytest.mark.parametrize("model", ["small", "tiny"])
def test_the_digest_of_tensors_is_that_of_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, piece_bytes: int
):
    import safetensors.torch

    path = models.make(model, tmp_path)
    expected = gpu_answers.file_digest(path)
    monkeypatch.setattr(gpu_answers, "PIECE_BYTES", piece_bytes)
    assert gpu_answers.file_digest(path) == expected
    tensors = safetensors.torch.load_file(path)
    assert gpu_answers.digest(tensors) == expected
    assert gpu_answers.OnDevice(tensors).digest() == expected
    assert gpu_answers.digest(dict(reversed(tensors.items()))) == expected


def test_the_digest_sees_every_byte_and_its_place():
    random = np.random.default_rng(1)
    base = torch.from_numpy(random.integers(0, 256, 1003, np.uint8))
    seen = {gpu_answers.digest({"t": base})}
    for at in range(len(base)):
        changed = base.clone()
        changed[at] ^= 1 << (at % 8)
        seen.add(gpu_answers.digest({"t": changed}))
    swapped = base.clone()
    swapped[:8], swapped[8:16] = base[8:16], base[:8]
    seen.add(gpu_answers.digest({"t": swapped}))
    seen.add(gpu_answers.digest({"u": base}))
    seen.add(gpu_answers.digest({"t": base.view(17, 59)}))
    seen.add(gpu_answers.digest({"t": base.view(torch.int8)}))
    seen.add(gpu_answers.digest({"t": base[:-1].clone()}))
    assert len(seen) == 1 + len(base) + 5
    # The digest ignores a tensor's address.
    shifted = torch.cat([torch.zeros(3, dtype=torch.uint8), base])[3:]
    assert gpu_answers.digest({"t": shifted}) in seen


def test_impossible_tensors_are_no_answer():
    with pytest.raises(answers.AnswerError, match="contiguous: False"):
        gpu_answers.digest({"t": torch.zeros(4, 4).T})
    with pytest.raises(answers.AnswerError, match="complex128"):
        gpu_answers.digest({"t": torch.zeros(4, dtype=torch.complex128)})


# ---- the rounds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if machine.filesystem(tmp_path) in {"tmpfs", "ramfs"}:
        pytest.skip("a file in memory cannot be evicted")
    return tmp_path


def outcome(folder: Path, *names: str, rounds: int = 2) -> dict[str, Any]:
    described = GpuCase("case", "made up", "small", names, cold=True)
    return gpu_run.GpuRun(described, Made(folder), {}, lambda text: None).run(rounds)


def test_reading_the_cache_is_measured_without_an_answer(folder: Path):
    result = outcome(folder, "cache-read")
    assert result["failed"] == {}
    assert len(result["contenders"]["cache-read"]["seconds"]) == 2


@pytest.mark.parametrize("buffers", [1, 3])
def test_a_read_that_does_not_read_all_is_an_error(folder: Path, buffers: int):
    path = models.make("small", folder)
    (limit,) = (limit for limit in gpu_limits.LIMITS if limit.name == "cache-read")
    assert limit.prepare is not None
    given = limit.prepare(str(path))
    assert len(given["buffers"]) == gpu_limits.lanes()
    limit.load(Attempt(str(path), {"buffers": given["buffers"][:buffers]}))
    real = os.preadv
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", lambda *arguments: real(*arguments) // 2)
        with pytest.raises(OSError, match=r"read \d+ of \d+ bytes"):
            limit.load(Attempt(str(path), given))


@pytest.fixture
def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """A worker whose answers are those of a right load."""
    monkeypatch.setattr(run, "Worker", StandIn)
    monkeypatch.setattr(StandIn, "asked", [])
    monkeypatch.setattr(Loader, "missing", lambda self: None)
    StandIn.answer = {
        "seconds": 0.5,
        "anonymous_bytes": 0,
        "storage_bytes": None,
        "figures": {"device_bytes": 5.0, "pinning_s": 0.1},
        "digest": gpu_answers.file_digest(models.make("small", folder)),
    }
    return StandIn


def test_one_process_lives_through_all_rounds_and_its_first_load_is_kept_apart(
    folder: Path, stand_in: type[StandIn]
):
    result = outcome(folder, "fastio-gpu", "runai-gpu")
    assert result["failed"] == {}
    assert result["rounds"] == 2
    started = [asked["contender"] for asked in stand_in.asked if "contender" in asked]
    assert sorted(started) == ["fastio-gpu", "runai-gpu"]
    found = result["contenders"]["fastio-gpu"]
    assert found["seconds"] == [0.5, 0.5]
    assert found["device_bytes"] == [5.0, 5.0]
    assert found["first"] == {"seconds": 0.5, "device_bytes": 5.0, "pinning_s": 0.1}


def test_tensors_are_compared_by_their_digest_on_the_device(folder: Path, stand_in: type[StandIn]):
    stand_in.answer |= {"digest": answers.file_digest(models.make("small", folder))}
    assert "wrong answer" in outcome(folder, "fastio-gpu")["failed"]["fastio-gpu"]


def test_a_contender_that_fails_leaves_and_the_others_go_on(folder: Path, stand_in: type[StandIn]):
    class Failing(StandIn):
        def ask(self, order: dict[str, Any], **more: Any) -> dict[str, Any]:
            if self.job["contender"] == "runai-gpu" and order["do"] == "measure":
                raise MeasureError("out of luck")
            return super().ask(order, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Worker", Failing)
        result = outcome(folder, "fastio-gpu", "runai-gpu")
    assert result["failed"] == {"runai-gpu": "out of luck"}
    assert result["contenders"]["fastio-gpu"]["seconds"] == [0.5, 0.5]


@pytest.mark.parametrize("name", ["fastio-gpu", "safetensors-gpu", "copy-pinned"])
def test_a_contender_that_cannot_reach_a_gpu_fails_by_itself(folder: Path, name: str):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    if reason := registry.LOADERS[name].missing():
        pytest.skip(reason)
    result = outcome(folder, name)
    assert result["contenders"] == {}
    assert result["failed"][name]


@pytest.mark.parametrize("name", ["fastio-gpu", "fastio-gpu-unverified", "fastio-gpu-into"])
def test_loads_are_rehearsed_on_the_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(gpu.VARIABLE, "cpu")
    result = outcome(folder, name, rounds=1)
    assert result["failed"] == {}
    assert len(result["contenders"][name]["seconds"]) == 1
    assert gpu.describe(folder)["gpu"]["rehearsal"] is True


# ---- the trace, and the printed text of a run


def test_the_trace_tells_each_lane_and_the_fastest_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(gpu.VARIABLE, "cpu")
    monkeypatch.setattr(gpu_trace, "DEFAULT_ROUNDS", 1)
    path = models.make("small", folder)
    with guest_memory.Ballast(1) as ballast:
        told_each = list(gpu_trace.trace(path, ballast, math.inf))
    assert len(told_each) == 5
    found = told_each[-1]
    assert set(found["default"]) == {"cold", "warm"}
    for state in ("warm", "cold"):
        assert all(len(row["seconds"]) == 2 for row in found[f"sweep_{state}"])
        assert found[f"sweep_{state}"][0].keys() == {"seconds"}
    told = gpu_trace.lines(found)
    assert told[0].startswith("cold: ")
    assert any(line.startswith("  blocks of ") for line in told)
    assert any(line.startswith("  by default: ") for line in told)


def test_no_round_of_the_sweep_begins_after_the_deadline(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(gpu.VARIABLE, "cpu")
    monkeypatch.setattr(gpu_trace, "DEFAULT_ROUNDS", 1)
    with guest_memory.Ballast(1) as ballast:
        (found,) = gpu_trace.trace(models.make("small", folder), ballast, time.monotonic() - 1)
    assert found["sweep_warm"] == found["sweep_cold"] == []
    assert not any("sweep" in line for line in gpu_trace.lines(found))


def test_settings_that_do_not_fit_into_pinned_memory_are_not_tried():
    limit = 512 * MIB
    for state in gpu_trace.GRIDS:
        assert gpu_trace.sweep(state, limit)
        for each in gpu_trace.sweep(state, limit):
            assert each["block_bytes"] * each["queue_depth"] * each["lanes"] <= limit
        assert gpu_trace.sweep(state, MIB) == []


def test_a_run_is_shown_with_its_missing_parts_and_its_failures(tmp_path: Path):
    (tmp_path / "tests.xml").write_text(
        "<testsuites><testsuite><testcase classname='a' name='good'/>"
        "<testcase classname='a' name='bad'><failure/></testcase>"
        "<testcase classname='a' name='away'><skipped/></testcase></testsuite></testsuites>"
    )
    console = Console(width=120, record=True, file=io.StringIO())
    gpu_table.show(tmp_path, console)
    said = console.export_text()
    assert "bench: no result" in said
    assert "trace: no result" in said
    assert "tests: 1 passed, 1 failed, 1 skipped\n  a::bad" in said


def test_missing_facts_are_marked_as_missing():
    facts = {
        "machine": {"gpu": {"name": "NVIDIA H200"}},
        "bus": {"to_device_gb_s": 51.23456, "from_device_gb_s": 49.0},
        "disk": {"error": "read-only"},
    }
    assert gpu_table.facts_lines(facts) == [
        "device: NVIDIA H200",
        "bus, pinned: 51.2 GB/s there, 49 GB/s back",
        "disk, direct: read-only GB/s",
        "io_uring works: not known",
    ]
