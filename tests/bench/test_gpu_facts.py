"""The facts of a machine are whole, positive and honest about a rehearsal, and leave no file."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.measure import cache, gpu, machine
from bench.suites import gpu_facts

MIB = 2**20
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if machine.filesystem(tmp_path) in {"tmpfs", "ramfs"}:
        pytest.skip("a file in memory cannot be evicted")
    made = tmp_path / "files"
    made.mkdir()
    return made


def test_a_rehearsal_says_so_and_has_every_fact(folder: Path, tmp_path: Path):
    out = tmp_path / "facts.json"
    # Not a multiple of the blocks that are written and read.
    size = 48 * MIB + 4096
    command = (sys.executable, "-m", "bench", "gpu-facts", "--device", "cpu", "--dir", folder, out)
    done = subprocess.run(
        (*command, "--file-bytes", str(size)), capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(out.read_text())

    assert facts["rehearsal"] is True
    assert facts["machine"]["gpu"] == gpu.REHEARSAL
    assert "rehearsal" in gpu.slug(facts["machine"])
    assert list(facts) == [
        *("schema", "rehearsal", "measured", "versions"),
        *("host", "io_uring", "machine", "bus", "disk"),
    ]
    assert facts["versions"]["fastio-tensor"]
    assert facts["bus"]["copy_bytes"] == 64 * MIB
    assert facts["bus"]["to_device_gb_s"] > 0
    assert facts["bus"]["from_device_gb_s"] > 0

    disk = facts["disk"]
    assert disk["file_bytes"] == size
    assert disk["evicted"] is True
    assert disk["filesystem"] == machine.filesystem(folder)
    assert disk["write_gb_s"] > 0
    assert disk["direct_read"]["gb_s"] > 0
    assert disk["cache_read"]["gb_s"] > 0

    host = facts["host"]
    assert host["cores"] == len(os.sched_getaffinity(0))
    assert host["memory_bytes"] > host["memory_available_bytes"] > 0
    assert host["kernel"] == os.uname().release
    assert facts["io_uring"]["reason"]

    assert list(folder.iterdir()) == []
    printed = {name: rest for name, *rest in map(str.split, done.stdout.splitlines())}
    assert printed["rehearsal"] == ["True"]
    assert printed["machine.gpu.name"] == str(gpu.REHEARSAL["name"]).split()


def test_the_file_is_removed_when_a_read_fails(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_facts, "_rate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gpu_facts.disk(folder, MIB)
    assert list(folder.iterdir()) == []


def test_a_file_that_stays_in_the_page_cache_is_not_called_cold(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def stays(path: Path) -> None:
        raise cache.CacheError(f"{path}: all pages stay")

    monkeypatch.setattr(cache, "evict", stays)
    found = gpu_facts.disk(folder, MIB)
    assert found["evicted"] is False
    assert "all pages stay" in found["not_evicted_because"]
    assert found["direct_read"]["gb_s"] > 0


def test_a_fact_that_cannot_be_had_does_not_cost_the_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken() -> Any:
        raise OSError(errno.EIO, "the bus is gone")

    monkeypatch.setenv(gpu.VARIABLE, "cpu")
    monkeypatch.setattr(gpu_facts, "bus", broken)
    out = tmp_path / "facts.json"
    arguments = ["--dir", str(folder), "--file-bytes", str(MIB), str(out)]
    assert gpu_facts.main(arguments) == 1
    facts = json.loads(out.read_text())
    assert "the bus is gone" in facts["bus"]["error"]
    assert facts["disk"]["direct_read"]["gb_s"] > 0


def test_without_a_gpu_the_facts_say_so_and_fail(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def none() -> Any:
        raise gpu.NoGpuError("no GPU to measure on: torch finds no CUDA device")

    monkeypatch.delenv(gpu.VARIABLE, raising=False)
    monkeypatch.setattr(gpu, "about", none)
    monkeypatch.setattr(gpu_facts, "bus", none)
    out = tmp_path / "facts.json"
    assert gpu_facts.main(["--dir", str(folder), "--file-bytes", str(MIB), str(out)]) == 1
    facts = json.loads(out.read_text())
    assert facts["rehearsal"] is False
    assert "no CUDA device" in facts["machine"]["error"]
