"""The cores of a process: its affinity, and the quotas of its control groups."""

import os
from pathlib import Path

import pytest

import fastio
from fastio.host import cores


def _host(root: Path, groups: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        (root / "sys/fs/cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup" / name).write_text(f"{text}\n")
    return root


def test_this_host_has_cores() -> None:
    assert 1 <= cores.usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "allowed"),
    [("max 100000", None), ("50000 100000", 1), ("400000 100000", 4), ("250000 100000", 3)],
)
def test_a_quota_of_version_2(tmp_path: Path, text: str, allowed: int | None) -> None:
    root = _host(tmp_path, "0::/pod/own\n", {"pod/cpu.max": text, "pod/own/cpu.max": "max 100000"})
    assert cores.quota_cores(root) == allowed


@pytest.mark.parametrize(("quota", "allowed"), [("-1", None), ("50000", 1), ("150000", 2)])
def test_a_quota_of_version_1(tmp_path: Path, quota: str, allowed: int | None) -> None:
    files = {"cpu/pod/cpu.cfs_quota_us": quota, "cpu/pod/cpu.cfs_period_us": "100000"}
    groups = "5:memory:/elsewhere\n4:cpu,cpuacct:/pod\n"
    assert cores.quota_cores(_host(tmp_path, groups, files)) == allowed


def test_the_tightest_quota_counts(tmp_path: Path) -> None:
    files = {"cpu.max": "800000 100000", "a/cpu.max": "200000 100000", "a/b/cpu.max": "300000 1000"}
    assert cores.quota_cores(_host(tmp_path, "0::/a/b\n", files)) == 2


@pytest.mark.parametrize("text", ["", "none", "100000", "100000 0", "1 2 3", "-5 100000"])
def test_what_is_no_quota_is_none(tmp_path: Path, text: str) -> None:
    root = _host(tmp_path, "0::/\n", {"cpu.max": text})
    assert cores.quota_cores(root) == (1 if text == "1 2 3" else None)


def test_a_host_that_says_nothing(tmp_path: Path) -> None:
    assert cores.quota_cores(tmp_path) is None


def test_lanes_keep_to_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for quota, lanes in ((None, 16), (4, 4), (1, 2), (100, 16)):
        monkeypatch.setattr(cores, "quota_cores", lambda quota=quota: quota)
        assert fastio.Options().lanes == lanes
    monkeypatch.setattr(cores, "quota_cores", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert cores.usable_cores() == 1
