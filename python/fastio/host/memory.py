"""How much memory there is to be had: what the host has, and the control groups of this process
leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastio.host.groups import groups_of, lines, number

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
    for line in lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_groups(root: Path) -> Iterator[int]:
    """The memory that each group above this process leaves."""
    for folder, is_second in groups_of("memory", root):
        if is_second:
            limit, usage, prefix = "memory.max", "memory.current", ""
        else:
            limit, usage, prefix = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        bound, used = number(folder / limit), number(folder / usage)
        if bound is not None and used is not None:
            yield bound - used + _cached(folder / "memory.stat", prefix)


def _cached(statistics: Path, prefix: str) -> int:
    """The page cache in a group, which makes room."""
    counted = dict(line.split(" ", 1) for line in lines(statistics) if " " in line)
    return sum(int(counted.get(f"{prefix}{name}_file", 0)) for name in ("inactive", "active"))
