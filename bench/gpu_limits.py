"""What no load onto a GPU can beat: reading the file into a few buffers again and again, and copies
of pinned memory to the device. Measured as contenders are, between them, each in its own process.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench import answers
from bench.contender import Answer, Attempt, Load, Loader
from bench.gpu import DEVICE

COPY_BYTES = 64 * 2**20
READ_BYTES = 8 * 2**20
# Where fio is not there to search what is best: 128 MiB in flight.
DIRECT_THREADS = 16
_COPIES_IN_TURN = 2


def lanes() -> int:
    """Return how many threads fastio reads with by default (`options.default_lanes`)."""
    return max(2, min(8, len(os.sched_getaffinity(0)) // 2))


class Nothing(Answer):
    """No tensors at all."""

    def digest(self) -> str:
        return ""


def _copies(path: str) -> Mapping[str, Any]:
    import torch

    sources = [
        torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True).fill_(at + 1)
        for at in range(_COPIES_IN_TURN)
    ]
    nbytes = answers.tensor_bytes(Path(path))
    target = torch.empty(nbytes, dtype=torch.uint8, device=DEVICE)
    torch.cuda.synchronize()
    return {"sources": sources, "target": target}


def _copy(attempt: Attempt) -> Mapping[str, Any]:
    import torch

    sources, target = attempt.given["sources"], attempt.given["target"]
    event: Any = torch.cuda.Event  # torch has not typed it
    begin, end = event(enable_timing=True), event(enable_timing=True)
    begin.record()
    for turn, at in enumerate(range(0, len(target), COPY_BYTES)):
        part = target[at : at + COPY_BYTES]
        part.copy_(sources[turn % len(sources)][: len(part)], non_blocking=True)
    end.record()
    end.synchronize()
    # Of the device's own clock; beside it the wall's, which is what loads are compared with.
    attempt.figures["event_s"] = begin.elapsed_time(end) / 1000
    return Nothing()


def _buffers(threads: Callable[[], int]) -> Callable[[str], Mapping[str, Any]]:
    def prepare(path: str) -> Mapping[str, Any]:
        made = [mmap.mmap(-1, READ_BYTES) for _ in range(threads())]
        for buffer in made:
            buffer.write(bytes([1]) * READ_BYTES)  # its pages are there
        return {"buffers": made}

    return prepare


def _read(flags: int) -> Load:
    def load(attempt: Attempt) -> Mapping[str, Any]:
        buffers = attempt.given["buffers"]
        nbytes = os.stat(attempt.path).st_size
        descriptor = os.open(attempt.path, os.O_RDONLY | flags)

        def every_nth(first: int) -> int:
            view = memoryview(buffers[first])
            # Whole blocks, also at the end: a direct read is of no other length.
            return sum(
                os.preadv(descriptor, [view], at)
                for at in range(first * READ_BYTES, nbytes, len(buffers) * READ_BYTES)
            )

        try:
            with ThreadPoolExecutor(len(buffers)) as pool:
                found = sum(pool.map(every_nth, range(len(buffers))))
        finally:
            os.close(descriptor)
        if found != nbytes:
            raise OSError(f"{attempt.path}: read {found} of {nbytes} bytes")
        return Nothing()

    return load


LIMITS = (
    Loader(
        "copy-pinned",
        "pinned memory to the device, copies of 64 MiB",
        ("torch",),
        _copy,
        place="nowhere",
        prepare=_copies,
    ),
    Loader(
        "direct-read",
        f"preadv, O_DIRECT, {DIRECT_THREADS} threads of 8 MiB",
        (),
        _read(os.O_DIRECT),
        place="nowhere",
        prepare=_buffers(lambda: DIRECT_THREADS),
    ),
    Loader(
        "cache-read",
        "preadv from the page cache, as many threads as lanes",
        (),
        _read(0),
        place="nowhere",
        prepare=_buffers(lanes),
    ),
)
NAMES = tuple(limit.name for limit in LIMITS)
