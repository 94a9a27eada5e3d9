"""What another process has verified is believed, if that is asked for."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastio
import testbed
from samples import data_start, expected_bytes, flip, same_bytes, write_model

_FOLDER = Path(f"/dev/shm/fastio-{os.geteuid()}")
_TRUSTING = fastio.Options(trust_verified=True, cache="keep")
_LOAD = """
import sys, fastio
report = fastio.Report()
options = fastio.Options(trust_verified=True, cache="keep", mapping=sys.argv[2])
fastio.load(sys.argv[1], options=options, report=report)
print(report.chunks_verified, report.chunks_trusted)
"""


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Path]:
    """A sealed file whose timestamps are old enough; its records are removed."""
    path = fastio.seal(write_model(tmp_path / "model.safetensors"))
    while time.time() - path.stat().st_ctime < 3.1:
        time.sleep(0.1)
    before = set(_FOLDER.glob("*"))
    yield path
    for record in set(_FOLDER.glob("*")) - before:
        record.unlink()


def _counts(path: Path, mapping: str = "auto") -> tuple[int, int]:
    verified, trusted = testbed.run_python(_LOAD, path, mapping).check().stdout.split()
    return int(verified), int(trusted)


def _all_chunks(path: Path) -> int:
    report = fastio.Report()
    fastio.load(path, report=report)
    assert report.chunks_trusted == 0
    return report.chunks_verified


def test_a_second_process_believes_the_first(model: Path) -> None:
    chunks = _all_chunks(model)
    assert chunks > 1
    assert _counts(model, "never") == (chunks, 0)
    assert _counts(model, "never") == (0, chunks)
    report = fastio.Report()
    tensors = fastio.load(model, options=_TRUSTING, report=report)
    assert same_bytes(tensors, expected_bytes(model))
    assert (report.chunks_verified, report.chunks_trusted) == (0, chunks)
    assert f"0 chunks verified, {chunks} by another process before" in str(report)
    with fastio.open(model, options=_TRUSTING) as reader:
        assert same_bytes({name: reader.tensor(name) for name in reader}, expected_bytes(model))
        assert reader.report.chunks_verified == 0


def test_a_verification_believes_nobody(model: Path) -> None:
    assert _counts(model)[1] == 0
    flip(model, data_start(model) + 5)
    assert not fastio.verify(model, options=_TRUSTING).ok


def test_a_file_that_was_damaged_meanwhile_is_verified(model: Path) -> None:
    assert _counts(model)[1] == 0
    flip(model, data_start(model) + 5)
    with pytest.raises(fastio.ChecksumError):
        fastio.load(model, options=_TRUSTING)
