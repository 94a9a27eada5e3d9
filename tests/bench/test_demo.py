"""The demo compares like with like, names the loaders that map the file, and leaves no files."""

import importlib
import io
import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from rich.console import Console

import fastio
from bench.contenders import worker
from bench.contenders.contender import Attempt
from bench.contenders.registry import LOADERS
from bench.errors import MeasureError
from bench.measure import answers, cache, machine, models
from bench.report import placement
from bench.suites import demo
from bench.suites.campaign import run
from testbed.stand_in import Made

# Larger than the kernel's readahead of a header.
TENSORS = tuple(models.Tensor(f"layers.{index}", (128, 1024)) for index in range(8))
SMALL = demo.Model("demo", "a small model", 10**6)
# Lines that follow a table begin so.
AFTER = ("fastio beside", "cold:")
BLOCKS = (demo.NUMPY, demo.TORCH)


class InProcess:
    """The worker, run in this process. Its answers about a load are real."""

    def __init__(self, job: dict[str, Any], timeout_s: float) -> None:
        contender = worker.contender_of(job["contender"])
        for module in contender.modules:
            importlib.import_module(module)
        self._measurement = worker.Measurement(contender, job["path"], touch=job["touch"])

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._measurement.prepare()

    def ask(self, order: dict[str, Any], *, sample_memory: bool = False) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self._measurement, order["do"])()
        return answer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if machine.filesystem(tmp_path) in {"tmpfs", "ramfs"}:
        pytest.skip("a file in memory cannot be evicted")
    return tmp_path / "demo"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors.torch", reason="the rival of the demo is not installed")
    monkeypatch.setitem(models.MADE, SMALL.name, ("F32", lambda: iter(TENSORS)))
    monkeypatch.setattr(run, "Worker", InProcess)
    # No time is compared here.


def shown(folder: Path, *models: demo.Model) -> tuple[int, list[str]]:
    """Run the demo and return its exit status and the lines that it prints."""
    out = io.StringIO()
    status = demo.show(folder, models or (SMALL,), Console(file=out, width=200))
    return status, out.getvalue().splitlines()


def rows(lines: list[str], block: demo.Block) -> list[list[str]]:
    """Return the cells of each row of the table of a framework."""
    begin = lines.index(next(line for line in lines if line.rstrip().endswith(block.framework)))
    after = [at for at in range(begin + 1, len(lines)) if lines[at].startswith(AFTER)]
    cells = (
        [cell.strip() for cell in line.split("  ")]
        for line in lines[begin : min(after, default=None)]
    )
    return [[cell for cell in row if cell] for row in cells if SMALL.title in row]


def flipped(block: demo.Block) -> Callable[[Attempt], Mapping[str, Any]]:
    """Return the rival's load with one bit of the first tensor wrong."""

    def load(attempt: Attempt) -> Mapping[str, Any]:
        tensors = LOADERS[block.rival].load(attempt)
        begins, _ = answers.addresses(tensors)
        answers.memory(begins[0], 1)[0] ^= 1
        return tensors

    return load


def with_load(
    monkeypatch: pytest.MonkeyPatch, name: str, load: Callable[[Attempt], Mapping[str, Any]]
) -> None:
    """Let the demo, though not the worker, load in another way."""
    monkeypatch.setattr(demo, "LOADERS", {**LOADERS, name: replace(LOADERS[name], load=load)})


def is_in_file(path: Path, address: int) -> bool:
    """Whether the kernel says that an address lies in a mapping of the file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        if begin <= address < end:
            return line.endswith(str(path))
    return False


def test_each_frameworks_table_marks_the_loaders_that_map_and_verify(folder: Path):
    status, lines = shown(folder)
    assert status == 0
    fastio_rows = [
        ["cold", "fastio", placement.COPIES, "yes"],
        ["warm", "fastio", placement.MAPS, "yes"],
        ["warm", "fastio, verify=False", placement.MAPS, "no"],
    ]
    for block, how in ((demo.NUMPY, placement.COPIES), (demo.TORCH, placement.MAPS)):
        found = [row[1:5] for row in rows(lines, block)]
        rival = [[state, "safetensors", how, "no"] for state in ("cold", "warm")]
        assert found == [fastio_rows[0], rival[0], *fastio_rows[1:], rival[1]]


def test_speeds_are_compared_within_a_framework():
    medians = {"fastio-numpy-verified": 1, "safetensors-numpy": 4, "fastio": 0.5, "safetensors": 1}
    contenders = {
        name: {"median_s": each, "gb_per_s": 1 / each, "notes": {}}
        for name, each in medians.items()
    }
    measured = demo.Measured(SMALL.title, {"cold": True, "contenders": contenders})
    for block, speed in ((demo.NUMPY, "4.00 x"), (demo.TORCH, "2.00 x")):
        out = io.StringIO()
        Console(file=out, width=200).print(demo.table_of(block, [measured]))
        found = rows(out.getvalue().splitlines(), block)
        assert [row[2] for row in found] == ["fastio", "safetensors"]
        assert [row[-1] for row in found] == [speed, "1.00 x"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.framework)
def test_exactly_the_loaders_listed_as_mapping_map(folder: Path, block: demo.Block):
    folder.mkdir()
    path = Made(folder).get(SMALL.name)
    mapped = 0
    for cold, name in itertools.product((True, False), block.loaders(cold=False)):
        (cache.evict if cold else cache.populate)(path)
        measurement = worker.Measurement(LOADERS[name], str(path), touch=False)
        found = measurement.measure()
        begins, _ = answers.addresses(measurement._tensors)
        assert {is_in_file(path, begin) for begin in begins} == {placement.is_mapped(name, found)}
        mapped += placement.is_mapped(name, found)
        measurement.prepare()
    assert mapped > 0


def test_the_demo_leaves_no_files_and_evicts_only_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    evicted: set[Path] = set()
    evict = cache.evict

    def seen(path: Path) -> None:
        evicted.add(path)
        evict(path)

    monkeypatch.setattr(cache, "evict", seen)
    status, _ = shown(folder)
    assert (status, evicted) == (0, {folder / f"{SMALL.name}.safetensors"})
    assert os.listdir(folder.parent) == []


def test_files_of_others_in_its_folder_stay(folder: Path):
    folder.mkdir()
    (folder / "mine").write_text("mine")
    shown(folder)
    assert os.listdir(folder) == ["mine"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.framework)
def test_a_byte_that_differs_fails_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, block: demo.Block
):
    with_load(monkeypatch, block.rival, flipped(block))
    status, lines = shown(folder)
    assert status == 1
    assert lines[-1].startswith(f"FAILED {SMALL.title}, {block.framework}: bytes differ in layers.")
    assert not any(line.startswith("OK") for line in lines)
    assert not folder.exists()


def test_a_load_that_fails_fails_it_and_the_others_are_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def load(attempt: Attempt) -> Mapping[str, Any]:
        raise MeasureError("no [such] load")

    broken = replace(LOADERS["safetensors"], load=load)
    monkeypatch.setitem(LOADERS, "safetensors", broken)
    status, lines = shown(folder)
    assert status == 1
    assert lines[-1].startswith("FAILED")
    assert "no [such] load" in lines[-1]
    assert len(rows(lines, demo.NUMPY)) == 5
    assert [row[2] for row in rows(lines, demo.TORCH)] == [
        "fastio",
        "fastio",
        "fastio, verify=False",
    ]


def test_without_torch_numpy_is_compared_alone(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "is_installed", lambda module: module != "torch")
    status, lines = shown(folder)
    assert status == 0
    assert len(rows(lines, demo.NUMPY)) == 5
    assert [line for line in lines if "torch" in line] == [
        "torch is not installed, so this compares numpy alone."
    ]
    assert lines[-1] == "OK: fastio and safetensors give the same bytes, with numpy."


def test_the_demo_ends_with_the_working_engine_and_the_result(folder: Path):
    _, lines = shown(folder)
    report = fastio.engine_report()
    assert lines[-2:] == [
        f"fastio reads with the engine {report.chosen} here: {report.reason}.",
        "OK: fastio and safetensors give the same bytes, with numpy and torch.",
    ]
    assert not [line for line in lines if "touched" in line or "operations" in line]


def test_a_disk_that_is_too_small_is_reported_before_any_file_is_made(folder: Path):
    status, lines = shown(folder, replace(SMALL, disk_bytes=10**18))
    assert status == 1
    assert "name another folder with --dir" in lines[-1]
    assert not folder.exists()
