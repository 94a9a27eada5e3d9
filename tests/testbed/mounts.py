"""Filesystems made for a test: ext4 and XFS on a loop device, tmpfs.

Everything is mounted in a mount namespace of the test process alone: so it is gone with the process
even after SIGKILL. A loop device detaches itself when its filesystem goes.
"""

import contextlib
import ctypes
import fcntl
import gc
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.requirements import (
    require_root,
    require_tools,
    run_tool,
    run_tool_or_skip,
)

_CLONE_NEWNS = 0x00020000
_MS_REC_PRIVATE = 16384 | (1 << 18)
_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878  # linux/fs.h
_MAKE = {
    # Without a journal, a disk that fails later gets no writes in the background.
    "ext4": ("mkfs.ext4", "-q", "-F", "-O", "^has_journal"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}


@dataclass(frozen=True)
class Mount:
    """A mounted filesystem; `device` and `backing` are None if it has none."""

    path: Path
    kind: str
    device: Path | None = None
    backing: Path | None = None


def enter_private_mounts() -> bool:
    """Give this process its own mount namespace; False if the machine does not allow it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 or libc.unshare(_CLONE_NEWNS) != 0:
        return False
    return int(libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None)) == 0


@contextlib.contextmanager
def loop_mount(
    folder: Path, kind: Literal["ext4", "xfs"], *, nbytes: int = 1 << 30
) -> Iterator[Mount]:
    """Mount a fresh filesystem on a loop device with a sparse file behind it.

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
    require_root(f"mounts {kind} on a loop device")
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
        finally:
            # While it is mounted this only marks the loop device; the last unmount detaches it.
            run_tool("losetup", "-d", device)
        try:
            yield Mount(path, kind, Path(device), backing)
        finally:
            unmount(path)
    finally:
        backing.unlink(missing_ok=True)
        path.rmdir()


def attach(backing: Path) -> str:
    """Return a loop device over a file, with direct I/O if the file allows it.

    Raises
    ------
    pytest.skip.Exception
        If the machine has no loop devices.
    """
    attach = ("losetup", "--find", "--show", "--direct-io=on", str(backing))
    try:
        return run_tool(*attach).strip()
    except RuntimeError:  # a backing file on a tmpfs has no direct I/O
        return run_tool_or_skip(*(word for word in attach if "direct" not in word)).strip()


@contextlib.contextmanager
def overlay_mount(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Mount an overlay, as container images are; yield its path and that of its lower layer.

    Parameters
    ----------
    folder
        An empty folder for the layers and the mount point.

    Raises
    ------
    pytest.skip.Exception
        If the process is not root's, or the machine cannot mount an overlay there.
    """
    require_root("mounts an overlay")
    path, lower, upper, work = (folder / name for name in ("mnt", "lower", "upper", "work"))
    for each in (path, lower, upper, work):
        each.mkdir()
    layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
    run_tool_or_skip("mount", "-t", "overlay", "overlay", "-o", layers, str(path))
    try:
        yield path, lower
    finally:
        unmount(path)


@contextlib.contextmanager
def tmpfs_mount(folder: Path, *, nbytes: int = 512 << 20) -> Iterator[Mount]:
    """Mount a tmpfs of at most `nbytes` bytes on `folder`/mnt.

    Raises
    ------
    pytest.skip.Exception
        If the process is not root's, or the machine does not allow it.
    """
    require_root("mounts a tmpfs")
    path = folder / "mnt"
    path.mkdir()
    try:
        run_tool_or_skip("mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(path))
        try:
            yield Mount(path, "tmpfs")
        finally:
            unmount(path)
    finally:
        path.rmdir()


@contextlib.contextmanager
def frozen(mount: Mount) -> Iterator[None]:
    """Make a filesystem hang on writes and answer reads."""
    folder = os.open(mount.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(folder, _FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(folder, _FITHAW, 0)
    finally:
        os.close(folder)


def unmount(path: Path) -> None:
    """Unmount `path`; files that a failed test still holds open there delay the unmount.

    Raises
    ------
    RuntimeError
        If not even a lazy unmount works.
    """
    gc.collect()  # tensors of an earlier test may map files here
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        with contextlib.suppress(RuntimeError):
            run_tool("umount", str(path))
            return
        time.sleep(0.05)
    run_tool("umount", "--lazy", str(path))
