"""The page cache: the part of a file that is in it, and ways to load or evict a file."""

import contextlib
import ctypes
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

from testbed.requirements import require_root

_libc = ctypes.CDLL(None, use_errno=True)
_MLOCK_ONFAULT = 1  # <linux/mman.h>
_TRIES = 100
_READ_BYTES = 1 << 20
_CACHESTAT = 451  # the same number on every architecture; Linux 6.5 and newer


class _CacheRange(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("nbytes", ctypes.c_uint64))


class _CacheStat(ctypes.Structure):
    _fields_ = (
        ("cached", ctypes.c_uint64),
        ("dirty", ctypes.c_uint64),
        ("writeback", ctypes.c_uint64),
        ("evicted", ctypes.c_uint64),
        ("recently_evicted", ctypes.c_uint64),
    )


def resident_bytes(path: str | os.PathLike[str]) -> int:
    """The number of bytes of a file in the page cache, in whole pages (may exceed the file's size).

    Raises
    ------
    OSError
        If the file cannot be opened, or the kernel will not say: one needs to own the file or to be
        allowed to write it.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        everything, found = _CacheRange(0, 0), _CacheStat()
        if _libc.syscall(_CACHESTAT, fd, ctypes.byref(everything), ctypes.byref(found), 0) == 0:
            return int(found.cached) * mmap.PAGESIZE
        if ctypes.get_errno() != 38:  # ENOSYS
            raise OSError(ctypes.get_errno(), "cachestat", os.fspath(path))
        return _resident_bytes_by_mincore(fd)
    finally:
        os.close(fd)


def _resident_bytes_by_mincore(fd: int) -> int:
    nbytes = os.fstat(fd).st_size
    if nbytes == 0:
        return 0
    # from_buffer needs a writable mapping: a private one is, although the descriptor is not.
    with mmap.mmap(fd, nbytes, flags=mmap.MAP_PRIVATE) as mapping:
        first = ctypes.c_char.from_buffer(mapping)
        pages = (ctypes.c_ubyte * -(-nbytes // mmap.PAGESIZE))()
        failed = _libc.mincore(ctypes.byref(first), ctypes.c_size_t(nbytes), pages)
        code = ctypes.get_errno()
        del first
    if failed:
        raise OSError(code, "mincore")
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


@contextlib.contextmanager
def kept_warm(path: str | os.PathLike[str], nbytes: int | None = None) -> Iterator[None]:
    """Keep a file in the page cache: it is locked there, whatever the machine reclaims meanwhile.

    If the process may not lock that much memory, the file is only warmed. With `nbytes`, only the
    first `nbytes` bytes are brought in.

    Raises
    ------
    OSError
        If it cannot be read or mapped.
    AssertionError
        If they are not all in the page cache.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        if nbytes is None:
            nbytes = os.fstat(fd).st_size
        mapping = mmap.mmap(fd, nbytes, flags=mmap.MAP_PRIVATE)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no readahead
        for at in range(0, nbytes, _READ_BYTES):  # many pages at a time
            os.pread(fd, min(_READ_BYTES, nbytes - at), at)
    finally:
        os.close(fd)
    with mapping:
        mapping.madvise(mmap.MADV_RANDOM)
        first = ctypes.c_char.from_buffer(mapping)
        # Locking touched pages only keeps them the file's own.
        _libc.mlock2(ctypes.byref(first), ctypes.c_size_t(nbytes), _MLOCK_ONFAULT)
        for page in range(0, nbytes, mmap.PAGESIZE):
            mapping[page]
        del first
        assert resident_bytes(path) >= nbytes, f"{os.fspath(path)} is not in the page cache"
        yield


def evict(path: str | os.PathLike[str]) -> None:
    """Evict a file from the page cache, and check that it is gone. No privilege is needed.

    Raises
    ------
    OSError
        If it cannot be opened or synced.
    AssertionError
        If pages of it stay: a tmpfs keeps its files nowhere else, and a mapping holds its pages.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)  # dirty pages are not dropped
        # Pages may be held for a moment: in a processor's own list, or by a reclaim.
        for _ in range(_TRIES):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if (left := resident_bytes(path)) == 0:
                return
            time.sleep(0.005)
    finally:
        os.close(fd)
    raise AssertionError(f"{left} bytes of {path} stay in the page cache")


def drop_caches() -> None:
    """Empty the page cache of the whole machine.

    Raises
    ------
    pytest.skip.Exception
        If the process is not root's.
    OSError
        If the kernel's switch is not there.
    """
    require_root("drops the page cache of the machine")
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
