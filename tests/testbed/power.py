"""Power cuts: a journalling filesystem on a loop device that stops at once and is mounted anew."""

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.mounts import attach, unmount
from testbed.requirements import require_root, require_tools, run_tool, run_tool_or_skip

_FS_IOC_SHUTDOWN = 0x8004587D
_WITHOUT_THE_LOG = 2
_MAKE = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}


@dataclass(frozen=True)
class PowerMount:
    """A filesystem whose power can be cut.

    Bytes that have not reached the disk are lost; those in the disk's own cache are not.
    """

    path: Path
    kind: str
    device: str

    def cut(self) -> None:
        """From now on nothing reaches the disk; every call on a file fails."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _FS_IOC_SHUTDOWN, struct.pack("I", _WITHOUT_THE_LOG))
        finally:
            os.close(fd)

    def restart(self) -> None:
        """Mount it again, as after a power cut.

        Raises
        ------
        RuntimeError
            If something still holds a file there, or the filesystem cannot be mounted any more.
        """
        _unmount(self.path)
        run_tool("mount", "-o", "noatime", self.device, str(self.path))


def _unmount(path: Path) -> None:
    """A killed or failed process closes its files a moment later."""
    end = time.monotonic() + 20
    while True:
        try:
            run_tool("umount", str(path))
        except RuntimeError as error:
            if "busy" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


@contextlib.contextmanager
def power_mount(
    folder: Path, kind: Literal["ext4", "xfs"], *, nbytes: int = 320 << 20
) -> Iterator[PowerMount]:
    """Mount a fresh filesystem, with its journal, on a loop device with a sparse file behind it.

    Parameters
    ----------
    folder
        An empty folder for the backing file and the mount point; emptied again afterwards.
    kind
        "ext4" or "xfs".
    nbytes
        Size of the filesystem in bytes; XFS wants at least 300 MiB.

    Raises
    ------
    pytest.skip.Exception
        If the process is not root's, a program is missing, or the machine has no loop devices.
    """
    require_root(f"cuts the power of an {kind} on a loop device")
    require_tools("losetup", "mount", _MAKE[kind][0])
    backing, path = folder / f"{kind}.image", folder / "mnt"
    path.mkdir()
    try:
        with backing.open("wb") as file:
            file.truncate(nbytes)
        device = attach(backing)
        try:
            run_tool(*_MAKE[kind], device)
            run_tool_or_skip("mount", "-o", "noatime", device, str(path))
            try:
                yield PowerMount(path, kind, device)
            finally:
                unmount(path)
        finally:
            run_tool("losetup", "-d", device)
    finally:
        backing.unlink(missing_ok=True)
        path.rmdir()
