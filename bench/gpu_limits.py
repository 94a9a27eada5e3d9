"""What no load onto a GPU can beat: copies of pinned memory to the device, and reads of a warm file
from the page cache. Measured as contenders are, between them, each in its own process. What storage
gives is one of `limits`.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench import answers, gpu
from bench.contender import Answer, Attempt, Loader

COPY_BYTES = 64 * 2**20
READ_BYTES = 8 * 2**20
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

    pinned = not gpu.is_rehearsal()
    sources = [
        torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=pinned).fill_(at + 1)
        for at in range(_COPIES_IN_TURN)
    ]
    nbytes = answers.tensor_bytes(Path(path))
    target = torch.empty(nbytes, dtype=torch.uint8, device=gpu.device())
    if pinned:
        torch.cuda.synchronize()
    return {"sources": sources, "target": target}


def _copy(attempt: Attempt) -> Mapping[str, Any]:
    import torch

    sources, target = attempt.given["sources"], attempt.given["target"]
    begin = time.perf_counter()
    for turn, at in enumerate(range(0, len(target), COPY_BYTES)):
        part = target[at : at + COPY_BYTES]
        part.copy_(sources[turn % len(sources)][: len(part)], non_blocking=True)
    if not gpu.is_rehearsal():
        torch.cuda.synchronize()
    attempt.figures["copy_s"] = time.perf_counter() - begin
    return Nothing()


def _buffers(path: str) -> Mapping[str, Any]:
    made = [mmap.mmap(-1, READ_BYTES) for _ in range(lanes())]
    for buffer in made:
        buffer.write(bytes([1]) * READ_BYTES)  # its pages are there
    return {"buffers": made}


def _read(attempt: Attempt) -> Mapping[str, Any]:
    buffers = attempt.given["buffers"]
    nbytes = os.stat(attempt.path).st_size
    descriptor = os.open(attempt.path, os.O_RDONLY)

    def every_nth(first: int) -> int:
        view = memoryview(buffers[first])
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
        "cache-read",
        "preadv from the page cache, as many threads as lanes",
        (),
        _read,
        place="nowhere",
        prepare=_buffers,
    ),
)
NAMES = tuple(limit.name for limit in LIMITS)
