"""The usable memory is the least of the host's and the control groups' limits."""

from pathlib import Path

import pytest

from fastio.host.memory import available_bytes

_GIB = 2**30


def _host(root: Path, available: int, group: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    text = f"MemTotal:       99999999 kB\nMemAvailable:   {available // 1024} kB\n"
    (root / "proc/meminfo").write_text(text)
    (root / "proc/self/cgroup").write_text(group)


def _group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


def test_this_host_reports_usable_memory() -> None:
    available = available_bytes()
    assert available is not None
    assert available > 2**20


def test_a_host_alone(tmp_path: Path) -> None:
    _host(tmp_path, 5 * _GIB, "0::/\n")
    assert available_bytes(tmp_path) == 5 * _GIB


def test_a_host_that_says_nothing(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None


@pytest.mark.parametrize("where", ["a/b", "a"], ids=["its own", "one above"])
def test_a_control_group_bounds_it(tmp_path: Path, where: str) -> None:
    _host(tmp_path, 5 * _GIB, "0::/a/b\n")
    top = tmp_path / "sys/fs/cgroup"
    _group(top / "a/b", {"memory.max": "max", "memory.current": "7"})
    files = {
        "memory.max": str(3 * _GIB),
        "memory.current": str(2 * _GIB),
        "memory.stat": f"anon 1\ninactive_file {_GIB // 2}\nactive_file 4096",
    }
    _group(top / where, files)
    assert available_bytes(tmp_path) == _GIB + _GIB // 2 + 4096


def test_a_control_group_of_the_first_kind(tmp_path: Path) -> None:
    _host(tmp_path, 5 * _GIB, "9:cpu:/x\n4:memory,hugetlb:/a\n")
    files = {
        "memory.limit_in_bytes": str(_GIB),
        "memory.usage_in_bytes": str(_GIB // 2),
        "memory.stat": "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 10",
    }
    _group(tmp_path / "sys/fs/cgroup/memory/a", files)
    assert available_bytes(tmp_path) == _GIB // 2 + 110


def test_a_group_that_is_over_its_bound_leaves_none(tmp_path: Path) -> None:
    _host(tmp_path, 5 * _GIB, "0::/\n")
    _group(tmp_path / "sys/fs/cgroup", {"memory.max": "100", "memory.current": "120"})
    assert available_bytes(tmp_path) == 0
