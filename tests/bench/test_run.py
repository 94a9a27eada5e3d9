"""A measurement is believed only if its answer is right and was read within the clock."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.contenders import contender
from bench.contenders.registry import LOADERS
from bench.measure import answers, cache, guest_memory, machine
from bench.suites.campaign import load_run, run
from bench.suites.campaign.case import LoadCase
from testbed.stand_in import Made, StandIn

NOTHING: dict[str, Any] = {}


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr(run, "Worker", StandIn)
    monkeypatch.setattr(StandIn, "asked", [])
    return StandIn


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if machine.filesystem(tmp_path) in {"tmpfs", "ramfs"}:
        pytest.skip("a file in memory cannot be evicted")
    return tmp_path


def measured(digest: str, **more: Any) -> dict[str, Any]:
    """Return a worker's answer about a measurement and its result."""
    return {
        "seconds": 0.5,
        "anonymous_bytes": 0,
        "anonymous_before_bytes": 2**20,
        "storage_bytes": 0,
        "figures": {},
        "digest": digest,
    } | more


def outcome(folder: Path, contender: str, **case: Any) -> tuple[dict[str, Any], run.Run]:
    """Run two rounds of a small cold case with one contender."""
    pytest.importorskip("safetensors.torch")
    described = LoadCase("case", "made up", "small", (contender,), cold=True, **case)
    whole = load_run.LoadRun(described, Made(folder), NOTHING, lambda text: None)
    return whole.run(2), whole


def digest_of(folder: Path) -> str:
    return answers.file_digest(Made(folder).get("small"))


def test_a_wrong_answer_voids_the_contender(folder: Path, worker: type[StandIn]):
    worker.answer = measured("0" * 32)
    result, _ = outcome(folder, "safetensors-get")
    assert "wrong answer" in result["failed"]["safetensors-get"]
    assert result["contenders"] == {}


def test_a_right_answer_counts_with_the_figures_beside_it(folder: Path, worker: type[StandIn]):
    worker.answer = measured(digest_of(folder), figures={"loop_s": 0.25})
    result, _ = outcome(folder, "safetensors-get")
    found = result["contenders"]["safetensors-get"]
    assert result["failed"] == {}
    assert (found["seconds"], found["loop_s"]) == ([0.5, 0.5], [0.25, 0.25])


def test_all_tensors_are_no_answer_to_a_question_for_rows(folder: Path, worker: type[StandIn]):
    worker.answer = measured(digest_of(folder))
    result, _ = outcome(folder, "safetensors-slices", touched=True)
    assert "wrong answer" in result["failed"]["safetensors-slices"]
    assert 0 < result["tensor_bytes"] < answers.tensor_bytes(Made(folder).get("small"))


def test_the_worker_prepares_before_the_file_is_made_cold(
    folder: Path, worker: type[StandIn], monkeypatch: pytest.MonkeyPatch
):
    def evict(path: Path) -> None:
        worker.asked.append({"evicted": path.name})

    def free(self: guest_memory.Ballast) -> None:
        worker.asked.append({"freed": "memory"})

    monkeypatch.setattr(cache, "evict", evict)
    monkeypatch.setattr(guest_memory.Ballast, "free", free)
    monkeypatch.setattr(cache, "resident_pages", lambda path: 0)
    worker.answer = measured(digest_of(folder))
    outcome(folder, "safetensors-get")
    steps = [
        step.get("do") or step.get("evicted") or step.get("freed", "job") for step in worker.asked
    ]
    assert steps == 2 * ["job", "prepare", "small.safetensors", "memory", "measure", "digest"]


def test_a_file_that_comes_back_while_memory_is_freed_is_made_cold_again(
    folder: Path, worker: type[StandIn], monkeypatch: pytest.MonkeyPatch
):
    found = iter([3, 0, 0])
    monkeypatch.setattr(cache, "resident_pages", lambda path: next(found))
    monkeypatch.setattr(cache, "evict", lambda path: worker.asked.append({"do": "evict"}))
    worker.answer = measured(digest_of(folder))
    result, _ = outcome(folder, "safetensors-get")
    assert result["failed"] == {}
    assert [step["do"] for step in worker.asked if step.get("do") == "evict"] == 3 * ["evict"]
    monkeypatch.setattr(cache, "resident_pages", lambda path: 3)
    result, _ = outcome(folder, "safetensors-get")
    assert "the machine changed what was prepared" in result["failed"]["safetensors-get"]


def test_a_second_version_of_a_library_is_the_one_that_is_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    name = "safetensors-rc"
    site = folder / "site"
    monkeypatch.setattr(contender, "ROOT", folder)
    other = replace(LOADERS[name], site="site")
    assert other.missing() == "site not installed"
    site.mkdir()
    assert other.missing() is None


def test_no_round_begins_after_the_deadline(folder: Path, worker: type[StandIn]):
    worker.answer = measured(digest_of(folder))
    described = LoadCase("case", "made up", "small", ("safetensors-get",), cold=True)
    whole = load_run.LoadRun(described, Made(folder), NOTHING, lambda text: None)
    whole.deadline = time.monotonic() - 1
    result = whole.run(4)
    assert (result["rounds"], result["orders"], result["contenders"]) == (0, [], {})


def test_results_are_stored_after_each_round(folder: Path, worker: type[StandIn]):
    worker.answer = measured(digest_of(folder))
    described = LoadCase("case", "made up", "small", ("safetensors-get",), cold=True)
    whole = load_run.LoadRun(described, Made(folder), NOTHING, lambda text: None)
    kept: list[dict[str, Any]] = []
    whole.keep = kept.append
    assert whole.run(2) == kept[-1]
    assert [each["rounds"] for each in kept] == [1, 2]
    assert kept[0]["contenders"]["safetensors-get"]["seconds"] == [0.5]


@pytest.mark.parametrize(
    ("contender", "field", "where"),
    [
        ("fastio", "anonymous_bytes", "in memory"),
        ("safetensors-copy", "storage_bytes", "read from storage"),
        ("safetensors-stream", "storage_bytes", "read from storage"),
    ],
)
def test_a_cold_load_that_is_not_done_is_void(
    folder: Path,
    worker: type[StandIn],
    monkeypatch: pytest.MonkeyPatch,
    contender: str,
    field: str,
    where: str,
):
    monkeypatch.setattr(load_run, "CHECKED_BYTES", 1)
    nbytes = answers.tensor_bytes(Made(folder).get("small"))
    worker.answer = measured(digest_of(folder), **{field: nbytes})
    result, _ = outcome(folder, contender)
    assert result["failed"] == {}
    worker.answer = measured(digest_of(folder), **{field: nbytes // 2})
    result, _ = outcome(folder, contender)
    assert f"bytes {where}" in result["failed"][contender]


def test_a_kernel_that_does_not_count_reads_is_no_witness(
    folder: Path, worker: type[StandIn], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(load_run, "CHECKED_BYTES", 1)
    worker.answer = measured(digest_of(folder), storage_bytes=None)
    result, _ = outcome(folder, "safetensors-stream")
    assert "/proc/self/io" in result["failed"]["safetensors-stream"]


def test_memory_over_time_is_counted_above_the_level_before(folder: Path, worker: type[StandIn]):
    samples = [(0.001 * index, 2**20 * (1 + index % 8)) for index in range(500)]
    worker.answer = measured(digest_of(folder), samples=samples, sampled_peak_bytes=2**20 * 8)
    result, _ = outcome(folder, "safetensors-stream", memory=True, over_time=True)
    found = result["contenders"]["safetensors-stream"]
    assert found["peak_bytes"] == [7 * 2**20, 7 * 2**20]
    kept = found["memory_over_time"]
    assert len(kept["mib"]) == len(kept["seconds"]) == run.POINTS
    assert max(kept["mib"]) == 7.0


@pytest.mark.parametrize(
    "contender",
    ["safetensors-get", "safetensors-slices", "safetensors-copy", "safetensors-stream"],
)
def test_the_rivals_of_the_reader_give_the_right_answers(folder: Path, contender: str):
    result, _ = outcome(folder, contender, touched=contender.endswith("slices"))
    assert result["failed"] == {}
    assert len(result["contenders"][contender]["seconds"]) == 2
