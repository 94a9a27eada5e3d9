"""fio with io_uring and O_DIRECT: reads a file, or writes one of the same size with an fsync.

Its small buffers are reused and lie on huge pages. On small pages fio is no limit: it was half as
fast on the first machine measured, and slower than a rival on huge pages. At 2 MiB x 32 the disk
then got 2616 requests in place of 652, at 8 MiB x 8 only 663 in place of 600.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal

from bench.errors import MeasureError
from bench.measure.settings import MIB, Settings

# malloc asks for huge pages by madvise; glibc 2.35 and later.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def missing() -> str | None:
    """Return why fio cannot run here with its buffers on huge pages, or None if it can."""
    if not shutil.which("fio"):
        return "fio not installed"
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < (2, 35):
        return "fio's huge pages need glibc 2.35 or later"
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        return "transparent huge pages are switched off"
    return None


def read(path: Path, settings: Settings, nbytes: int | None = None) -> dict[str, float]:
    """Read a file (or its first `nbytes`) once, and return bytes per second and CPU seconds.

    Each job reads its own part of the file. A tail below 1 % is left out.

    Raises
    ------
    MeasureError
        fio failed, or read another number of bytes.
    """
    total = min(nbytes or path.stat().st_size, path.stat().st_size)
    return _run("read", path, settings, total, ("--readonly",))


def write(path: Path, settings: Settings, nbytes: int) -> dict[str, float]:
    """Write a new file, with an fsync at its end, and return bytes per second and CPU seconds.

    The time includes the fsync, but not the allocation of the file (fallocate). Each job writes its
    own part. A tail below 1 % of `nbytes` is left out.

    Raises
    ------
    MeasureError
        fio failed, or wrote another number of bytes.
    """
    return _run("write", path, settings, nbytes, ("--fallocate=posix", "--end_fsync=1"))


def _run(
    way: Literal["read", "write"],
    path: Path,
    settings: Settings,
    total: int,
    more: tuple[str, ...],
) -> dict[str, float]:
    block = settings.block_mib * MIB
    # Whole blocks only, so that no request is short or unaligned.
    part = total // settings.jobs // block * block
    if part == 0:
        raise MeasureError(f"fio: {total} bytes are less than {settings} needs")
    command = [
        "fio",
        f"--name={way}",
        f"--filename={path}",
        f"--rw={way}",
        *more,
        "--ioengine=io_uring",
        "--direct=1",
        f"--bs={block}",
        f"--iodepth={settings.depth}",
        f"--numjobs={settings.jobs}",
        f"--size={part}",
        f"--offset_increment={part}",
        "--thread",
        "--group_reporting",
        "--output-format=json",
    ]
    environment = os.environ | HUGE_PAGES
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise MeasureError(f"fio: {done.stderr.strip() or done.stdout.strip()}")
    # fio may print a warning before its JSON.
    answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    job = answer["jobs"][0]
    found = job[way]
    if found["io_bytes"] != part * settings.jobs or job["error"] != 0:
        raise MeasureError(f"fio: {way} {found['io_bytes']} of {part * settings.jobs} bytes")
    # Milliseconds; with group_reporting the longest of the jobs.
    seconds = found["runtime"] / 1000
    busy_percent = job["usr_cpu"] + job["sys_cpu"]
    return {
        "bytes_per_s": found["io_bytes"] / seconds,
        "cpu_s": busy_percent / 100 * seconds * settings.jobs,
    }
