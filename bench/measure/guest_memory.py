"""Free memory that this machine owns, so that the first touch of it costs a fault and no more.

A virtual machine may give its free pages back to its host within seconds (free page reporting,
DAMON). Touching such a page again faults in the host as well. On the first machine measured,
2.47 GB of huge pages took 0.06 s where the guest still owned its free memory, and 0.95 to 5.3 s
just after it had dropped its caches. Every loader pays that and fio, which re-uses small buffers,
does not. So a child holds more memory than is measured, and frees it right before the clock starts.
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
# All cores of a small machine, half of those of a large one.
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
    """Return how much memory to hold for a measurement of so many bytes of tensors.

    Raises
    ------
    MeasureError
        /proc/meminfo does not say how much there is.
    """
    return min(max(FACTOR * tensor_bytes, BYTES_MIN), int(SHARE_MAX * available_bytes()))


def available_bytes() -> int:
    """Return the kernel's estimate of what can be had without swapping.

    Raises
    ------
    MeasureError
        /proc/meminfo does not say.
    """
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise MeasureError("/proc/meminfo has no MemAvailable")


class Ballast:
    """A child that holds memory, and frees it when a measurement is about to begin.

    Use as a context manager: `free` before each measurement, `fill` after it. `fill` returns at
    once; the next `free` waits until all is there.

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
        # A child that fills has nothing to lose.
        self._process.kill()
        self._process.communicate()

    def fill(self) -> None:
        """Have the child take its memory, while the caller goes on; a dead one is replaced.

        Raises
        ------
        MeasureError
            The child has died meanwhile; its own words are in it.
        """
        if self._process.poll() is not None:
            self._process.communicate()
            self._start()
        if not self._is_filling:
            self._tell(FILL)
            self._is_filling = True

    def free(self) -> None:
        """Wait until the child has its memory, and have it freed.

        Raises
        ------
        MeasureError
            The child has died; its own words are in it.
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
    """Hold so many bytes of memory that was touched, of huge pages where there are some.

    Yields
    ------
    int
        The bytes that are held: whole huge pages, one at least for each thread.

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
        # A kernel without huge pages: small ones are owned as well.
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
    """madvise by way of ctypes, which releases Python's lock meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if libc.madvise(address, nbytes, MADV_POPULATE_WRITE) == 0:
        return
    if ctypes.get_errno() != errno.EINVAL:
        raise OSError(ctypes.get_errno(), "madvise(MADV_POPULATE_WRITE)")
    # Before Linux 5.14.
    ctypes.memset(address, 1, nbytes)


def serve(nbytes: int, orders: IO[bytes], answers: IO[bytes]) -> None:
    """Fill and free as told, until the orders end."""

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
