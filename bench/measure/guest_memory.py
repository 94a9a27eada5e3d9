"""Free memory that this machine owns, so that its first touch faults in the guest alone.

A virtual machine may return free pages to its host within seconds (free page reporting, DAMON). The
next touch of such a page faults in the host as well. On the first machine measured, touching
2.47 GB of huge pages took 0.06 s in owned memory, and 0.95 to 5.3 s after the caches were dropped.
Every loader pays for that. fio does not, since it reuses small buffers. So a child process holds
more memory than is measured, and frees it right before the clock starts.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

from bench.errors import MeasureError
from bench.paths import ROOT

HUGE_PAGE_BYTES = 2 * 2**20
# All cores of a small machine, half of a large one's.
THREADS = max(2, (os.cpu_count() or 1) // 2)
# Not in Python's mmap before 3.14; from linux/mman.h, since Linux 5.14.
MADV_POPULATE_WRITE = 23
# A load or a save holds the tensors once or twice, and the page cache may hold the file.
FACTOR = 3
BYTES_MIN = 256 * 2**20
# The share of available memory to hold. The rest stays for files in the page cache.
SHARE_MAX = 0.6
# Orders to the child, and its answer.
FILL, FREE, DONE = b"fill\n", b"free\n", b"done\n"


def wanted_bytes(tensor_bytes: int) -> int:
    """Return the bytes to hold for a measurement of `tensor_bytes`.

    Raises
    ------
    MeasureError
        /proc/meminfo does not have the available memory.
    """
    return min(max(FACTOR * tensor_bytes, BYTES_MIN), int(SHARE_MAX * available_bytes()))


def available_bytes() -> int:
    """Return the kernel's estimate of memory that is available without swapping.

    Raises
    ------
    MeasureError
        /proc/meminfo does not have it.
    """
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise MeasureError("/proc/meminfo has no MemAvailable")


class Ballast:
    """A child that holds memory, and frees it right before a measurement.

    Use as a context manager: `free` before each measurement, `fill` after it. `fill` returns at
    once. The next `free` waits until all memory is held.

    Parameters
    ----------
    tensor_bytes : int
        Of the largest measurement.
    """

    def __init__(self, tensor_bytes: int) -> None:
        self._command = (
            *(sys.executable, "-m", "bench.measure.guest_memory"),
            str(wanted_bytes(tensor_bytes)),
        )

    def __enter__(self) -> Ballast:
        self._start()
        self.fill()
        return self

    def _start(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe
        )
        self._is_filling = False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A child that only fills memory can be killed.
        self._process.kill()
        self._process.communicate()

    def fill(self) -> None:
        """Tell the child to take its memory, without waiting. A dead child is replaced.

        Raises
        ------
        MeasureError
            The child has died. The message has its last output.
        """
        if self._process.poll() is not None:
            self._process.communicate()
            self._start()
        if not self._is_filling:
            self._tell(FILL)
            self._is_filling = True

    def free(self) -> None:
        """Wait until the child has its memory, and tell it to free all.

        Raises
        ------
        MeasureError
            The child has died. The message has its last output.
        """
        self.fill()
        self._is_filling = False
        self._await()
        self._tell(FREE)
        self._await()

    def _tell(self, order: bytes) -> None:
        orders: IO[bytes] | None = self._process.stdin
        assert orders is not None
        try:
            orders.write(order)
            orders.flush()
        except BrokenPipeError:
            self._await()

    def _await(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        if self._process.stdout.readline() != DONE:
            said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            raise MeasureError(f"memory could not be prepared: {''.join(said[-1:])}")


@contextmanager
def populated(nbytes: int) -> Iterator[int]:
    """Hold `nbytes` of touched memory, on huge pages if the kernel has them.

    Yields
    ------
    int
        The bytes held: whole huge pages, at least one for each thread.

    Raises
    ------
    OSError
        The kernel refused.
    """
    part = max(1, nbytes // THREADS // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    memory = mmap.mmap(-1, THREADS * part, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError as error:
        # A kernel without huge pages; small ones are owned as well.
        if error.errno != errno.EINVAL:
            raise
    view = (ctypes.c_char * len(memory)).from_buffer(memory)
    begin = ctypes.addressof(view)
    failures: list[OSError] = []

    def touch(index: int) -> None:
        try:
            _populate_write(begin + index * part, part)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=touch, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A mapping cannot be closed while something points into it.
    del view
    try:
        if failures:
            raise failures[0]
        yield THREADS * part
    finally:
        memory.close()


def _populate_write(address: int, nbytes: int) -> None:
    """Call madvise through ctypes, which releases the interpreter lock."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if libc.madvise(address, nbytes, MADV_POPULATE_WRITE) == 0:
        return
    if ctypes.get_errno() != errno.EINVAL:
        raise OSError(ctypes.get_errno(), "madvise(MADV_POPULATE_WRITE)")
    # Before Linux 5.14.
    ctypes.memset(address, 1, nbytes)


def serve(nbytes: int, orders: IO[bytes], answers: IO[bytes]) -> None:
    """Fill and free on each order, until the orders end."""

    def answer() -> None:
        answers.write(DONE)
        answers.flush()

    while orders.readline() == FILL:
        with populated(nbytes):
            answer()
            if orders.readline() != FREE:
                return
        answer()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
