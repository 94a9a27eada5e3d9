"""The machine of a figure: processor, memory, kernel, disk, and the versions of software."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench.contenders.contender import RC_SITE, RC_VERSION
from bench.paths import ROOT

DISTRIBUTIONS = (
    "fastio-tensor",
    "numpy",
    "ml_dtypes",
    "torch",
    "safetensors",
    "fastsafetensors",
    "runai-model-streamer",
    "instanttensor",
)


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.strip() if done.returncode == 0 else ""


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _selected(text: str) -> str:
    """Return the word in brackets: `madvise` of `always [madvise] never`."""
    found = re.search(r"\[(.+?)\]", text)
    return found[1] if found else text


def filesystem(folder: Path) -> str:
    """Return the type of the filesystem that `folder` is on."""
    where, kind = Path("/nowhere"), "unknown"
    for line in _text("/proc/self/mounts").splitlines():
        _, mount, found, *_ = line.split(" ")
        # Of nested mounts the deepest counts, of stacked ones the last.
        if folder.resolve().is_relative_to(mount) and (
            kind == "unknown" or Path(mount).is_relative_to(where)
        ):
            where, kind = Path(mount), found
    return kind


def disk(folder: Path) -> dict[str, Any]:
    """Describe the block device under `folder`: its name, model, and whether it is virtual."""
    number = folder.stat().st_dev
    node = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not node.exists():
        return {"name": "none", "model": "", "virtual": True}
    real = node.resolve()
    whole = real if (real / "queue").is_dir() else real.parent
    # 0x1af4 is the vendor of every virtio device.
    virtio = _text(whole / "device/vendor").lower() == "0x1af4" or whole.name.startswith("vd")
    model = _text(whole / "device/model") or ("virtio block device" if virtio else "")
    return {
        "name": whole.name,
        "model": model,
        "virtual": virtio or "/devices/virtual/" in str(whole),
        "scheduler": _selected(_text(whole / "queue/scheduler")),
        "max_sectors_kb": _text(whole / "queue/max_sectors_kb"),
    }


def describe(folder: Path) -> dict[str, Any]:
    """Describe this machine, and the filesystem and disk under `folder`.

    Raises
    ------
    OSError
        `folder` does not exist.
    """
    cpu, memory = _text("/proc/cpuinfo"), _text("/proc/meminfo")
    return {
        "cpu": _field(cpu, "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int((_field(memory, "MemTotal") or "0 kB").split()[0]) * 1024 / 1e9, 1),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "virtual": "hypervisor" in _field(cpu, "flags").split(),
        "filesystem": filesystem(folder),
        "disk": disk(folder),
        "huge_pages": _selected(_text("/sys/kernel/mm/transparent_hugepage/enabled")),
        "python": platform.python_version(),
    }


def slug(machine: dict[str, Any]) -> str:
    """Return a name for files about this machine, such as `intel-xeon-2.50ghz-2-cores`."""
    cpu = re.sub(r"\((R|TM|r|tm)\)|\b(CPU|Processor|Core)\b|@", " ", str(machine["cpu"]))
    words = f"{cpu} {machine['cores']} cores".lower().split()
    return re.sub(r"[^a-z0-9.-]+", "-", "-".join(words))


def versions() -> dict[str, str]:
    """Return the version of every contender that is installed, and the commit of this tree."""
    found: dict[str, str] = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if (ROOT / RC_SITE).is_dir():
        found["safetensors (rc)"] = RC_VERSION
    if fio := _output("fio", "--version"):
        found["fio"] = fio.removeprefix("fio-")
    # A tree without its history is named by the variable.
    if commit := os.environ.get("FASTIO_BENCH_COMMIT", ""):
        found["commit"] = commit
    elif commit := _output("git", "rev-parse", "--short=12", "HEAD"):
        changed = _output("git", "status", "--porcelain", "--untracked-files=no", "--", ":!bench")
        found["commit"] = commit + ("+changes" if changed else "")
    return found
