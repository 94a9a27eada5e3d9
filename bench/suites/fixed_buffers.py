"""When does it pay to register memory with a ring (csrc/engine_uring.cc, `FixedBuffers`)?

Reads a cold file past the page cache into one slab of memory, unregistered and registered, in
mirrored rounds. Counts the CPU time of the reads and of the ring's set-up, and takes medians.
"""

from __future__ import annotations

import argparse
import mmap
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import machine
from bench.measure.rounds import rounds
from bench.measure.statistics import paired_difference
from bench.paths import RESULTS
from bench.report.results import write
from fastio import uring

SLAB_BYTES = 2**26  # the slab of the pinned pool, csrc/pinned.cc
FILE_BYTES = 2**30
DEPTH = 8
BLOCKS = (2**23, 2**20)


def _slab(*, huge_pages: bool) -> mmap.mmap:
    memory = mmap.mmap(-1, 2 * SLAB_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE if huge_pages else mmap.MADV_NOHUGEPAGE)
    np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE] = 1
    return memory


def _aligned(memory: mmap.mmap) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a slab that is aligned to a huge page."""
    whole = np.frombuffer(memory, np.uint8)
    begin = -whole.ctypes.data % 2**21
    return whole[begin : begin + SLAB_BYTES]


def read_through(
    fd: int, slab: np.ndarray[Any, np.dtype[np.uint8]], block_bytes: int, *, fixed: bool
) -> dict[str, float]:
    """Read the file once; return the CPU seconds of the reads and of the ring's set-up.

    Raises
    ------
    OSError
        A read failed, or was short.
    """
    parts: Iterator[int] = iter(range(0, FILE_BYTES, block_bytes))
    begun = time.process_time()
    with uring.Ring(DEPTH, buffers=[slab] if fixed else []) as ring:
        ready = time.process_time()

        def queue(tag: int) -> bool:
            offset = next(parts, None)
            if offset is None:
                return False
            place = slab[tag * block_bytes : (tag + 1) * block_bytes]
            ring.read(fd, place, offset, tag=tag)
            return True

        out = sum(queue(tag) for tag in range(DEPTH))
        ring.submit()
        while out:
            for completion in ring.wait():
                if completion.result != block_bytes:
                    raise OSError(f"a read brought {completion.result} of {block_bytes} bytes")
                out += queue(completion.tag) - 1
            ring.submit()
        return {"cpu_s": time.process_time() - ready, "set_up_s": ready - begun}


def measure(path: Path, count: int) -> list[dict[str, Any]]:
    """Return a row for each kind of memory and size of block."""
    rows = []
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        for huge_pages in (True, False):
            slab = _aligned(_slab(huge_pages=huge_pages))
            for block_bytes in BLOCKS:
                found: dict[str, list[dict[str, float]]] = {"as it is": [], "registered": []}
                for order in rounds(tuple(found), count):
                    for name in order:
                        fixed = name == "registered"
                        found[name].append(read_through(fd, slab, block_bytes, fixed=fixed))
                cpu = {name: [each["cpu_s"] for each in of] for name, of in found.items()}
                saved = paired_difference(cpu["as it is"], cpu["registered"])
                set_up = {name: [each["set_up_s"] for each in of] for name, of in found.items()}
                registering = paired_difference(set_up["registered"], set_up["as it is"]).value
                rows.append(
                    {
                        "huge_pages": huge_pages,
                        "block_bytes": block_bytes,
                        "cpu_s": cpu,
                        "registering_s": registering,
                        "saved_s": saved.value,
                        "saved_s_interval": saved.interval,
                        "pays_after_bytes": registering / saved.value * FILE_BYTES
                        if saved.value > 0
                        else None,
                    }
                )
                print(rows[-1])
    finally:
        os.close(fd)
    return rows


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench fixed-buffers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        path = Path(folder) / "data"
        path.write_bytes(np.random.default_rng(1).bytes(FILE_BYTES))
        os.sync()
        here = machine.describe(Path(folder))
        document = {
            "machine": here,
            "slab_bytes": SLAB_BYTES,
            "file_bytes": FILE_BYTES,
            "depth": DEPTH,
            "rows": measure(path, asked.rounds),
        }
    out = asked.out or RESULTS / f"fixed-buffers-{machine.slug(here)}.json"
    write(out, document)
    return 0
