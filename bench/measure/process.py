"""Memory, processor time and storage reads of a process, as the kernel counts them."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Sequence
from pathlib import Path

# Seconds since an order was given, and anonymous bytes.
Sample = tuple[float, int]


def anonymous_bytes(pid: int | str = "self") -> int:
    """Return RssAnon plus pinned and locked-down memory (VmPin) of a process."""
    return status_bytes("RssAnon", pid) + status_bytes("VmPin", pid)


def status_bytes(field: str, pid: int | str = "self") -> int:
    """Return a field of /proc/<pid>/status that is in kB, or 0 if it is missing.

    Raises
    ------
    OSError
        The process has ended.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def thinned(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return at most `count` of the samples, in order, one for each equal part of their time.

    Each is the highest of its part, so the peak is kept. A part without samples is left out.

    Raises
    ------
    ValueError
        `count` is not positive.
    """
    if count < 1:
        raise ValueError(f"{count} samples are none")
    if not samples:
        return []
    begin, end = samples[0][0], samples[-1][0]
    highest: dict[int, Sample] = {}
    for sample in samples:
        part = (
            min(count - 1, int((sample[0] - begin) / (end - begin) * count)) if end > begin else 0
        )
        if part not in highest or sample[1] > highest[part][1]:
            highest[part] = sample
    return [highest[part] for part in sorted(highest)]


def cpu_seconds() -> float:
    """Return user and system time of all threads, including io_uring's workers, and children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def machine_busy_seconds() -> float:
    """Return the busy and stolen time of the machine's cores, with a resolution of 10 ms."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def storage_bytes() -> int | None:
    """Return the bytes that this process read from storage, or None if the kernel does not count.

    They are direct reads and reads into the page cache, of every thread. Cached pages do not count.
    """
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes:")), None)


def reset_peak() -> None:
    """Reset VmHWM to the present memory of the process, if the kernel can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
