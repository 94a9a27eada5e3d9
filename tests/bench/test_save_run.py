"""A save counts only if its file reads back right, and the benchmark removes every file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.contenders.contender import Answer, Attempt, Saver
from bench.contenders.registry import SAVERS
from bench.errors import MeasureError
from bench.measure import answers, limits, machine, outputs
from bench.measure.settings import Settings
from bench.suites.campaign import run, save_run
from bench.suites.campaign.case import SaveCase
from testbed.stand_in import Made, StandIn


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other disk traffic is harmless where nothing is timed."""
    monkeypatch.setattr(outputs, "wait_until_quiet", lambda statistics: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if machine.filesystem(tmp_path) in {"tmpfs", "ramfs"}:
        pytest.skip("a file in memory cannot be evicted")
    return tmp_path


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr(run, "Worker", StandIn)
    monkeypatch.setattr(StandIn, "asked", [])
    return StandIn


def measured(digest: str, **more: Any) -> dict[str, Any]:
    """Return a worker's answer about a save and its file."""
    return {
        "seconds": 0.5,
        "anonymous_bytes": 0,
        "anonymous_before_bytes": 2**30,
        "figures": {},
        "digest": digest,
    } | more


def outcome(folder: Path, *contenders: str, **case: Any) -> dict[str, Any]:
    """Run one round of a small case, and check that only the models are left."""
    for name in contenders:
        reason = (SAVERS[name] if name in SAVERS else limits.LIMITS[name]).missing()
        if reason:
            pytest.skip(reason)
    described = SaveCase("case", "made up", "small", contenders, **case)
    settings = {"fio-write": Settings(1, 4, 1)}
    result = save_run.SaveRun(described, Made(folder), settings, lambda text: None).run(1)
    assert {path.name for path in folder.iterdir()} == {"small.safetensors", "tiny.safetensors"}
    return result


def digest_of(folder: Path) -> str:
    return answers.file_digest(Made(folder).get("small"))


@pytest.mark.parametrize("saver", SAVERS.values(), ids=SAVERS)
def test_each_saver_writes_the_model(folder: Path, saver: Saver):
    if reason := saver.missing():
        pytest.skip(reason)
    attempt = Attempt(str(folder / "saved"), saver.prepare(str(Made(folder).get("small"))))
    saved = saver.save(attempt)
    found = saved.digest() if isinstance(saved, Answer) else answers.digest(saved)
    assert found == digest_of(folder)


@pytest.mark.parametrize("contender", ["torch-save-fsync", "fastio-save-borrow"])
def test_a_save_is_measured_in_a_process_of_its_own(folder: Path, contender: str):
    result = outcome(folder, contender)
    assert result["failed"] == {}
    found = result["contenders"][contender]
    assert len(found["seconds"]) == 1
    assert ("gb_per_s" in found) is not SAVERS[contender].returns_early


def test_a_file_that_is_not_the_model_voids_the_contender(folder: Path, worker: type[StandIn]):
    worker.answer = measured("0" * 32)
    result = outcome(folder, "torch-save")
    assert "wrong answer" in result["failed"]["torch-save"]
    assert result["contenders"] == {}


def test_memory_is_counted_above_the_tensors(folder: Path, worker: type[StandIn]):
    worker.answer = measured(digest_of(folder), sampled_peak_bytes=2**30 + 2**20)
    result = outcome(folder, "torch-save", memory=True)
    assert result["contenders"]["torch-save"]["peak_bytes"] == [2**20]


def test_the_disk_is_put_to_rest_when_the_tensors_are_there_and_before_the_clock_starts(
    folder: Path, worker: type[StandIn], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        outputs.Outputs, "settle", lambda self: worker.asked.append({"do": "settle"})
    )
    worker.answer = measured(digest_of(folder))
    outcome(folder, "torch-save")
    assert [step.get("do", "job") for step in worker.asked] == [
        "job",
        "prepare",
        "settle",
        "measure",
        "digest",
    ]
    assert not Path(worker.asked[0]["target"]).exists()


def test_a_disk_that_is_never_at_rest_voids_the_measurement(
    folder: Path, worker: type[StandIn], monkeypatch: pytest.MonkeyPatch
):
    def busy(statistics: Path) -> None:
        raise MeasureError("something else keeps the disk busy")

    monkeypatch.setattr(outputs, "wait_until_quiet", busy)
    worker.answer = measured(digest_of(folder))
    assert "busy" in outcome(folder, "torch-save")["failed"]["torch-save"]


def test_fio_writes_as_many_bytes_to_a_new_file(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def write(path: Path, settings: Settings, nbytes: int) -> dict[str, float]:
        assert not path.exists()
        path.write_bytes(b"written")
        return {"bytes_per_s": nbytes / 4, "cpu_s": 0.5}

    limit = replace(limits.LIMITS["fio-write"], run=write, missing=lambda: None)
    monkeypatch.setitem(limits.LIMITS, "fio-write", limit)
    result = outcome(folder, "fio-write")
    assert result["contenders"]["fio-write"]["seconds"] == [4.0]


def test_a_run_that_is_broken_off_leaves_nothing(
    folder: Path, worker: type[StandIn], monkeypatch: pytest.MonkeyPatch
):
    def broken(self: StandIn, order: dict[str, Any], **_: Any) -> dict[str, Any]:
        (Path(self.asked[0]["target"])).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(StandIn, "ask", broken)
    with pytest.raises(KeyboardInterrupt):
        outcome(folder, "torch-save")
    assert not (folder / "saved").exists()
