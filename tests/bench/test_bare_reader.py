"""The bare reader is a limit only if it reads every requested byte."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.errors import MeasureError
from bench.measure import bare_reader
from bench.measure.settings import MIB, Settings
from bench.paths import ROOT


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader, compiled."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++ to compile it")
    made = tmp_path_factory.mktemp("reader") / "read-limit"
    source = ROOT / "bench/native/read_limit.cc"
    flags = ("-O1", "-std=c++20", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-pthread")
    command = (compiler, *flags, source, "-o", made, "-luring")
    done = subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, check=False
    )
    if "liburing" in done.stderr or "-luring" in done.stderr:
        pytest.skip("liburing is not installed")
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture
def reader(program: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bare_reader, "PROGRAM", program)
    return program


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(5 * MIB + 4096))
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"no O_DIRECT here: {error}")
    return path


def read(path: Path, settings: Settings, nbytes: int | None = None) -> dict[str, float]:
    try:
        return bare_reader.read(path, settings, nbytes)
    except MeasureError as error:
        if "io_uring" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("settings", [Settings(1, 4, 1), Settings(1, 32, 2), Settings(2, 1, 2)])
def test_each_thread_reads_whole_blocks_of_its_part(reader: Path, file: Path, settings: Settings):
    found = read(file, settings)
    assert found["bytes_per_s"] > 0
    assert found["cpu_s"] >= 0


def test_a_part_of_the_file_can_be_read(reader: Path, file: Path):
    assert read(file, Settings(1, 4, 1), 2 * MIB)["bytes_per_s"] > 0


def test_less_than_a_block_for_each_thread_is_refused(reader: Path, file: Path):
    read(file, Settings(1, 4, 1))
    with pytest.raises(MeasureError, match="smaller than a block"):
        bare_reader.read(file, Settings(4, 4, 2))


def test_a_missing_file_is_named(reader: Path, file: Path):
    file.rename(file.with_name("away"))
    file.touch()
    with pytest.raises(MeasureError, match="smaller than a block"):
        bare_reader.read(file, Settings(1, 4, 1))


def test_less_read_than_asked_for_is_no_limit(file: Path, monkeypatch: pytest.MonkeyPatch):
    said = subprocess.CompletedProcess([], 0, '{"bytes": 1048576, "seconds": 1, "cpu_s": 0}', "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: said)
    with pytest.raises(MeasureError, match=f"read {MIB} of {5 * MIB} bytes"):
        bare_reader.read(file, Settings(1, 4, 1))


def test_an_uncompiled_reader_counts_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bare_reader, "PROGRAM", tmp_path / "read-limit")
    assert bare_reader.missing() == "read-limit is not compiled"
    (tmp_path / "read-limit").touch()
    assert bare_reader.missing() is None
