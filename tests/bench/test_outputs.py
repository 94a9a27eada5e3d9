"""A save is timed only on a disk that has finished the writes before it."""

from pathlib import Path

import pytest

from bench.errors import MeasureError
from bench.measure import outputs


class Disk:
    """A clock that advances only during sleeps, and a disk that is busy part of that time."""

    def __init__(self, path: Path, shares: list[float]) -> None:
        self.path = path
        self.now_s = 0.0
        self._shares = shares
        self._busy_ms = 1000.0
        self._write()

    def sleep(self, seconds: float) -> None:
        share = self._shares.pop(0) if len(self._shares) > 1 else self._shares[0]
        self.now_s += seconds
        self._busy_ms += 1000 * seconds * share
        self._write()

    def monotonic(self) -> float:
        return self.now_s

    def _write(self) -> None:
        # The layout of block/stat.rst: the tenth number.
        self.path.write_text(f"1 1 8 1 1 1 8 1 0 {self._busy_ms:.0f} 2 0 0 0 0 0 0\n")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Disk:
    made = Disk(tmp_path / "stat", list(request.param))
    monkeypatch.setattr(outputs, "time", made)
    return made


@pytest.mark.parametrize(
    ("disk", "waited_s"),
    [([0.0], 0.5), ([0.04], 0.5), ([1.0, 0.3, 0.06, 0.0], 2.0)],
    indirect=["disk"],
)
def test_the_clock_waits_until_the_disk_is_at_rest(disk: Disk, waited_s: float):
    outputs.wait_until_quiet(disk.path)
    assert disk.now_s == waited_s


@pytest.mark.parametrize("disk", [[0.5]], indirect=True)
def test_a_disk_that_does_not_come_to_rest_voids_the_measurement(disk: Disk):
    with pytest.raises(MeasureError, match="50 % of the last"):
        outputs.wait_until_quiet(disk.path)
    assert disk.now_s >= outputs.TIMEOUT_S


def test_each_saved_file_is_removed_before_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(outputs, "wait_until_quiet", lambda statistics: None)
    model = tmp_path / "model.safetensors"
    model.touch()
    where = outputs.Outputs.beside(model)
    where.settle()
    where.path("one").write_bytes(b"saved")
    (where.path("one").parent / "left behind").mkdir()
    where.settle()
    assert list(where.path("one").parent.iterdir()) == []
    where.remove()
    where.remove()
    assert list(tmp_path.iterdir()) == [model]
