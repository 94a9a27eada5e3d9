"""Bad disks: one that gives EIO from some offset on, one that is slow."""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.mounts import loop_mount
from testbed.requirements import require_root
from testbed.residency import evict

_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP_HEADER = struct.Struct("=QQIIII")  # start, length, flags, mapped, count, reserved
_FIEMAP_EXTENT = struct.Struct(
    "=QQQQQIIII"
)  # logical, physical, length, reserved x 2, flags, reserved x 3
_EXTENTS_MAX = 256
_BLKIO = Path("/sys/fs/cgroup/blkio")


@dataclass(frozen=True)
class FailingMount:
    """A filesystem whose disk can be made to fail; write its files first."""

    path: Path
    backing: Path

    def fail_from(self, file: Path, offset: int = 0) -> None:
        """From now on, reads of `file` at or past `offset` (rounded down to 4096) give EIO.

        Later offsets of the disk fail too: as a rule, files written later.

        Raises
        ------
        ValueError
            If the file lies on the disk in such pieces that earlier bytes would fail as well.
        OSError
            If the file is not on this mount, or its pages do not leave the page cache.
        """
        fd = os.open(file, os.O_RDONLY)
        try:
            os.fsync(fd)
            extents = _extents(fd)
        finally:
            os.close(fd)
        offset -= offset % 4096
        at = [
            physical + offset - begin
            for begin, physical, n in extents
            if begin <= offset < begin + n
        ]
        before = [
            physical + min(n, offset - begin) for begin, physical, n in extents if begin < offset
        ]
        after = [physical for begin, physical, _ in extents if begin > offset]
        if (
            len(at) != 1
            or any(end > at[0] for end in before)
            or any(start < at[0] for start in after)
        ):
            raise ValueError(f"{file} is scattered over the disk: {extents}")
        os.sync()
        evict(file)  # before: a sync afterwards, if only of a journal, may fail
        os.truncate(self.backing, at[0])


def _extents(fd: int) -> list[tuple[int, int, int]]:
    """(offset in the file, offset on the disk, nbytes) of each piece of a file."""
    request = bytearray(_FIEMAP_HEADER.size + _EXTENTS_MAX * _FIEMAP_EXTENT.size)
    _FIEMAP_HEADER.pack_into(request, 0, 0, (1 << 64) - 1, 1, 0, _EXTENTS_MAX, 0)
    fcntl.ioctl(fd, _FS_IOC_FIEMAP, request)
    mapped = _FIEMAP_HEADER.unpack_from(request)[3]
    found = (
        _FIEMAP_EXTENT.unpack_from(request, _FIEMAP_HEADER.size + i * _FIEMAP_EXTENT.size)[:3]
        for i in range(mapped)
    )
    return [(begin, physical, nbytes) for begin, physical, nbytes in found]


@contextlib.contextmanager
def failing_mount(folder: Path, *, nbytes: int = 256 << 20) -> Iterator[FailingMount]:
    """Mount an ext4 on a loop device that `FailingMount.fail_from` breaks by truncating its file.

    Raises
    ------
    pytest.skip.Exception
        As `loop_mount`.
    """
    with loop_mount(folder, "ext4", nbytes=nbytes) as mount:
        assert mount.backing is not None
        yield FailingMount(mount.path, mount.backing)


@contextlib.contextmanager
def throttled(path: Path, read_bytes_s: int) -> Iterator[None]:
    """Let this process read from the disk under `path` at `read_bytes_s` bytes a second at most.

    Raises
    ------
    pytest.skip.Exception
        If the process is not root's, there is no blkio controller (cgroup v1), or no disk under
        `path`.
    """
    require_root("throttles a disk through a cgroup")
    if not (_BLKIO / "blkio.throttle.read_bps_device").exists():
        pytest.skip("needs the blkio controller of cgroup v1")
    disk = _whole_disk(path)
    group = _BLKIO / f"fastio-test-{os.getpid()}"
    before = _own_group()
    group.mkdir()
    try:
        limit = group / "blkio.throttle.read_bps_device"
        limit.write_text(f"{disk} {read_bytes_s}\n", encoding="ascii")
        _move_to(group)
        try:
            yield
        finally:
            limit.write_text(f"{disk} 0\n", encoding="ascii")  # for reads that still wait
            _move_to(before)
    finally:
        group.rmdir()


def _whole_disk(path: Path) -> str:
    number = os.stat(path).st_dev
    node = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not node.exists():
        pytest.skip(f"no block device of its own under {path}")
    node = node.resolve()
    disk = node.parent if (node / "partition").exists() else node
    return (disk / "dev").read_text(encoding="ascii").strip()


def _own_group() -> Path:
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if "blkio" in controllers.split(","):
            return _BLKIO / path.lstrip("/")
    pytest.skip("the process is in no blkio group")


def _move_to(group: Path) -> None:
    (group / "cgroup.procs").write_text(f"{os.getpid()}\n", encoding="ascii")
