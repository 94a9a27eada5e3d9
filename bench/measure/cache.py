"""The page cache: evict a file, read it in, and ask the kernel which of its pages are resident.

A cold figure of a half resident file is worthless. So an unknown state is an error.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import time
from pathlib import Path

from bench.measure import machine

PAGE_BYTES = mmap.PAGESIZE
# The same number on every architecture, since Linux 6.5.
CACHESTAT = 451
ATTEMPTS = 20


class CacheError(RuntimeError):
    """The page cache is not in the state that a measurement needs."""


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("nbytes", ctypes.c_uint64))


class _Statistics(ctypes.Structure):
    _fields_ = (
        ("cached", ctypes.c_uint64),
        ("dirty", ctypes.c_uint64),
        ("writeback", ctypes.c_uint64),
        ("evicted", ctypes.c_uint64),
        ("recently_evicted", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


def page_count(path: Path) -> int:
    """Return how many pages the file has."""
    return -(-path.stat().st_size // PAGE_BYTES)


def resident_pages(path: Path) -> int:
    """Return how many pages of the file are in the page cache.

    Raises
    ------
    CacheError
        The caller neither owns the file nor may write it: mincore would call every page resident.
    OSError
        The file could not be opened, or the kernel refused both cachestat and mincore.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # On an overlay the pages belong to the file below, which cachestat ignores.
        if machine.filesystem(path.parent) == "overlay":
            return _resident_pages_mincore(descriptor, path)
        # A length of zero reaches to the end of the file.
        everything, found = _Range(0, 0), _Statistics()
        arguments = (descriptor, ctypes.byref(everything), ctypes.byref(found), 0)
        if _libc.syscall(CACHESTAT, *arguments) == 0:
            return int(found.cached)
        if ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP):
            raise OSError(ctypes.get_errno(), "cachestat", str(path))
        return _resident_pages_mincore(descriptor, path)
    finally:
        os.close(descriptor)


def _resident_pages_mincore(descriptor: int, path: Path) -> int:
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() and not os.access(path, os.W_OK):
        raise CacheError(f"{path}: the kernel tells its residency only to its owner or a writer")
    if status.st_size == 0:
        return 0
    address = _libc.mmap(None, status.st_size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap", str(path))
    try:
        pages = (ctypes.c_ubyte * page_count(path))()
        if _libc.mincore(address, status.st_size, pages) != 0:
            raise OSError(ctypes.get_errno(), "mincore", str(path))
        return sum(page & 1 for page in bytes(pages))
    finally:
        _libc.munmap(address, status.st_size)


def evict(path: Path) -> None:
    """Evict the file from the page cache.

    posix_fadvise needs no rights and concerns this file alone. The program under test keeps its
    code in memory, and the rest of the memory stays prepared.

    Raises
    ------
    CacheError
        Some pages stay, for example because a process maps them.
    """
    for attempt in range(ATTEMPTS):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if attempt:
                # Dirty pages stay, and pages that an exiting process has mapped.
                os.fsync(descriptor)
                time.sleep(0.05)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        if resident_pages(path) == 0:
            return
    raise CacheError(
        f"{path}: {resident_pages(path)} of {page_count(path)} pages stay in the page cache"
    )


def populate(path: Path) -> None:
    """Read the whole file into the page cache, unless it is resident.

    Raises
    ------
    CacheError
        Pages do not stay, for example because memory is short.
    """
    for _ in range(3):
        if is_resident(path):
            return
        buffer = bytearray(4 * 2**20)
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    raise CacheError(
        f"{path}: only {resident_pages(path)} of {page_count(path)} pages stay in the page cache"
    )


def is_resident(path: Path) -> bool:
    """Whether every page of the file is in the page cache."""
    return resident_pages(path) == page_count(path)
