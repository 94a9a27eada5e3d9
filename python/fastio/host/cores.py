"""How many cores this process may use: by its affinity, and by the quota of its control groups."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from fastio.host.groups import groups_of, lines, number

_ROOT = Path("/")


def usable_cores() -> int:
    """Return how many cores this process may use at once, at least 1.

    A quota is asked for once in a process, as that reads several files.

    Raises
    ------
    Nothing.
    """
    quota = quota_cores()
    try:
        cores = len(os.sched_getaffinity(0))
    except OSError:  # a seccomp filter that does not know it
        cores = os.cpu_count() or 1
    return cores if quota is None else max(1, min(cores, quota))


@cache
def quota_cores(root: Path = _ROOT) -> int | None:
    """Return the cores that the tightest quota of a control group allows, rounded up; or None.

    A quota is processor time in a period, such as 50 ms in 100 ms: half a core.

    Parameters
    ----------
    root : pathlib.Path
        Where ``proc`` and ``sys`` are mounted.

    Raises
    ------
    Nothing.
    """
    allowed: list[int] = []
    for folder, is_second in groups_of("cpu", root):
        if is_second:
            words = [*" ".join(lines(folder / "cpu.max")).split(), "", ""]
            quota, period = (int(word) if word.isdecimal() else None for word in words[:2])
        else:
            quota, period = (
                number(folder / "cpu.cfs_quota_us"),  # -1 where there is none
                number(folder / "cpu.cfs_period_us"),
            )
        if quota is not None and period:
            allowed.append(-(-quota // period))
    return min(allowed, default=None)
