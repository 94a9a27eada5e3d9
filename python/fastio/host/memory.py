"""How much memory there is to be had: what the host has, and the control groups of this process
leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def available_bytes(root: Path = _ROOT) -> int | None:
    """Return the bytes that can be taken without swapping, or being killed; None where nobody says.

    Parameters
    ----------
    root : pathlib.Path
        Where ``proc`` and ``sys`` are mounted.

    Raises
    ------
    Nothing.
    """
    found = [*_of_host(root), *_of_groups(root)]
    return max(0, min(found)) if found else None


def _of_host(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_groups(root: Path) -> Iterator[int]:
    """The memory that each group above this process leaves.

    https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, limit, usage, prefix = "sys/fs/cgroup", "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            top, prefix = "sys/fs/cgroup/memory", "total_"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        own = PurePosixPath(path.strip("/"))
        for group in (own, *own.parents):
            folder = root / top / group
            bound, used = _number(folder / limit), _number(folder / usage)
            if bound is not None and used is not None:
                yield bound - used + _cached(folder / "memory.stat", prefix)


def _cached(statistics: Path, prefix: str) -> int:
    """The page cache in a group, which makes room."""
    counted = dict(line.split(" ", 1) for line in _lines(statistics) if " " in line)
    return sum(int(counted.get(f"{prefix}{name}_file", 0)) for name in ("inactive", "active"))


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdecimal() else None  # "max": no bound


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
