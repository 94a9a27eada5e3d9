"""The sweep of lanes over loads to host memory: its rows, and their text."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from bench.measure import bare_reader, guest_memory, models
from bench.measure.settings import Settings
from bench.suites import host_lanes


@pytest.mark.parametrize(
    ("cores", "lanes"), [(1, [1, 2]), (2, [1, 2]), (6, [1, 2, 4]), (64, [1, 2, 4, 8, 16])]
)
def test_no_more_lanes_than_cores_are_tried(cores: int, lanes: list[int]) -> None:
    assert host_lanes.lanes_to_try(cores) == lanes


def test_each_way_is_measured_in_whole_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def bare_read(path: Path, settings: Settings) -> dict[str, float]:
        read.append(settings.jobs)
        return {"bytes_per_s": 1e9, "cpu_s": 0.0}

    monkeypatch.setattr(bare_reader, "read", bare_read)
    path = models.make("small", tmp_path)
    with guest_memory.Ballast(1) as ballast:
        rows = host_lanes.Rows(path, ballast, [1, 2, 4])
        # A deadline that has passed still gives one round.
        assert len(list(rows.measure("cold", time.monotonic() - 1))) == 1
        assert len(list(rows.measure("warm", time.monotonic() - 1))) == 1
    assert rows.warm.keys() == {"lanes 1", "lanes 2", "lanes 4", "lanes that grow from 2 to 4"}
    assert rows.cold.keys() - rows.warm.keys() == {
        f"bare reader, {jobs} threads" for jobs in (2, 8)
    }
    assert sorted(read) == [2, 8]
    assert all(len(seconds) == 1 for seconds in (*rows.cold.values(), *rows.warm.values()))
    assert rows.cold["bare reader, 2 threads"] == [round(path.stat().st_size / 1e9, 6)]


def test_the_rows_are_printed_with_the_default_marked() -> None:
    found: dict[str, Any] = {
        "file_bytes": 2_000_000_000,
        "default_lanes": 2,
        "cold": {"lanes 1": [2.0, 2.0, 9.0], "lanes 2": [1.0, 1.0, 1.0]},
        "warm": {},
    }
    assert host_lanes.lines(found) == [
        "host memory, cold, 3 rounds:",
        "  lanes 1: 2 s, 1.00 GB/s",
        "  lanes 2, the default: 1 s, 2.00 GB/s",
    ]
