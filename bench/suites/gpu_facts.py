"""How fast are bus, disk and memory of a GPU machine, and what do its kernel and driver offer?

Prints one line for each fact and writes all of them to OUT as JSON. `--device cpu` rehearses it
without a GPU: the copies stay in host memory, and the figures are not results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.contenders import gpu_limits
from bench.measure import cache, gpu, machine
from bench.measure.statistics import median

SCHEMA = 1
FILE_BYTES = 2**30
_READ_LIMIT_S = 2.0
_READS_MAX = 5
_READS_MIN = 2
_COPIES = 20
_WRITE_BYTES = 8 * 2**20
# 128 MiB in flight.
_DIRECT_THREADS = 16


# ---- the host -----------------------------------------------------------------------------------


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _meminfo_bytes(name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _smi(*names: str) -> list[str]:
    """Return fields of the first GPU from nvidia-smi; none without it."""
    query = ("nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader", "--id=0")
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    return [word.strip() for word in done.stdout.split(",")]


def _pci() -> dict[str, Any]:
    """Return address, link and NUMA node of the GPU, as far as they are known."""
    names = ("pci.bus_id", "pcie.link.gen.max", "pcie.link.width.max")
    found = dict(zip(("address", "generation", "lanes"), _smi(*names), strict=False))
    if address := found.get("address"):
        # nvidia-smi writes eight digits of the domain, sysfs four.
        domain, _, rest = address.lower().partition(":")
        node = _text(f"/sys/bus/pci/devices/{domain[-4:]}:{rest}/numa_node")
        found["numa_node"] = node if node not in ("", "-1") else "unknown"
    return found


def _kernel() -> dict[str, Any]:
    version = _text("/proc/version").lower()
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    limits = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    return {
        "kernel": platform.release(),
        "gvisor": "gvisor" in version or Path("/proc/sentry-meminfo").exists(),
        "container": any(Path(name).exists() for name in ("/.dockerenv", "/run/.containerenv")),
        "cgroup": ("v2" if unified else "v1") if _text("/proc/self/cgroup") else "none",
        "cgroup_memory_max": next(filter(None, map(_text, limits)), "unknown"),
        "cgroup_cpu_max": _text("/sys/fs/cgroup/cpu.max") or "unknown",
    }


def about_host() -> dict[str, Any]:
    """Return cores, NUMA nodes, memory, limits and kernel of this machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = resource.RLIM_INFINITY
    return {
        "user": os.geteuid(),
        "cores": len(os.sched_getaffinity(0)),
        "numa_nodes": _text("/sys/devices/system/node/online") or "unknown",
        "gpu_pci": {} if gpu.is_rehearsal() else _pci(),
        "memory_bytes": _meminfo_bytes("MemTotal"),
        "memory_available_bytes": _meminfo_bytes("MemAvailable"),
        "memlock_bytes": "unlimited" if soft == unlimited else soft,
        "memlock_hard_bytes": "unlimited" if hard == unlimited else hard,
        "transparent_huge_pages": _text("/sys/kernel/mm/transparent_hugepage/enabled"),
        "huge_pages": _text("/proc/sys/vm/nr_hugepages"),
        "shared_memory_bytes": _free_bytes(Path("/dev/shm")),
        **_kernel(),
    }


def _free_bytes(folder: Path) -> int | None:
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def about_io_uring() -> dict[str, Any]:
    """Return fastio's engine, and its report of io_uring and CUDA.

    Raises
    ------
    ImportError
        fastio is not installed.
    """
    import fastio

    found = fastio.engine_report()
    return {
        "chosen": found.chosen,
        "works": found.engines["uring"].available,
        "reason": found.engines["uring"].reason,
        "features": list(found.engines["uring"].features),
        "kernel_features": list(found.kernel_features),
        "cuda": found.cuda,
        "checksum": found.checksum,
    }


# ---- the bus ------------------------------------------------------------------------------------


def bus() -> dict[str, Any]:
    """Return the rates of copies of 64 MiB between pinned memory and the GPU, in GB/s.

    In a rehearsal both are copies within the host's memory.

    Raises
    ------
    ImportError
        torch is not installed.
    RuntimeError
        A copy failed.
    """
    import torch

    rehearsal = gpu.is_rehearsal()
    nbytes = gpu_limits.COPY_BYTES
    host = torch.empty(nbytes, dtype=torch.uint8, pin_memory=not rehearsal).fill_(1)
    there = torch.zeros(nbytes, dtype=torch.uint8, device=gpu.device())
    timed = _timed_by_wall if rehearsal else _timed_by_events
    to_device_s = timed(lambda: there.copy_(host, non_blocking=True))
    from_device_s = timed(lambda: host.copy_(there, non_blocking=True))
    return {
        "copy_bytes": nbytes,
        "copies": _COPIES,
        "clock": "wall" if rehearsal else "CUDA events",
        "to_device_gb_s": nbytes / median(to_device_s) / 1e9,
        "from_device_gb_s": nbytes / median(from_device_s) / 1e9,
    }


def _timed_by_wall(copy: Callable[[], object]) -> list[float]:
    copy()
    seconds = []
    for _ in range(_COPIES):
        begin = time.perf_counter()
        copy()
        seconds.append(time.perf_counter() - begin)
    return seconds


def _timed_by_events(copy: Callable[[], object]) -> list[float]:
    import torch

    event: Any = torch.cuda.Event  # torch has not typed it
    copy()
    pairs = []
    for _ in range(_COPIES):
        pair = event(enable_timing=True), event(enable_timing=True)
        pair[0].record()
        copy()
        pair[1].record()
        pairs.append(pair)
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1000 for begin, end in pairs]


# ---- the disk -----------------------------------------------------------------------------------


@contextmanager
def _written(folder: Path, nbytes: int) -> Iterator[tuple[Path, float]]:
    """Yield a file of `nbytes` random bytes, and the seconds of its write."""
    path = folder / f"facts-{os.getpid()}.bin"
    block = os.urandom(_WRITE_BYTES)
    try:
        begin = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for at in range(0, nbytes, len(block)):
                file.write(block[: nbytes - at])
            os.fsync(file.fileno())
        yield path, time.perf_counter() - begin
    finally:
        path.unlink(missing_ok=True)


def _rate(
    path: Path, flags: int, threads: int, before: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Return GB/s of reads, each after a call of `before`, or the reason of a failure."""
    buffers = gpu_limits.buffers(threads)
    said = {"threads": threads, "block_bytes": gpu_limits.READ_BYTES}
    seconds: list[float] = []
    started = time.perf_counter()
    try:
        while len(seconds) < _READS_MAX and (
            len(seconds) < _READS_MIN or time.perf_counter() - started < _READ_LIMIT_S
        ):
            before()
            begin = time.perf_counter()
            gpu_limits.read_all(path, buffers, flags)
            seconds.append(time.perf_counter() - begin)
    except (OSError, cache.CacheError) as error:
        return {"gb_s": None, **said, "reason": str(error)}
    return {"gb_s": path.stat().st_size / median(seconds) / 1e9, **said, "reads": len(seconds)}


def disk(folder: Path, nbytes: int = FILE_BYTES) -> dict[str, Any]:
    """Return the rates of reads of a file in `folder`, past the page cache and from it.

    The file is written first and removed afterwards. `evicted` says whether the page cache held no
    page of it before each direct read. If it did, the reason is beside it.

    Raises
    ------
    OSError
        The file could not be written.
    """
    with _written(folder, nbytes) as (path, write_s):
        stays = ""
        try:
            cache.evict(path)
        except (cache.CacheError, OSError) as error:
            stays = str(error)
        before = (lambda: None) if stays else (lambda: cache.evict(path))
        direct = _rate(path, os.O_DIRECT, _DIRECT_THREADS, before)
        try:
            cache.populate(path)
            cached = _rate(path, 0, len(os.sched_getaffinity(0)))
        except (cache.CacheError, OSError) as error:
            cached = {"gb_s": None, "reason": str(error)}
    free = os.statvfs(folder)
    return {
        "folder": str(folder),
        "filesystem": machine.filesystem(folder),
        "block_device": machine.disk(folder),
        "free_bytes": free.f_bavail * free.f_frsize,
        "file_bytes": nbytes,
        "write_gb_s": nbytes / write_s / 1e9,
        "evicted": not stays,
        "not_evicted_because": stays,
        "direct_read": direct,
        "cache_read": cached,
    }


# ---- all facts ----------------------------------------------------------------------------------


def _lines(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _lines(f"{name}.{key}" if name else key, part)
        return
    if isinstance(value, list):
        value = ", ".join(str(part) for part in value)
    yield f"{name:<34} {f'{value:.2f}' if isinstance(value, float) else value}"


def gather(path: Path, folder: Path, file_bytes: int = FILE_BYTES) -> dict[str, Any]:
    """Collect and print every fact, and write the facts so far to `path`.

    A failed fact has an `error` in its place.

    Raises
    ------
    OSError
        `path` could not be written.
    """
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "rehearsal": gpu.is_rehearsal(),
        "measured": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "versions": machine.versions(),
    }
    # Slow facts, and those that can hang, come last.
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "host": about_host,
        "io_uring": about_io_uring,
        "machine": lambda: gpu.describe(folder),
        "bus": bus,
        "disk": lambda: disk(folder, file_bytes),
    }
    for line in _lines("", facts):
        print(line, flush=True)
    for name, step in steps.items():
        try:
            facts[name] = step()
        except Exception as error:  # the other facts are still collected
            facts[name] = {"error": f"{type(error).__name__}: {error}"}
        for line in _lines(name, facts[name]):
            print(line, flush=True)
        path.write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def _ended(*_: object) -> None:
    raise SystemExit(143)  # removes the file


def main(arguments: Sequence[str]) -> int:
    """Write the facts and print them; return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu-facts", description=__doc__)
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--dir", type=Path, default=Path("build/gpu/files"), help="of the file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--file-bytes", type=int, default=FILE_BYTES)
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _ended)
    asked.dir.mkdir(parents=True, exist_ok=True)
    if asked.device == "cpu":
        os.environ[gpu.VARIABLE] = "cpu"
    facts = gather(asked.out, asked.dir, asked.file_bytes)
    failed = [name for name, fact in facts.items() if isinstance(fact, dict) and "error" in fact]
    if failed:
        print(f"bench gpu-facts: not found out: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
