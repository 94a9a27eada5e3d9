"""Limits of a load onto a GPU: copies from pinned memory, and reads from the page cache.

They are measured as contenders are, each in its own process. `limits` has the limit of storage.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.contenders.contender import Answer, Attempt, Loader
from bench.measure import answers, gpu

COPY_BYTES = 64 * 2**20
READ_BYTES = 8 * 2**20
_COPIES_IN_TURN = 2


def lanes() -> int:
    """Return how many threads fastio reads with by default (`options.default_lanes`)."""
    return max(2, min(16, len(os.sched_getaffinity(0)) * 3 // 4))


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


def buffers(count: int) -> list[mmap.mmap]:
    """Return buffers of 8 MiB with their pages allocated, one for each thread of `read_all`."""
    made = [mmap.mmap(-1, READ_BYTES) for _ in range(count)]
    for buffer in made:
        buffer.write(bytes([1]) * READ_BYTES)
    return made


def read_all(path: str | Path, into: Sequence[mmap.mmap], flags: int = 0) -> None:
    """Read a file once, with a thread for each buffer.

    Raises
    ------
    OSError
        The file could not be read, or not to its end.
    """
    nbytes = os.stat(path).st_size
    descriptor = os.open(path, os.O_RDONLY | flags)

    def every_nth(first: int) -> int:
        view = memoryview(into[first])
        # Direct reads have the length of whole blocks, at the end too.
        return sum(
            os.preadv(descriptor, [view], at)
            for at in range(first * READ_BYTES, nbytes, len(into) * READ_BYTES)
        )

    try:
        with ThreadPoolExecutor(len(into)) as pool:
            found = sum(pool.map(every_nth, range(len(into))))
    finally:
        os.close(descriptor)
    if found != nbytes:
        raise OSError(f"{path}: read {found} of {nbytes} bytes")


def _buffers(path: str) -> Mapping[str, Any]:
    return {"buffers": buffers(lanes())}


def _read(attempt: Attempt) -> Mapping[str, Any]:
    read_all(attempt.path, attempt.given["buffers"])
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
