"""fio is the limit for saves and loads: it must do exactly the work that it is given."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.errors import MeasureError
from bench.measure import fio
from bench.measure.settings import MIB, Settings

SETTINGS = Settings(1, 4, 1)


class Shell:
    """Answers each command as fio would, and records it."""

    def __init__(self, io_bytes: int) -> None:
        self.commands: list[list[str]] = []
        self.environments: list[dict[str, str]] = []
        self._io_bytes = io_bytes

    def run(
        self, command: list[str], env: dict[str, str], **_: Any
    ) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        self.environments.append(env)
        done = {"io_bytes": self._io_bytes, "runtime": 2000}
        job = {"read": done, "write": done, "error": 0, "usr_cpu": 3.0, "sys_cpu": 2.0}
        return subprocess.CompletedProcess(
            command, 0, "a word before\n" + json.dumps({"jobs": [job]})
        )


def test_a_write_is_of_whole_blocks_with_an_fsync_in_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shell = Shell(7 * MIB)
    monkeypatch.setattr(subprocess, "run", shell.run)
    found = fio.write(tmp_path / "new", SETTINGS, 7 * MIB + 5)
    assert found == {"bytes_per_s": 3.5 * MIB, "cpu_s": pytest.approx(0.1)}
    (command,) = shell.commands
    assert {"--rw=write", "--end_fsync=1", "--fallocate=posix", f"--size={7 * MIB}"} <= set(command)
    assert "--readonly" not in command


def test_a_read_never_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shell = Shell(2 * MIB)
    monkeypatch.setattr(subprocess, "run", shell.run)
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * MIB))
    fio.read(path, SETTINGS)
    (command,) = shell.commands
    assert {"--rw=read", "--readonly"} <= set(command)
    assert "--end_fsync=1" not in command


def test_less_written_than_asked_for_is_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subprocess, "run", Shell(MIB).run)
    with pytest.raises(MeasureError, match=f"{MIB} of {2 * MIB} bytes"):
        fio.write(tmp_path / "new", SETTINGS, 2 * MIB)
    with pytest.raises(MeasureError, match="are less than"):
        fio.write(tmp_path / "new", SETTINGS, MIB - 1)


def test_fio_writes_a_file_of_the_size_asked_for(tmp_path: Path):
    if not shutil.which("fio"):
        pytest.skip("fio not installed")
    try:
        fio.write(tmp_path / "new", SETTINGS, 2 * MIB)
    except MeasureError as error:
        pytest.skip(f"fio cannot write here: {error}")
    assert (tmp_path / "new").stat().st_size == 2 * MIB


def test_its_buffers_lie_on_huge_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shell = Shell(MIB)
    monkeypatch.setattr(subprocess, "run", shell.run)
    fio.write(tmp_path / "new", SETTINGS, MIB)
    assert shell.environments == [os.environ | fio.HUGE_PAGES]
